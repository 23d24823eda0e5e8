"""Comparing two Redis of which one is a replica of the other, while clients write to the other."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from redis import Redis
from redis.exceptions import ResponseError

from redisctl.core.fingerprint import Fingerprint, fingerprints
from redisctl.core.formatting import words
from redisctl.core.keyspace import keyspace
from redisctl.core.scan import PAUSE, ask, batches

# Keys that are compared where not all are; at once; and how often those that differ are looked at again.
SAMPLE_SIZE = 1000
BATCH = 100
ROUNDS = 6
# Milliseconds by which an end may be off that was reckoned from what is left; and by which it may be later. Redis below
# 7 sends a replica how long a key has, and not when it ends: what came late, over a slow link or after the first copy,
# ends late.
TTL_TOLERANCE_MS, MAX_TTL_DRIFT_MS = 1000, 600_000
# Keys that are named.
NAMED = 10

Connect = Callable[[int], Redis]


@dataclass
class Report:
    """What a comparison found.

    ``length_only`` are keys of which only type, end and length were compared, for their size; ``still_changing`` are
    those that were written whenever they were looked at; ``outside_patterns`` are those of no pattern; ``late`` is by
    how many seconds keys end later here at most. ``kept`` are some keys as both have them, by database.
    """

    compared: int = 0
    length_only: int = 0
    still_changing: int = 0
    outside_patterns: int = 0
    late: float = 0.0
    problems: list[str] = field(default_factory=list)
    differing: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    kept: dict[int, dict[bytes, Fingerprint]] = field(default_factory=dict)

    def all_problems(self) -> list[str]:
        """In words, and without names of keys."""
        return [*self.problems, *(f"{count} keys differ: {what}" for what, count in self.differing.items())]


@dataclass(frozen=True)
class Pair:
    """The two, by database, and a wait until the copy has what the source has now.

    ``absolute_expiry`` is whether the source tells the moments at which keys end; ``patterns`` are those of the keys
    that users of the instance reach.
    """

    source: Connect
    copy: Connect
    wait_until_synced: Callable[[], None]
    absolute_expiry: bool
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
        report.problems = _counts(source, copy, pair.wait_until_synced)
        databases = {int(name[2:]): told["keys"] for name, told in keyspace(source.info("keyspace")).items()}
        every = sum(databases.values())
        for number, count in databases.items():
            database = _Database(number, *(clients.enter_context(one(number)) for one in (pair.source, pair.copy)))
            for keys in _keys(database.source, count, None if full or every <= SAMPLE_SIZE else share(count, every)):
                _compare(pair, report, database, keys)
                time.sleep(PAUSE)
    return report


def share(count: int, every: int) -> int:
    """How many keys of a database with ``count`` of ``every`` key are in the sample."""
    return math.ceil(SAMPLE_SIZE * count / every)


def _keys(redis: Redis, count: int, sampled: int | None) -> Iterator[list[bytes]]:
    """All keys of a database, or a sample, in parts."""
    if sampled is not None:
        drawn = {key for some in batches([("RANDOMKEY",)] * sampled, BATCH) for key in ask(redis, some) if key}
        yield from batches(sorted(drawn), BATCH)
        return
    cursor = 0
    while True:
        cursor, keys = redis.scan(cursor, count=BATCH)
        yield from batches(keys, BATCH)
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
        before = _read(source, left, absolute_expiry=pair.absolute_expiry)
        pair.wait_until_synced()
        here = _read(copy, left, absolute_expiry=True)
        found = {
            key: (one, other)
            for key, one, other in zip(left, before, here, strict=True)
            if difference(one, other, time.time(), absolute_expiry=pair.absolute_expiry)
        }
        for key, one, other in zip(left, before, here, strict=True):
            if key not in found:
                if not pair.absolute_expiry and one.is_there and other.expires_at - one.expires_at > TTL_TOLERANCE_MS:
                    report.late = max(report.late, (other.expires_at - one.expires_at) / 1000)
                report.length_only += bool(one.length and not one.digest)
                report.outside_patterns += not any(fnmatchcase(key.decode("latin-1"), one) for one in pair.patterns)
                if other.is_there and sum(map(len, report.kept.values())) < SAMPLE_SIZE:
                    report.kept.setdefault(number, {})[key] = other
        # One that was not written meanwhile, and differs, does.
        again = _read(source, list(found), absolute_expiry=pair.absolute_expiry)
        left = []
        for (key, (one, other)), now in zip(found.items(), again, strict=True):
            if difference(
                one,
                now,
                time.time(),
                absolute_expiry=pair.absolute_expiry,
                late=0 if pair.absolute_expiry else TTL_TOLERANCE_MS,
            ):
                left.append(key)
                continue
            differing = difference(one, other, time.time(), absolute_expiry=pair.absolute_expiry)
            what = f"{differing} ({one.type} in db{number})"
            report.differing[what] = report.differing.get(what, 0) + 1
            report.names.append(words(key))
        if not left:
            return
    report.still_changing += len(left)


def _read(redis: Redis, keys: list[bytes], *, absolute_expiry: bool) -> list[Fingerprint]:
    if not keys:
        return []
    for _ in range(ROUNDS):
        try:
            return fingerprints(redis, keys, absolute_expiry=absolute_expiry)
        except ResponseError as error:
            # Another type since it was asked for it.
            if "WRONGTYPE" not in str(error):
                raise
    return fingerprints(redis, keys, absolute_expiry=absolute_expiry)


def difference(
    one: Fingerprint, other: Fingerprint, now: float, *, absolute_expiry: bool, late: int = MAX_TTL_DRIFT_MS
) -> str:
    """In what two looks at a key differ, in a word; empty when they do not. ``now`` is this host's clock in seconds.

    A key that is over by this clock is none, whatever was seen. ``late`` is by how many milliseconds the other may end
    later, where the ends of the one are ``absolute_expiry`` that were reckoned.
    """
    if one.is_there != other.is_there:
        seen = one if one.is_there else other
        return "" if 0 < seen.expires_at <= now * 1000 else "missing" if one.is_there else "only here"
    if one.type != other.type:
        return "type"
    later = other.expires_at - one.expires_at
    if (one.expires_at == -1) != (other.expires_at == -1) or (
        later != 0 and (absolute_expiry or not -TTL_TOLERANCE_MS <= later <= late)
    ):
        return "end of its time"
    if (one.length, one.digest) != (other.length, other.digest):
        return "value"
    return ""
