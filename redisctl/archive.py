"""Backups on this host's disk: a directory each, with what it holds told in ``backup.json``.

``<root>/backups/20261124T030000Z/`` has the snapshot (``dump.rdb``), the log of writes where it is on
(``appendonlydir/``), ``backup.json`` with their checksums, ``samples.json`` with some keys as they were, and
``verified.json`` once it was loaded. It is made under a name with a dot and renamed when it is whole.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from redisctl.instance import Failure
from redisctl.locking import fsync_directory

FORMAT = 1
SNAPSHOT = "dump.rdb"
METADATA, SAMPLES, VERIFIED = "backup.json", "samples.json", "verified.json"
NAME = re.compile(r"\d{8}T\d{6}Z")

# Whom the files belong to: Redis, in containers that load them and see them read-only.
REDIS_UID = REDIS_GID = 999
_CHUNK = 1024**2


@dataclass(frozen=True)
class Backup:
    """What a backup says of itself.

    ``taken_at`` is the moment whose data it holds, in seconds since the epoch; ``databases`` are keys and keys with a
    TTL by database; ``memory`` is what Redis used for them in bytes; ``held`` is how long writes had to wait, in
    seconds; ``settings`` is a digest of the instance's settings; ``files`` are sizes and SHA-256 by name.
    """

    id: str
    instance: str
    host: str
    taken_at: float
    engine: str
    version: str
    settings: str
    databases: dict[str, dict[str, int]]
    memory: int
    held: float
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file["size"] for file in self.files.values())

    @property
    def keys(self) -> int:
        """Keys in all databases."""
        return sum(database["keys"] for database in self.databases.values())

    @property
    def has_log(self) -> bool:
        """Whether it holds the log of writes beside the snapshot."""
        return any(name != SNAPSHOT for name in self.files)


@dataclass(frozen=True)
class Archive:
    """A backup and where it is. ``verified`` is what its verification said, empty before."""

    path: Path
    backup: Backup
    verified: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Its name."""
        return self.backup.id

    @property
    def is_verified(self) -> bool:
        """Whether it was loaded and found to be what it says."""
        return self.verified.get("verdict") == "ok"

    @property
    def is_bad(self) -> bool:
        """Whether it was looked at, and found not to be what it says."""
        return bool(self.verified) and not self.is_verified


def name_of(moment: float) -> str:
    """The name of a backup of this moment."""
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y%m%dT%H%M%SZ")


def listed(backups: Path) -> list[Archive]:
    """All whole backups in a directory, the newest first. What cannot be read is left out, see ``unreadable``."""
    return [one for one in map(_try_open, _candidates(backups)) if isinstance(one, Archive)]


def unreadable(backups: Path) -> list[str]:
    """What looks like a backup and is none, in words."""
    return [one for one in map(_try_open, _candidates(backups)) if isinstance(one, str)]


def _candidates(backups: Path) -> list[Path]:
    try:
        return sorted((path for path in backups.iterdir() if NAME.fullmatch(path.name)), reverse=True)
    except FileNotFoundError:
        return []


def _try_open(path: Path) -> "Archive | str":
    try:
        return opened(path)
    except Failure as error:
        return str(error)


def opened(path: Path) -> Archive:
    """The backup in a directory. Raises Failure where there is none."""
    try:
        told = json.loads((path / METADATA).read_text())
        if told.get("format") != FORMAT:
            raise Failure(f"{path}: a format of backups ({told.get('format')}) that this redisctl does not know")
        backup = Backup(**told)
    except FileNotFoundError:
        raise Failure(f"{path}: no backup of redisctl's, {METADATA} is missing") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise Failure(f"{path}/{METADATA} cannot be read: {error}") from None
    try:
        verified = json.loads((path / VERIFIED).read_text())
    except (OSError, ValueError):
        verified = {}
    return Archive(path, backup, verified)


def find(backups: Path, name: str) -> Archive:
    """A listed backup by its name, ``latest``, or the beginning of a name. Raises Failure.

    The latest is the newest that was verified, and the newest of all only where none was.
    """
    every = listed(backups)
    latest = ([one for one in every if one.is_verified] or every)[:1]
    chosen = latest if name == "latest" else [one for one in every if one.id.startswith(name)]
    if len(chosen) == 1:
        return chosen[0]
    there = f"there are {', '.join(one.id for one in every[:5])}" if every else "there is none yet: redisctl backup"
    if not chosen:
        raise Failure(f"no backup {name!r}; {there}")
    raise Failure(f"{name!r} begins the names of {len(chosen)} backups; {there}")


def damage(archive: Archive) -> list[str]:
    """How the files differ from what the backup says of them, in words; empty when they do not."""
    found = []
    for name, told in archive.backup.files.items():
        path = archive.path / name
        try:
            size = path.stat().st_size
            if size != told["size"]:
                found.append(f"{name} has {size} bytes, not {told['size']}")
            elif checksum(path) != told["sha256"]:
                found.append(f"{name} is not what was written: its checksum differs")
        except OSError as error:
            found.append(f"{name}: {error.strerror}")
    own = {METADATA, SAMPLES, VERIFIED, *archive.backup.files}
    there = {str(path.relative_to(archive.path)) for path in archive.path.rglob("*") if not path.is_dir()}
    return [*found, *(f"{name} does not belong to it" for name in sorted(there - own))]


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
        chunk = file.read(_CHUNK if left is None else min(_CHUNK, left))
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


def finish(partial: Path, backup: Backup) -> Archive:
    """Make a directory that holds all files of a backup a listed one."""
    write_json(partial / METADATA, asdict(backup))
    for path in (partial, *partial.rglob("*")):
        own(path)
        if path.is_dir():
            fsync_directory(path)
    path = partial.with_name(backup.id)
    partial.rename(path)
    fsync_directory(path.parent)
    return Archive(path, backup)
