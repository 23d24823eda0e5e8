"""Comparing two Redis of which one is a replica of the other, while clients write to the other."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from redis import Redis
from redis.exceptions import ResponseError

from redisctl.readings import keyspace
from redisctl.sizes import words
from redisctl.values import Value, values
from redisctl.walk import PAUSE, ask, batches

# Keys that are compared where not all are; at once; and how often those that differ are looked at again.
SAMPLED = 1000
AT_ONCE = 100
ROUNDS = 6
# Milliseconds by which an end may be off that was reckoned from what is left; and by which it may be later. Redis below
# 7 sends a replica how long a key has, and not when it ends: what came late, over a slow link or after the first copy,
# ends late.
RECKONED, LATE = 1000, 600_000
# Keys that are named.
NAMED = 10

Connect = Callable[[int], Redis]


@dataclass
class Report:
    """What a comparison found.

    ``by_length`` are keys of which only type, end and length were compared, for their size; ``changing`` are those that
    were written whenever they were looked at; ``foreign`` are those of no pattern; ``late`` is by how many seconds keys
    end later here at most. ``kept`` are some keys as both have them, by database.
    """

    compared: int = 0
    by_length: int = 0
    changing: int = 0
    foreign: int = 0
    late: float = 0.0
    problems: list[str] = field(default_factory=list)
    differing: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    kept: dict[int, dict[bytes, Value]] = field(default_factory=dict)

    def all_problems(self) -> list[str]:
        """In words, and without names of keys."""
        return [*self.problems, *(f"{count} keys differ: {what}" for what, count in self.differing.items())]


@dataclass(frozen=True)
class Pair:
    """The two, by database, and a wait until the copy has what the source has now.

    ``moments`` is whether the source tells the moments at which keys end; ``patterns`` are those of the keys that users
    of the instance reach.
    """

    source: Connect
    copy: Connect
    caught_up: Callable[[], None]
    moments: bool
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Database:
    number: int
    source: Redis
    copy: Redis


def compare(pair: Pair, *, full: bool) -> Report:
    """Compare the counts, and the keys of all databases or a sample of them. Raises RedisError, Failure."""
    report = Report()
    with ExitStack() as clients:
        source, copy = (clients.enter_context(connect(0)) for connect in (pair.source, pair.copy))
        report.problems = _counts(source, copy, pair.caught_up)
        databases = {int(name[2:]): told["keys"] for name, told in keyspace(source.info("keyspace")).items()}
        every = sum(databases.values())
        for number, count in databases.items():
            database = _Database(number, *(clients.enter_context(one(number)) for one in (pair.source, pair.copy)))
            for keys in _keys(database.source, count, None if full or every <= SAMPLED else share(count, every)):
                _compare(pair, report, database, keys)
                time.sleep(PAUSE)
    return report


def share(count: int, every: int) -> int:
    """How many keys of a database with ``count`` of ``every`` key are in the sample."""
    return math.ceil(SAMPLED * count / every)


def _keys(redis: Redis, count: int, sampled: int | None) -> Iterator[list[bytes]]:
    """All keys of a database, or a sample, in parts."""
    if sampled is not None:
        drawn = {key for some in batches([("RANDOMKEY",)] * sampled, AT_ONCE) for key in ask(redis, some) if key}
        yield from batches(sorted(drawn), AT_ONCE)
        return
    cursor = 0
    while True:
        cursor, keys = redis.scan(cursor, count=AT_ONCE)
        yield from batches(keys, AT_ONCE)
        if not cursor:
            return


def _counts(source: Redis, copy: Redis, caught_up: Callable[[], None]) -> list[str]:
    """How the numbers of keys differ. What comes and goes meanwhile is no difference."""
    for attempt in range(ROUNDS):
        first = _counted(source)
        caught_up()
        there = _counted(copy)
        last = _counted(source)
        problems = [
            f"db{number} has {last.get(number, 0)} keys there and {there.get(number, 0)} here"
            for number in sorted({*first, *there, *last})
            if not is_between(there.get(number, 0), first.get(number, 0), last.get(number, 0))
        ]
        if not problems:
            return []
        time.sleep(0.1 * attempt)
    return problems


def _counted(redis: Redis) -> dict[int, int]:
    return {int(name[2:]): told["keys"] for name, told in keyspace(redis.info("keyspace")).items()}


def is_between(count: int, one: int, other: int) -> bool:
    """Whether a count is one that was there between two looks."""
    return min(one, other) <= count <= max(one, other)


def _compare(pair: Pair, report: Report, database: _Database, keys: list[bytes]) -> None:
    number, source, copy = database.number, database.source, database.copy
    report.compared += len(keys)
    left = keys
    for _ in range(ROUNDS):
        before = _read(source, left, moments=pair.moments)
        pair.caught_up()
        here = _read(copy, left, moments=True)
        found = {
            key: (one, other)
            for key, one, other in zip(left, before, here, strict=True)
            if difference(one, other, time.time(), moments=pair.moments)
        }
        for key, one, other in zip(left, before, here, strict=True):
            if key not in found:
                if not pair.moments and one.is_there and other.ends - one.ends > RECKONED:
                    report.late = max(report.late, (other.ends - one.ends) / 1000)
                report.by_length += bool(one.length and not one.digest)
                report.foreign += not any(fnmatchcase(key.decode("latin-1"), one) for one in pair.patterns)
                if other.is_there and sum(map(len, report.kept.values())) < SAMPLED:
                    report.kept.setdefault(number, {})[key] = other
        # One that was not written meanwhile, and differs, does.
        again = _read(source, list(found), moments=pair.moments)
        left = []
        for (key, (one, other)), now in zip(found.items(), again, strict=True):
            if difference(one, now, time.time(), moments=pair.moments, late=0 if pair.moments else RECKONED):
                left.append(key)
                continue
            what = f"{difference(one, other, time.time(), moments=pair.moments)} ({one.type} in db{number})"
            report.differing[what] = report.differing.get(what, 0) + 1
            report.names.append(words(key))
        if not left:
            return
    report.changing += len(left)


def _read(redis: Redis, keys: list[bytes], *, moments: bool) -> list[Value]:
    if not keys:
        return []
    for _ in range(ROUNDS):
        try:
            return values(redis, keys, moments=moments)
        except ResponseError as error:
            # Another type since it was asked for it.
            if "WRONGTYPE" not in str(error):
                raise
    return values(redis, keys, moments=moments)


def difference(one: Value, other: Value, now: float, *, moments: bool, late: int = LATE) -> str:
    """In what two looks at a key differ, in a word; empty when they do not. ``now`` is this host's clock in seconds.

    A key that is over by this clock is none, whatever was seen. ``late`` is by how many milliseconds the other may end
    later, where the ends of the one are ``moments`` that were reckoned.
    """
    if one.is_there != other.is_there:
        seen = one if one.is_there else other
        return "" if 0 < seen.ends <= now * 1000 else "missing" if one.is_there else "only here"
    if one.type != other.type:
        return "type"
    later = other.ends - one.ends
    if (one.ends == -1) != (other.ends == -1) or (later != 0 and (moments or not -RECKONED <= later <= late)):
        return "end of its time"
    if (one.length, one.digest) != (other.length, other.digest):
        return "value"
    return ""
