"""Restoring: what is to come is found, laid out, loaded aside and told; then it takes the place of what is there."""

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

# Keys that are looked for once the new data serves, and the share of them that has to be there: clients remove some.
SAMPLE_SIZE = 200
MIN_FOUND_RATIO = 0.9
# Seconds: what ends sooner is not looked for.
MIN_TTL = 300


@dataclass(frozen=True)
class Candidate:
    """What is to be restored: a listed backup, or files of somebody else's. ``to`` is a moment in its log.

    ``created_now`` tells whether the backup was made just now, for its log.
    """

    path: Path
    backup: BackupSet | None = None
    to: float | None = None
    created_now: bool = False

    @property
    def name(self) -> str:
        """In words."""
        told = f"backup {self.backup.id}" if self.backup else str(self.path)
        return f"{told}, as of {format_time(self.to)}" if self.to else told


@dataclass(frozen=True)
class Prepared:
    """What was laid out and loaded aside: its keys by database, the memory it takes in bytes, keys to look for."""

    place: Path
    databases: dict[str, dict[str, int]]
    memory: int
    sample_keys: list[bytes]

    @property
    def keys(self) -> int:
        """Keys in all databases, with those whose time is over by now."""
        return sum(database["keys"] for database in self.databases.values())


def find_candidate(instance: Instance, name: str, to: float | None) -> Candidate:
    """What somebody means: a backup's name, ``latest``, or a path. Raises Failure.

    With a moment and no name it is the first backup after that, and a new one of the present data when there is none.
    """
    if "/" in name or (name and Path(name).exists()):
        return _foreign(Path(name), to)
    if name:
        one = catalog.find_backup(instance.backups, name)
        if to is not None and to > one.metadata.taken_at:
            raise Failure(f"backup {one.id} ends before {format_time(to)}: leave its name out")
        return Candidate(one.path, one, to)
    if to is None:
        raise Failure("say what to restore: a name of redisctl backup list, latest, or the path of a dump.rdb")
    if to > time.time():
        raise Failure(f"{format_time(to)} is yet to come")
    if not layout.aof_enabled(instance):
        # Before a backup is taken for nothing.
        raise Failure("there is no log of writes to go back in: redis_appendonly is off")
    later = [
        one for one in catalog.list_backups(instance.backups) if one.metadata.has_aof and one.metadata.taken_at >= to
    ]
    one = later[-1] if later else create.create_backup(instance)
    if not one.metadata.has_aof:
        raise Failure("there is no log of writes to go back in: redis_appendonly is off")
    return Candidate(one.path, one, to, created_now=not later)


def _foreign(path: Path, to: float | None) -> Candidate:
    if not path.exists():
        raise Failure(f"{path}: there is no such file")
    if (path / catalog.METADATA).exists():
        one = catalog.open_backup(path)
        return Candidate(path, one, to)
    if path.is_dir():
        inner = path / aof_manifest.DIRECTORY
        return Candidate(inner if inner.is_dir() else path, None, to)
    with path.open("rb") as file:
        magic = file.read(6)
    if magic[:5] != b"REDIS" and magic != b"VALKEY":
        raise Failure(f"{path} is no snapshot of Redis: it begins with {magic!r}")
    if to is not None:
        raise Failure("a snapshot is of one moment: --to needs a log of writes")
    return Candidate(path, None, None)


@contextmanager
def prepared(instance: Instance, chosen: Candidate) -> Iterator[Prepared]:
    """Lay the chosen data out on the disk of the instance's, load it aside, and compare it with what it says of itself.

    Raises Failure where it is damaged, does not load, or does not fit; nothing that serves is touched.
    """
    one = chosen.backup
    if one and (problems := catalog.find_damage(one)):
        raise Failure(f"backup {one.id} is bad: {'; '.join(problems)}")
    rdb, log = _files(chosen)
    if not rdb:
        read_manifest(log)
    ensure_disk_space(instance, rdb or log)
    with staging_dir(instance) as place:
        if rdb:
            layout.stage_rdb(instance, rdb, place)
        elif layout.aof_enabled(instance):
            layout.stage_aof(instance, log, place)
            if chosen.to is not None:
                truncate_aof(instance, layout.staged_data(instance, place), chosen.to)
        else:
            raise Failure("this instance has redis_appendonly = False, and that is a log of writes: turn it on, deploy")
        what = scratch_source(one, layout.staged_data(instance, place)) if one else unknown_source(instance, place)
        with loaded_redis(instance, what) as redis:
            if one and chosen.to is None and (problems := compare(redis, one)):
                raise Failure(f"backup {one.id} is bad: {'; '.join(problems)}")
            told = inspect_loaded(redis, place)
        _ensure_fits_maxmemory(instance, told)
        yield told


def inspect_loaded(redis: Redis, place: Path) -> Prepared:
    """What a scratch Redis has loaded of ``place``."""
    return Prepared(place, _databases(redis), redis.info("memory")["used_memory"], _sample_keys(redis))


def _files(chosen: Candidate) -> tuple[Path | None, Path]:
    """The snapshot to take, or else the log."""
    log = chosen.path / aof_manifest.DIRECTORY if chosen.backup else chosen.path
    if chosen.to is not None:
        return None, log
    if chosen.backup:
        return chosen.path / RDB_FILE, log
    return (None, log) if chosen.path.is_dir() else (chosen.path, log)


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def ensure_disk_space(instance: Instance, path: Path) -> None:
    """Raise Failure where the disk of the data does not hold a copy of a file, or of a directory's files."""
    room = os.statvfs(instance.live)
    free, wanted = room.f_bavail * room.f_frsize, _size(path) + create.DISK_MARGIN
    if free < wanted:
        raise Failure(f"{instance.live}: {size(free)} free, and this takes {size(wanted)}: free some")


def unknown_source(instance: Instance, place: Path) -> Source:
    """Nobody knows how much memory it takes: files are compressed, mostly to not less than a third."""
    path = layout.staged_data(instance, place)
    return Source(path, 3 * _size(path))


def _databases(redis: Redis) -> dict[str, dict[str, int]]:
    found = keyspace(redis.info("keyspace"))
    return {name: {"keys": told["keys"], "expires": told["expires"]} for name, told in found.items()}


def _sample_keys(redis: Redis) -> list[bytes]:
    """Some keys of the first database, of those that will be there for a while."""
    keys = sorted({key for key in ask(redis, [("RANDOMKEY",)] * SAMPLE_SIZE) if key})
    now = time.time() * 1000
    ends = ask(redis, [("PEXPIRETIME", key) for key in keys])
    return [key for key, end in zip(keys, ends, strict=True) if end == -1 or end > now + MIN_TTL * 1000]


def _ensure_fits_maxmemory(instance: Instance, told: Prepared) -> None:
    most = int(instance.config_value("maxmemory", "0"))
    if most and told.memory > most:
        raise Failure(
            f"it takes {size(told.memory)} of memory, and redis_maxmemory is {size(most)}: Redis would evict at once. "
            "Raise it and deploy, then restore"
        )


def put_in_place(
    instance: Instance,
    told: Prepared,
    operation: str,
    *,
    discard_unsaved: bool = False,
    stopped: Journal | None = None,
) -> Swapped:
    """Make the prepared data the live data, see ``swap_data``. Raises Failure."""

    def check(redis: Redis) -> list[str]:
        there = sum(bool(found) for found in ask(redis, [("EXISTS", key) for key in told.sample_keys]))
        if there < MIN_FOUND_RATIO * len(told.sample_keys):
            return [f"of {len(told.sample_keys)} keys that should be there, {there} are"]
        return []

    return swap_data(instance, told.place, check, operation, discard_unsaved=discard_unsaved, stopped=stopped)


def as_dict(told: Prepared) -> dict[str, Any]:
    """For JSON."""
    return {"keys": told.keys, "databases": told.databases, "memory": told.memory}
