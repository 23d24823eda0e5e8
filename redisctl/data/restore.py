"""Restores: finds the data, stages it, test loads it, and makes it the live data."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from redisctl.backup import catalog, create
from redisctl.backup.catalog import BackupSet
from redisctl.backup.verify import compare, scratch_source
from redisctl.core import aof_manifest
from redisctl.core.aof_manifest import read_manifest
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE
from redisctl.core.formatting import size
from redisctl.core.instance import Instance
from redisctl.core.journal import Journal
from redisctl.core.keyspace import keyspace
from redisctl.core.scan import ask
from redisctl.core.scratch_redis import Source, loaded_redis
from redisctl.data import layout
from redisctl.data.point_in_time import format_time, truncate_aof
from redisctl.data.swap import Swapped, staging_dir, swap_data

# Keys that Redis must have once it serves the new data, and the share of them that is enough: clients delete some.
SAMPLE_SIZE = 200
MIN_FOUND_RATIO = 0.9
# Seconds. A key that expires sooner may be gone by then.
MIN_TTL = 300


@dataclass(frozen=True)
class Candidate:
    """A listed backup, or files from elsewhere, to restore.

    ``to`` is a time in its AOF. ``created_now`` says that the backup was created just now, for its AOF.
    """

    path: Path
    backup: BackupSet | None = None
    to: float | None = None
    created_now: bool = False

    @property
    def name(self) -> str:
        """Return the name for messages."""
        name = f"backup {self.backup.id}" if self.backup else str(self.path)
        return f"{name}, as of {format_time(self.to)}" if self.to else name


@dataclass(frozen=True)
class Prepared:
    """Data that was staged and test loaded.

    It has the keys by database, the memory in bytes, and keys to look for afterwards.
    """

    directory: Path
    databases: dict[str, dict[str, int]]
    memory: int
    sample_keys: list[bytes]

    @property
    def keys(self) -> int:
        """Return the number of keys in all databases, including expired ones."""
        return sum(database["keys"] for database in self.databases.values())


def find_candidate(instance: Instance, name: str, to: float | None) -> Candidate:
    """Find what to restore by a backup's name, ``latest``, or a path. Raises Failure.

    With a time and no name it is the first backup after that time, or a new backup of the current data.
    """
    if "/" in name or (name and Path(name).exists()):
        return _foreign(Path(name), to)
    if name:
        backup = catalog.find_backup(instance.backups, name)
        if to is not None and to > backup.metadata.taken_at:
            raise Failure(f"backup {backup.id} ends before {format_time(to)}: leave its name out")
        return Candidate(backup.path, backup, to)
    if to is None:
        raise Failure("say what to restore: a name from 'redisctl backup list', latest, or the path of a dump.rdb")
    if to > time.time():
        raise Failure(f"{format_time(to)} is in the future")
    if not layout.aof_enabled(instance):
        # Checked before a backup is created in vain.
        raise Failure("a point in time needs the AOF, and redis_appendonly is off: restore a backup")
    later = [
        backup
        for backup in catalog.list_backups(instance.backups)
        if backup.metadata.has_aof and backup.metadata.taken_at >= to
    ]
    backup = later[-1] if later else create.create_backup(instance)
    if not backup.metadata.has_aof:
        raise Failure("a point in time needs the AOF, and Redis runs without it: deploy again, or restore a backup")
    return Candidate(backup.path, backup, to, created_now=not later)


def _foreign(path: Path, to: float | None) -> Candidate:
    if not path.exists():
        raise Failure(f"{path}: there is no such file")
    if (path / catalog.METADATA).exists():
        return Candidate(path, catalog.open_backup(path), to)
    if path.is_dir():
        inner = path / aof_manifest.DIRECTORY
        return Candidate(inner if inner.is_dir() else path, None, to)
    with path.open("rb") as file:
        magic = file.read(6)
    if magic[:5] != b"REDIS" and magic != b"VALKEY":
        raise Failure(f"{path} is not an RDB snapshot: it begins with {magic!r}")
    if to is not None:
        raise Failure(f"{path} is an RDB snapshot, and --to needs an AOF: leave --to out, or name a backup with an AOF")
    return Candidate(path, None, None)


@contextmanager
def prepared(instance: Instance, candidate: Candidate) -> Iterator[Prepared]:
    """Stage a candidate, test load it, and compare it with its metadata.

    It is staged on the disk of the data. Does not touch the running Redis. Raises Failure if the candidate is damaged,
    does not load or does not fit.
    """
    backup = candidate.backup
    if backup and (problems := catalog.find_damage(backup)):
        raise Failure(f"backup {backup.id} is bad: {'; '.join(problems)}")
    rdb, aof = _files(candidate)
    if not rdb:
        read_manifest(aof)
    ensure_disk_space(instance, rdb or aof)
    with staging_dir(instance) as directory:
        if rdb:
            layout.stage_rdb(instance, rdb, directory)
        elif layout.aof_enabled(instance):
            layout.stage_aof(instance, aof, directory)
            if candidate.to is not None:
                truncate_aof(instance, layout.staged_data(instance, directory), candidate.to)
        else:
            raise Failure(f"{aof} is an AOF, and redis_appendonly is off: turn it on and deploy, or restore a dump.rdb")
        staged = layout.staged_data(instance, directory)
        source = scratch_source(backup, staged) if backup else unknown_source(instance, directory)
        with loaded_redis(instance, source) as redis:
            if backup and candidate.to is None and (problems := compare(redis, backup)):
                raise Failure(f"backup {backup.id} is bad: {'; '.join(problems)}")
            data = inspect_loaded(redis, directory)
        _ensure_fits_maxmemory(instance, data)
        yield data


def inspect_loaded(redis: Redis, directory: Path) -> Prepared:
    """Describe what a scratch Redis has loaded from a staging directory."""
    return Prepared(directory, _databases(redis), redis.info("memory")["used_memory"], _sample_keys(redis))


def _files(candidate: Candidate) -> tuple[Path | None, Path]:
    """Return the RDB snapshot to restore, and the directory of the AOF.

    The RDB snapshot is None if the AOF is to be restored.
    """
    aof = candidate.path / aof_manifest.DIRECTORY if candidate.backup else candidate.path
    if candidate.to is not None:
        return None, aof
    if candidate.backup:
        return candidate.path / RDB_FILE, aof
    return (None, aof) if candidate.path.is_dir() else (candidate.path, aof)


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def ensure_disk_space(instance: Instance, path: Path) -> None:
    """Raise Failure if the disk of the data has no room for a copy.

    The copy is that of a file, or of a directory's files.
    """
    space = os.statvfs(instance.live)
    free, needed = space.f_bavail * space.f_frsize, _size(path) + create.DISK_MARGIN
    if free < needed:
        raise Failure(f"{instance.data}: {size(free)} free, and this takes {size(needed)}: free some space")


def unknown_source(instance: Instance, directory: Path) -> Source:
    """Return staged data as a source, with an estimate of its memory.

    Files are rarely compressed to less than a third.
    """
    path = layout.staged_data(instance, directory)
    return Source(path, 3 * _size(path))


def _databases(redis: Redis) -> dict[str, dict[str, int]]:
    databases = keyspace(redis.info("keyspace"))
    return {name: {"keys": values["keys"], "expires": values["expires"]} for name, values in databases.items()}


def _sample_keys(redis: Redis) -> list[bytes]:
    """Return some keys of the first database that do not expire soon."""
    keys = sorted({key for key in ask(redis, [("RANDOMKEY",)] * SAMPLE_SIZE) if key})
    now = time.time() * 1000
    expiries = ask(redis, [("PEXPIRETIME", key) for key in keys])
    return [key for key, at in zip(keys, expiries, strict=True) if at == -1 or at > now + MIN_TTL * 1000]


def _ensure_fits_maxmemory(instance: Instance, data: Prepared) -> None:
    limit = int(instance.config_value("maxmemory", "0"))
    if limit and data.memory > limit:
        raise Failure(
            f"the data takes {size(data.memory)} of memory, and redis_maxmemory is {size(limit)}: Redis would evict at "
            "once. Raise it and deploy, then restore"
        )


def put_in_place(
    instance: Instance,
    data: Prepared,
    operation: str,
    *,
    discard_unsaved: bool = False,
    stopped: Journal | None = None,
) -> Swapped:
    """Make the prepared data the live data, see ``swap_data``. Raises Failure."""

    def check(redis: Redis) -> list[str]:
        present = sum(map(bool, ask(redis, [("EXISTS", key) for key in data.sample_keys])))
        if present < MIN_FOUND_RATIO * len(data.sample_keys):
            return [f"Redis has only {present} of {len(data.sample_keys)} keys that it should have"]
        return []

    return swap_data(instance, data.directory, check, operation, discard_unsaved=discard_unsaved, stopped=stopped)


def as_dict(data: Prepared) -> dict[str, Any]:
    """Return the data for JSON."""
    return {"keys": data.keys, "databases": data.databases, "memory": data.memory}
