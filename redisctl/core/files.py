"""Files: copies with a checksum, atomic writes, and reads that follow no links.

Files that Redis uses get its owner.
"""

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from redisctl.core import process
from redisctl.core.errors import Failure

RDB_FILE = "dump.rdb"
# Owner of data and backups: the redis user of the containers that load them.
REDIS_UID = REDIS_GID = 999
CHUNK = 1024**2
# Seconds for the kernel to write everything that Redis and others have written.
_SYNC_TIMEOUT = 600


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in chunks(file):
            digest.update(chunk)
    return digest.hexdigest()


def chunks(file: BinaryIO, length: int | None = None) -> Iterator[bytes]:
    """Yield a file's bytes, at most ``length``.

    Keeps them out of the page cache, which Redis needs.
    """
    remaining = length
    while remaining is None or remaining > 0:
        chunk = file.read(CHUNK if remaining is None else min(CHUNK, remaining))
        if not chunk:
            break
        if remaining is not None:
            remaining -= len(chunk)
        yield chunk
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy(source: BinaryIO, length: int | None, target: Path) -> dict[str, Any]:
    """Copy an open file, or its first ``length`` bytes, to the disk.

    Returns size and checksum. Raises OSError, and Failure if the file is shorter.
    """
    digest = hashlib.sha256()
    size = 0
    with target.open("xb") as file:
        for chunk in chunks(source, length):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if length is not None and size != length:
        raise Failure(f"{target.name} ended after {size} of {length} bytes: something changed Redis's data files")
    return {"size": size, "sha256": digest.hexdigest()}


def write_json(path: Path, value: Any, *, uid: int = REDIS_UID, gid: int = REDIS_GID) -> None:
    """Write a small JSON file atomically, readable by its owner alone.

    Raises OSError.
    """
    write_file(path, json.dumps(value, indent=2) + "\n", mode=0o400, uid=uid, gid=gid)


def own(path: Path) -> None:
    """Set the owner and the mode of a file or directory of a backup."""
    path.chmod(0o700 if path.is_dir() else 0o400)
    os.chown(path, REDIS_UID, REDIS_GID)


def fsync_directory(path: Path) -> None:
    """Bring the names in a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_small(path: Path, limit: int) -> str:
    """Return the beginning of a regular file as text; empty if there is none.

    Follows no link and waits for no FIFO.
    """
    data = _read(path, 0, limit)
    return data.decode(errors="replace")


def read_end(path: Path, start: int, limit: int) -> str:
    """Return a regular file's text from an offset, at most its last ``limit`` bytes.

    Follows no link.
    """
    try:
        size = path.lstat().st_size
    except OSError:
        return ""
    # A file that was rotated is shorter than before.
    offset = start if start <= size else 0
    return _read(path, max(offset, size - limit), limit).decode(errors="replace")


def _read(path: Path, offset: int, limit: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        return os.pread(descriptor, limit, offset)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def open_inside(directory: Path, *names: str) -> BinaryIO:
    """Open a regular file below a directory in which Redis can write.

    Follows no link and waits for no FIFO. ``names`` lead from the directory to the file. They may be answers of Redis,
    so none of them may leave the directory. Raises OSError.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    path = directory
    try:
        for depth, name in enumerate(names, 1):
            _ensure_plain(name, path)
            path /= name
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            inner = _open_at(name, flags | (os.O_DIRECTORY if depth < len(names) else 0), descriptor, path)
            os.close(descriptor)
            descriptor = inner
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return open(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def list_inside(directory: Path, name: str) -> list[str]:
    """Return the names in a subdirectory that Redis owns; none if it does not exist.

    Follows no link. Raises OSError.
    """
    _ensure_plain(name, directory)
    try:
        descriptor = os.open(directory / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return []
    try:
        return os.listdir(descriptor)
    finally:
        os.close(descriptor)


def _ensure_plain(name: str, directory: Path) -> None:
    """Raise OSError unless a name is that of an entry of its directory."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise OSError(errno.EINVAL, f"{name!r} is not the name of a file", str(directory))


def _open_at(name: str, flags: int, directory: int, path: Path) -> int:
    try:
        return os.open(name, flags, dir_fd=directory)
    except OSError as error:
        reason = "a symbolic link, which is not followed" if error.errno == errno.ELOOP else error.strerror
        raise OSError(error.errno, reason, str(path)) from None


def write_file(path: Path, text: str, *, mode: int, uid: int, gid: int) -> None:
    """Write a small file atomically to the disk, with its owner and mode.

    Raises OSError.
    """
    partial = path.with_name(f".{path.name}.new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    partial.replace(path)
    fsync_directory(path.parent)


def copy_owner(source: Path, target: Path) -> None:
    """Give a copy the owner and the mode of its source. Raises OSError."""
    status = source.lstat()
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    if not target.is_symlink():
        target.chmod(status.st_mode & 0o7777)


def sync(path: Path) -> None:
    """Bring everything on the file system of a path to the disk. Raises Failure."""
    process.check(["sync", "--file-system", str(path)], timeout=_SYNC_TIMEOUT)


def make_owned_directory(path: Path) -> None:
    """Create a directory that belongs to Redis. Raises OSError."""
    path.mkdir(mode=0o700)
    os.chown(path, REDIS_UID, REDIS_GID)


def disk_usage(path: Path) -> int:
    """Return the bytes that a file or directory takes on disk.

    Follows no link. A file that is missing, or is removed during the count, counts as nothing. Raises OSError.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return 0
    total = status.st_blocks * 512
    if not stat.S_ISDIR(status.st_mode):
        return total
    for _, directories, names, descriptor in os.fwalk(path, onerror=_raise_unless_missing):
        for name in (*directories, *names):
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_blocks * 512
    return total


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
