"""Restoring: what is to come is found, laid out, loaded aside and told; then it takes the place of what is there."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from redis import Redis

from redisctl import aof, archive, replace
from redisctl import backup as taking
from redisctl.archive import Archive
from redisctl.instance import Failure, Instance
from redisctl.readings import keyspace
from redisctl.scratch import Source, loaded, read_manifest, run_checker
from redisctl.sizes import size
from redisctl.verify import compare, source
from redisctl.walk import ask

# Keys that are looked for once the new data serves, and the share of them that has to be there: clients remove some.
LOOKED_FOR = 200
SHARE = 0.9
# Seconds: what ends sooner is not looked for.
LASTING = 300


@dataclass(frozen=True)
class Candidate:
    """What is to be restored: a listed backup, or files of somebody else's. ``to`` is a moment in its log.

    ``taken`` tells whether the backup was made just now, for its log.
    """

    path: Path
    archive: Archive | None = None
    to: float | None = None
    taken: bool = False

    @property
    def name(self) -> str:
        """In words."""
        told = f"backup {self.archive.id}" if self.archive else str(self.path)
        return f"{told}, as of {moment_in_words(self.to)}" if self.to else told


@dataclass(frozen=True)
class Prepared:
    """What was laid out and loaded aside: its keys by database, the memory it takes in bytes, keys to look for."""

    place: Path
    databases: dict[str, dict[str, int]]
    memory: int
    lasting: list[bytes]

    @property
    def keys(self) -> int:
        """Keys in all databases, with those whose time is over by now."""
        return sum(database["keys"] for database in self.databases.values())


def find(instance: Instance, name: str, to: float | None) -> Candidate:
    """What somebody means: a backup's name, ``latest``, or a path. Raises Failure.

    With a moment and no name it is the first backup after that, and a new one of the present data when there is none.
    """
    if "/" in name or (name and Path(name).exists()):
        return _foreign(Path(name), to)
    if name:
        one = archive.find(instance.backups, name)
        if to is not None and to > one.backup.taken_at:
            raise Failure(f"backup {one.id} ends before {moment_in_words(to)}: leave its name out")
        return Candidate(one.path, one, to)
    if to is None:
        raise Failure("say what to restore: a name of redisctl backups, latest, or the path of a dump.rdb")
    if to > time.time():
        raise Failure(f"{moment_in_words(to)} is yet to come")
    if not replace.has_log(instance):
        # Before a backup is taken for nothing.
        raise Failure("there is no log of writes to go back in: redis_appendonly is off")
    later = [one for one in archive.listed(instance.backups) if one.backup.has_log and one.backup.taken_at >= to]
    one = later[-1] if later else taking.take(instance)
    if not one.backup.has_log:
        raise Failure("there is no log of writes to go back in: redis_appendonly is off")
    return Candidate(one.path, one, to, taken=not later)


def _foreign(path: Path, to: float | None) -> Candidate:
    if not path.exists():
        raise Failure(f"{path}: there is no such file")
    if (path / archive.METADATA).exists():
        one = archive.opened(path)
        return Candidate(path, one, to)
    if path.is_dir():
        inner = path / aof.DIRECTORY
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
    one = chosen.archive
    if one and (problems := archive.damage(one)):
        raise Failure(f"backup {one.id} is bad: {'; '.join(problems)}")
    rdb, log = _files(chosen)
    if not rdb:
        read_manifest(log)
    enough_room(instance, rdb or log)
    with replace.incoming(instance) as place:
        if rdb:
            replace.from_snapshot(instance, rdb, place)
        elif replace.has_log(instance):
            replace.from_log(instance, log, place)
            if chosen.to is not None:
                cut(instance, replace.laid_out(instance, place), chosen.to)
        else:
            raise Failure("this instance has redis_appendonly = False, and that is a log of writes: turn it on, deploy")
        what = source(one, replace.laid_out(instance, place)) if one else of_unknown(instance, place)
        with loaded(instance, what) as redis:
            if one and chosen.to is None and (problems := compare(redis, one)):
                raise Failure(f"backup {one.id} is bad: {'; '.join(problems)}")
            told = seen(redis, place)
        _fits(instance, told)
        yield told


def seen(redis: Redis, place: Path) -> Prepared:
    """What a scratch Redis has loaded of ``place``."""
    return Prepared(place, _databases(redis), redis.info("memory")["used_memory"], _lasting(redis))


def _files(chosen: Candidate) -> tuple[Path | None, Path]:
    """The snapshot to take, or else the log."""
    log = chosen.path / aof.DIRECTORY if chosen.archive else chosen.path
    if chosen.to is not None:
        return None, log
    if chosen.archive:
        return chosen.path / archive.SNAPSHOT, log
    return (None, log) if chosen.path.is_dir() else (chosen.path, log)


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def enough_room(instance: Instance, path: Path) -> None:
    """Raise Failure where the disk of the data does not hold a copy of a file, or of a directory's files."""
    room = os.statvfs(instance.data)
    free, wanted = room.f_bavail * room.f_frsize, _size(path) + taking.MARGIN
    if free < wanted:
        raise Failure(f"{instance.data}: {size(free)} free, and this takes {size(wanted)}: free some")


def of_unknown(instance: Instance, place: Path) -> Source:
    """Nobody knows how much memory it takes: files are compressed, mostly to not less than a third."""
    path = replace.laid_out(instance, place)
    return Source(path, 3 * _size(path))


def _databases(redis: Redis) -> dict[str, dict[str, int]]:
    found = keyspace(redis.info("keyspace"))
    return {name: {"keys": told["keys"], "expires": told["expires"]} for name, told in found.items()}


def _lasting(redis: Redis) -> list[bytes]:
    """Some keys of the first database, of those that will be there for a while."""
    keys = sorted({key for key in ask(redis, [("RANDOMKEY",)] * LOOKED_FOR) if key})
    now = time.time() * 1000
    ends = ask(redis, [("PEXPIRETIME", key) for key in keys])
    return [key for key, end in zip(keys, ends, strict=True) if end == -1 or end > now + LASTING * 1000]


def _fits(instance: Instance, told: Prepared) -> None:
    most = int(replace.directive(instance, "maxmemory", "0"))
    if most and told.memory > most:
        raise Failure(
            f"it takes {size(told.memory)} of memory, and redis_maxmemory is {size(most)}: Redis would evict at once. "
            "Raise it and deploy, then restore"
        )


def put_in_place(instance: Instance, told: Prepared, what: str) -> float:
    """Put what was prepared in the place of the present data. Seconds that Redis did not serve. Raises Failure."""

    def check(redis: Redis) -> list[str]:
        there = sum(bool(found) for found in ask(redis, [("EXISTS", key) for key in told.lasting]))
        if there < SHARE * len(told.lasting):
            return [f"of {len(told.lasting)} keys that should be there, {there} are"]
        return []

    return replace.swap(instance, told.place, check, what)


# -- A moment in a log of writes


def moment(text: str) -> float:
    """A moment on the command line: ``2026-11-24 16:20:05``, with a zone or of this host's; or seconds since 1970."""
    try:
        try:
            at = float(text)
        except ValueError:
            # As Python before 3.11 reads it.
            at = datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone().timestamp()
        # Neither nan, nor milliseconds, nor what no clock shows.
        datetime.fromtimestamp(at).astimezone()
        return at
    except (ValueError, OverflowError, OSError):
        raise Failure(f"{text!r} is no moment such as '2026-11-24 16:20:05'") from None


def moment_in_words(at: float | None) -> str:
    """A moment as this host's clock has it."""
    return datetime.fromtimestamp(at or 0).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def began(log: Path) -> float:
    """The moment from which on a log of writes can be followed: that of its base. Raises Failure."""
    base = read_manifest(log)[0]
    if base.type != aof.BASE:
        return 0.0
    at = taken_at(log / base.name)
    if at is None:
        raise Failure(f"{base.name} does not say when it was made")
    return at


def taken_at(path: Path) -> float | None:
    """The moment whose data a snapshot holds, from its head; None where it does not say, as a log without one."""
    with path.open("rb") as file:
        # An auxiliary field of every snapshot, a number of four bytes.
        found = re.search(rb"\xfa\x05ctime\xc2(.{4})", file.read(512), re.DOTALL)
    return float(int.from_bytes(found[1], "little")) if found else None


def cut(instance: Instance, log: Path, to: float) -> None:
    """Cut a log of writes, which is a copy, behind a moment: what was written in that second stays. Raises Failure."""
    start = began(log)
    if int(to) < start:
        raise Failure(
            f"this log of writes begins at {moment_in_words(start)}, when Redis last rewrote it: for an earlier moment "
            "restore a backup from before it"
        )
    if not any(b"#TS:" in head for head in _heads(log)):
        raise Failure("this log of writes says no times: redis_aof_timestamps was off when it was written")
    parts = read_manifest(log)
    # Each part by itself: the checker of Valkey 9 takes its own base for damaged.
    while parts[-1].type != aof.BASE:
        words = ("redis-check-aof", "--truncate-to-timestamp", str(int(to)), f"{log.name}/{parts[-1].name}")
        code, said = run_checker(instance, log.parent, *words)
        if code == 0:
            return
        if "nothing before timestamp" not in said:
            raise Failure(f"redis-check-aof says: {' / '.join(said.strip().splitlines()[-3:])}")
        # All of it came later.
        (log / parts.pop().name).unlink()
        (log / aof.MANIFEST).write_text(aof.written(parts))
        if not parts:
            raise Failure(f"this log of writes has nothing from before {moment_in_words(to)}")


def _heads(log: Path) -> Iterator[bytes]:
    for part in read_manifest(log):
        with (log / part.name).open("rb") as file:
            yield file.read(4096)


def as_dict(told: Prepared) -> dict[str, Any]:
    """For JSON."""
    return {"keys": told.keys, "databases": told.databases, "memory": told.memory}
