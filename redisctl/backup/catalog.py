"""Backups on this host's disk: a directory each, with what it holds told in ``backup.json``.

``<root>/backups/20261124T030000Z/`` has the snapshot (``dump.rdb``), the log of writes where it is on
(``appendonlydir/``), ``backup.json`` with their checksums, ``samples.json`` with some keys as they were, and
``verified.json`` once it was loaded. It is made under a name with a dot and renamed when it is whole.
"""

import json
import re
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE, checksum, fsync_directory, own, write_json

FORMAT = 1


METADATA, SAMPLES, VERIFIED = "backup.json", "samples.json", "verified.json"
NAME = re.compile(r"\d{8}T\d{6}Z")


@dataclass(frozen=True)
class Metadata:
    """What a backup says of itself.

    ``taken_at`` is the moment whose data it holds, in seconds since the epoch; ``databases`` are keys and keys with a
    TTL by database; ``memory`` is what Redis used for them in bytes; ``write_pause`` is how long writes had to wait, in
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
    write_pause: float
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
    def has_aof(self) -> bool:
        """Whether it holds the log of writes beside the snapshot."""
        return any(name != RDB_FILE for name in self.files)


@dataclass(frozen=True)
class BackupSet:
    """A backup and where it is. ``verified`` is what its verification said, empty before."""

    path: Path
    metadata: Metadata
    verified: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Its name."""
        return self.metadata.id

    @property
    def is_verified(self) -> bool:
        """Whether it was loaded and found to be what it says."""
        return self.verified.get("verdict") == "ok"

    @property
    def is_bad(self) -> bool:
        """Whether it was looked at, and found not to be what it says."""
        return bool(self.verified) and not self.is_verified


def backup_id(moment: float) -> str:
    """The name of a backup of this moment."""
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y%m%dT%H%M%SZ")


def list_backups(backups: Path) -> list[BackupSet]:
    """All whole backups in a directory, the newest first. What cannot be read is left out, see ``unreadable``."""
    return [one for one in map(_try_open, _candidates(backups)) if isinstance(one, BackupSet)]


def list_unreadable(backups: Path) -> list[str]:
    """What looks like a backup and is none, in words."""
    return [one for one in map(_try_open, _candidates(backups)) if isinstance(one, str)]


def _candidates(backups: Path) -> list[Path]:
    try:
        return sorted((path for path in backups.iterdir() if NAME.fullmatch(path.name)), reverse=True)
    except FileNotFoundError:
        return []


def _try_open(path: Path) -> "BackupSet | str":
    try:
        return open_backup(path)
    except Failure as error:
        return str(error)


def open_backup(path: Path) -> BackupSet:
    """The backup in a directory. Raises Failure where there is none."""
    try:
        told = json.loads((path / METADATA).read_text())
        if told.get("format") != FORMAT:
            raise Failure(f"{path}: a format of backups ({told.get('format')}) that this redisctl does not know")
        backup = Metadata(**told)
    except FileNotFoundError:
        raise Failure(f"{path}: no backup of redisctl's, {METADATA} is missing") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise Failure(f"{path}/{METADATA} cannot be read: {error}") from None
    try:
        verified = json.loads((path / VERIFIED).read_text())
    except (OSError, ValueError):
        verified = {}
    return BackupSet(path, backup, verified)


def find_backup(backups: Path, name: str) -> BackupSet:
    """A listed backup by its name, ``latest``, or the beginning of a name. Raises Failure.

    The latest is the newest that was verified, and the newest of all only where none was.
    """
    every = list_backups(backups)
    latest = ([one for one in every if one.is_verified] or every)[:1]
    chosen = latest if name == "latest" else [one for one in every if one.id.startswith(name)]
    if len(chosen) == 1:
        return chosen[0]
    there = f"there are {', '.join(one.id for one in every[:5])}" if every else "there is none yet: redisctl backup"
    if not chosen:
        raise Failure(f"no backup {name!r}; {there}")
    raise Failure(f"{name!r} begins the names of {len(chosen)} backups; {there}")


def find_damage(archive: BackupSet) -> list[str]:
    """How the files differ from what the backup says of them, in words; empty when they do not."""
    found = []
    for name, told in archive.metadata.files.items():
        path = archive.path / name
        try:
            size = path.stat().st_size
            if size != told["size"]:
                found.append(f"{name} has {size} bytes, not {told['size']}")
            elif checksum(path) != told["sha256"]:
                found.append(f"{name} is not what was written: its checksum differs")
        except OSError as error:
            found.append(f"{name}: {error.strerror}")
    own = {METADATA, SAMPLES, VERIFIED, *archive.metadata.files}
    there = {str(path.relative_to(archive.path)) for path in archive.path.rglob("*") if not path.is_dir()}
    return [*found, *(f"{name} does not belong to it" for name in sorted(there - own))]


def finish(partial: Path, backup: Metadata) -> BackupSet:
    """Make a directory that holds all files of a backup a listed one."""
    write_json(partial / METADATA, asdict(backup))
    for path in (partial, *partial.rglob("*")):
        own(path)
        if path.is_dir():
            fsync_directory(path)
    path = partial.with_name(backup.id)
    partial.rename(path)
    fsync_directory(path.parent)
    return BackupSet(path, backup)
