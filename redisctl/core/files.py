"""Files on disk: copied with their checksum, written whole, given to Redis."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from redisctl.core.instance import Failure

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


def write_json(path: Path, value: Any) -> None:
    """Write a small file whole or not at all. Raises OSError."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    own(beside)
    beside.replace(path)
    fsync_directory(path.parent)


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
