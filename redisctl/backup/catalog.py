"""Backups on this host's disk: one directory each, described by ``backup.json``.

``<root>/backups/20261124T030000Z/`` contains the RDB snapshot (``dump.rdb``), the AOF if it is on (``appendonlydir/``),
``backup.json`` with their checksums, ``samples.json`` with some keys as they were, and ``verified.json`` after it was
verified. It is created under a hidden name, and renamed when it is complete.
"""

import json
import os
import re
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from redisctl import schema
from redisctl.core.contents import Contents, from_dict
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE, checksum, fsync_directory, own, write_json
from redisctl.core.untrusted_files import UntrustedDirectory

FORMAT = 1
METADATA, SAMPLES, VERIFIED = "backup.json", "samples.json", "verified.json"
# Bytes of one of these files: 100 samples with the longest keys that are usual.
MAX_JSON = 64 * 1024**2
NAME = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
# Seconds since 1970 that a date can have.
_MAX_TIME = 253_402_300_799


@dataclass(frozen=True)
class Metadata:
    """The contents of ``backup.json``.

    ``taken_at`` is the time of the data, in seconds since 1970. ``databases`` are keys and keys with a TTL by database,
    among them expired keys that Redis had not deleted. ``memory`` is what Redis used for them, in bytes.
    ``write_pause`` is how long writes waited, in seconds. ``settings`` is the digest of the instance's settings.
    ``files`` are sizes and SHA-256 by name.
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
        """Return the size of its files in bytes."""
        return sum(file["size"] for file in self.files.values())

    @property
    def stored_keys(self) -> int:
        """Return the number of keys in all databases, including expired ones."""
        return sum(database["keys"] for database in self.databases.values())

    @property
    def has_aof(self) -> bool:
        """Say whether it contains the AOF in addition to the RDB snapshot."""
        return any(name != RDB_FILE for name in self.files)


@dataclass(frozen=True)
class BackupSet:
    """A backup and its directory.

    ``verified`` is the result of its verification, empty before one.
    """

    path: Path
    metadata: Metadata
    verified: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Return its name."""
        return self.metadata.id

    @property
    def is_verified(self) -> bool:
        """Say whether it was loaded and has the expected contents."""
        return self.verified.get("verdict") == "ok"

    @property
    def contents(self) -> Contents | None:
        """Return what was alive when it was verified; None if that is unknown."""
        return from_dict(self.verified)

    def describe_contents(self) -> str:
        """Return what it contains, for people.

        Only a verification can count the live keys.
        """
        if self.contents:
            return self.contents.describe()
        has_ttls = any(database["expires"] for database in self.metadata.databases.values())
        return f"{'up to ' if has_ttls else ''}{self.metadata.stored_keys} keys"

    @property
    def is_bad(self) -> bool:
        """Say whether a verification found it bad."""
        return bool(self.verified) and not self.is_verified


@dataclass(frozen=True)
class _Verified:
    """The values of ``verified.json`` that redisctl uses."""

    verdict: str
    at: float = 0.0
    took: float = 0.0
    problems: tuple[str, ...] = ()
    sessions: int | None = None
    jobs: int | None = None


def backup_id(at: float) -> str:
    """Return the name of a backup of this time."""
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y%m%dT%H%M%SZ")


def list_backups(backups: Path) -> list[BackupSet]:
    """Return the complete backups in a directory, newest first.

    ``list_unreadable`` returns the others.
    """
    return [backup for backup in map(_try_open, _candidates(backups)) if isinstance(backup, BackupSet)]


def list_unreadable(backups: Path) -> list[str]:
    """Say of each directory that looks like a backup why it cannot be read."""
    return [problem for problem in map(_try_open, _candidates(backups)) if isinstance(problem, str)]


def _candidates(backups: Path) -> list[Path]:
    try:
        return sorted((path for path in backups.iterdir() if NAME.fullmatch(path.name)), reverse=True)
    except FileNotFoundError:
        return []


def _try_open(path: Path) -> "BackupSet | str":
    try:
        backup = open_backup(path)
    except Failure as error:
        return str(error)
    if backup.id != path.name:
        return f"{path} is backup {backup.id}, by its {METADATA}: rename it, or move it elsewhere"
    return backup


def open_backup(path: Path) -> BackupSet:
    """Return the backup in a directory. Raises Failure if there is none.

    It may come from elsewhere, and the directory may have another name.
    """
    try:
        metadata = _parse_metadata(read_json(path, METADATA))
    except FileNotFoundError:
        raise Failure(f"{path} is not a backup of redisctl: {METADATA} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise Failure(f"{path}/{METADATA} cannot be read: {error}") from None
    try:
        verified = _parse_verified(read_json(path, VERIFIED))
    except (OSError, ValueError, RecursionError):
        verified = {}
    return BackupSet(path, metadata, verified)


def _parse_metadata(values: Any) -> Metadata:
    """Return metadata whose values have the expected types. Raises ValueError."""
    if isinstance(values, dict) and values.get("format") != FORMAT:
        raise ValueError(f"this redisctl does not know backup format {values.get('format')!r}")
    metadata = schema.from_dict(Metadata, values if isinstance(values, dict) else {})
    if not NAME.fullmatch(metadata.id):
        raise ValueError(f"{metadata.id!r} is not the name of a backup")
    if not 0 <= metadata.taken_at <= _MAX_TIME:
        raise ValueError(f"{metadata.taken_at} is not a time")
    for name, counts in metadata.databases.items():
        if not re.fullmatch(r"db\d{1,9}", name, re.ASCII) or not {"keys", "expires"} <= set(counts):
            raise ValueError(f"{name!r} is not a database with its keys")
    for name, file in metadata.files.items():
        if type(file.get("size")) is not int or not isinstance(file.get("sha256"), str):
            raise ValueError(f"the size or the checksum of {name!r} is missing")
    return metadata


def _parse_verified(values: Any) -> dict[str, Any]:
    """Return the result of a verification. Raises ValueError."""
    typed = schema.from_dict(_Verified, values if isinstance(values, dict) else {})
    if not 0 <= typed.at <= _MAX_TIME:
        raise ValueError(f"{typed.at} is not a time")
    return {**values, **{name: value for name, value in asdict(typed).items() if value is not None}}


def read_json(path: Path, name: str) -> Any:
    """Return the contents of a small file of a backup. Raises OSError, ValueError."""
    return json.loads(UntrustedDirectory(path).read_file(name, limit=MAX_JSON))


def find_backup(backups: Path, name: str) -> BackupSet:
    """Return the backup that a name selects.

    ``name`` is its name, the beginning of its name, ``latest`` or ``newest``. The latest is the newest verified backup,
    or the newest of all if none is verified. Raises Failure.
    """
    every = list_backups(backups)
    if name == "latest":
        matches = ([backup for backup in every if backup.is_verified] or every)[:1]
    elif name == "newest":
        matches = every[:1]
    else:
        matches = [backup for backup in every if backup.id.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    names = ", ".join(backup.id for backup in every[:5])
    present = f"there are {names}" if every else "there is none yet: redisctl backup"
    if not matches:
        raise Failure(f"no backup {name!r}; {present}")
    raise Failure(f"{len(matches)} backups begin with {name!r}; {present}")


def find_damage(backup: BackupSet) -> list[str]:
    """Say how the files differ from the metadata; empty if they do not."""
    problems = []
    files = UntrustedDirectory(backup.path)
    for name, expected in backup.metadata.files.items():
        try:
            with files.open_file(*name.split("/")) as file:
                size = os.fstat(file.fileno()).st_size
                if size != expected["size"]:
                    problems.append(f"{name} has {size} bytes, not {expected['size']}")
                elif checksum(file) != expected["sha256"]:
                    problems.append(f"{name} was changed: its checksum differs")
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
    expected_names = {METADATA, SAMPLES, VERIFIED, *backup.metadata.files}
    present = {str(path.relative_to(backup.path)) for path in backup.path.rglob("*") if not path.is_dir()}
    return [*problems, *(f"{name} does not belong to it" for name in sorted(present - expected_names))]


def own_backup(directory: Path, owner: tuple[int, int]) -> None:
    """Set owner (uid, gid) and modes of a backup's files. Raises OSError."""
    for path in (directory, *directory.rglob("*")):
        own(path, owner)
        if path.is_dir():
            fsync_directory(path)


def finish(partial: Path, metadata: Metadata, owner: tuple[int, int]) -> BackupSet:
    """Turn a directory with all files of a backup into a listed backup.

    Writes the metadata, sets the owner (uid, gid) and modes, and renames the directory. Raises OSError.
    """
    write_json(partial / METADATA, asdict(metadata), owner)
    own_backup(partial, owner)
    path = partial.with_name(metadata.id)
    partial.rename(path)
    fsync_directory(path.parent)
    return BackupSet(path, metadata)
