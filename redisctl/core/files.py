"""Files on disk: copied with their checksum, written whole, given to Redis."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from redisctl.core.errors import Failure

RDB_FILE = "dump.rdb"


# Whom the files belong to: Redis, in containers that load them and see them read-only.
REDIS_UID = REDIS_GID = 999
CHUNK = 1024**2


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    taken = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in chunks(file):
            taken.update(chunk)
    return taken.hexdigest()


def chunks(file: BinaryIO, length: int | None = None) -> Iterator[bytes]:
    """A file's bytes, up to ``length``. It does not push what Redis needs out of the page cache."""
    left = length
    while left is None or left > 0:
        chunk = file.read(CHUNK if left is None else min(CHUNK, left))
        if not chunk:
            break
        if left is not None:
            left -= len(chunk)
        yield chunk
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy(source: BinaryIO, length: int | None, target: Path) -> dict[str, Any]:
    """Copy the beginning of an open file, down to the disk, and say its size and checksum. Raises OSError, Failure."""
    taken = hashlib.sha256()
    size = 0
    with target.open("xb") as file:
        for chunk in chunks(source, length):
            file.write(chunk)
            taken.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if length is not None and size != length:
        raise Failure(f"{target.name} ended after {size} of {length} bytes: somebody changed Redis's data files")
    return {"size": size, "sha256": taken.hexdigest()}


def write_json(path: Path, value: Any, *, uid: int = REDIS_UID, gid: int = REDIS_GID) -> None:
    """Write a small JSON file whole or not at all, readable by its owner alone. Raises OSError."""
    write_file(path, json.dumps(value, indent=2) + "\n", mode=0o400, uid=uid, gid=gid)


def own(path: Path) -> None:
    """Give a file or directory of a backup its owner and mode."""
    path.chmod(0o700 if path.is_dir() else 0o400)
    os.chown(path, REDIS_UID, REDIS_GID)


def fsync_directory(path: Path) -> None:
    """Have the disk know the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_small(path: Path, limit: int) -> str:
    """Return the beginning of a regular file as text; empty if there is none. Follows no link and waits for no FIFO."""
    data = _read(path, 0, limit)
    return data.decode(errors="replace")


def read_end(path: Path, start: int, limit: int) -> str:
    """Return a regular file's text from an offset, at most its last ``limit`` bytes. Follows no link."""
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


def write_file(path: Path, text: str, *, mode: int, uid: int, gid: int) -> None:
    """Write a small file whole or not at all, with its owner and mode, down to the disk. Raises OSError."""
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


def make_owned_directory(path: Path) -> None:
    """Make a directory that Redis owns. Raises OSError."""
    path.mkdir(mode=0o700)
    os.chown(path, REDIS_UID, REDIS_GID)
