"""Files in directories of root: copies with a checksum and atomic writes.

Files that Redis uses get its owner. For directories in which Redis can write see untrusted_files.py.
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from redisctl.core import process, progress
from redisctl.core.errors import Failure
from redisctl.core.formatting import size

RDB_FILE = "dump.rdb"
CHUNK = 1024**2
# Bytes to leave free on a disk.
DISK_MARGIN = 64 * 1024**2
# Seconds for the kernel to write everything that Redis and others have written.
_SYNC_TIMEOUT = 600


def checksum(file: BinaryIO) -> str:
    """Return the SHA-256 of an open file."""
    digest = hashlib.sha256()
    checked, total = 0, os.fstat(file.fileno()).st_size
    for chunk in chunks(file):
        digest.update(chunk)
        checked += len(chunk)
        progress.report(f"checking {Path(str(file.name)).name}: {size(checked)} of {size(total)}")
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
    """Copy an open file to a new file, as ``copy_open`` does."""
    with target.open("xb") as file:
        return copy_open(source, length, file)


def copy_open(source: BinaryIO, length: int | None, target: BinaryIO) -> dict[str, Any]:
    """Copy an open file's present contents, or its first bytes, to the disk.

    ``length`` is the number of bytes. Returns size and checksum. Raises OSError, and Failure if the file is shorter, or
    larger than the free space.
    """
    length = os.fstat(source.fileno()).st_size if length is None else length
    # A sparse file may be larger than any disk.
    ensure_space(Path(target.name).parent, length)
    digest = hashlib.sha256()
    copied = 0
    for chunk in chunks(source, length):
        target.write(chunk)
        digest.update(chunk)
        copied += len(chunk)
        progress.report(f"copying {Path(str(source.name)).name}: {size(copied)} of {size(length)}")
    target.flush()
    os.fsync(target.fileno())
    os.posix_fadvise(target.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if copied != length:
        name = Path(source.name).name
        raise Failure(f"{name} ended after {copied} of {length} bytes: something changed Redis's data files")
    return {"size": copied, "sha256": digest.hexdigest()}


def ensure_space(directory: Path, needed: int, what: str = "a copy") -> None:
    """Raise Failure if the disk of a directory has no room for more bytes.

    Some space stays free next to them. ``what`` names what takes them. Raises OSError.
    """
    space = os.statvfs(directory)
    free = space.f_bavail * space.f_frsize
    if free < needed + DISK_MARGIN:
        raise Failure(
            f"{directory}: {size(free)} free, and {what} takes up to {size(needed + DISK_MARGIN)}: free some space"
        )


def write_json(path: Path, value: Any, owner: tuple[int, int]) -> None:
    """Write a small JSON file atomically, readable by its owner (uid, gid) alone.

    Raises OSError.
    """
    uid, gid = owner
    write_file(path, json.dumps(value, indent=2) + "\n", mode=0o400, uid=uid, gid=gid)


def own(path: Path, owner: tuple[int, int]) -> None:
    """Set the owner (uid, gid) and the mode of a file or directory of a backup.

    Follows no link and waits for no FIFO. Raises OSError for them.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "neither a file nor a directory", str(path))
        os.fchmod(descriptor, 0o700 if stat.S_ISDIR(mode) else 0o400)
        os.fchown(descriptor, *owner)
    finally:
        os.close(descriptor)


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
