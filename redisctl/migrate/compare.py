"""Comparison of a Redis with its replica while clients write to it."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from redis import Redis
from redis.exceptions import ResponseError

from redisctl.core import progress
from redisctl.core.fingerprint import Fingerprint, fingerprints
from redisctl.core.formatting import words
from redisctl.core.keyspace import keyspace
from redisctl.core.scan import PAUSE, ask, batches, scan

# Keys in a sample; keys that are compared at once; and how often keys that differ are compared again.
SAMPLE_SIZE = 1000
BATCH = 100
ROUNDS = 6
# Names of differing keys that are kept.
MAX_NAMES = 10
# Milliseconds by which an expiry that was computed from a TTL may differ, and by which it may be later. Redis below 7
# sends a replica TTLs instead of times, so keys that arrive late expire late.
TTL_TOLERANCE_MS, MAX_TTL_DRIFT_MS = 1000, 600_000

Connect = Callable[[int], Redis]


@dataclass
class Report:
    """The result of a comparison.

    ``length_only`` counts large keys of which only type, expiry and length were compared; ``still_changing`` those that
    changed at every attempt; ``outside_patterns`` those that match no pattern. ``ttl_drift`` is the most seconds by
    which a key expires later in the copy. ``samples`` are keys that both have, by database.
    """

    compared: int = 0
    length_only: int = 0
    still_changing: int = 0
    outside_patterns: int = 0
    ttl_drift: float = 0.0
    problems: list[str] = field(default_factory=list)
    differing: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    samples: dict[int, dict[bytes, Fingerprint]] = field(default_factory=dict)

    def all_problems(self) -> list[str]:
        """Return all problems, without names of keys."""
        return [*self.problems, *(f"{count} keys differ: {what}" for what, count in self.differing.items())]


@dataclass(frozen=True)
class Pair:
    """Clients of both servers by database.

    ``wait_until_synced`` waits until the copy has caught up. ``absolute_expiry`` says that the source knows
    PEXPIRETIME; ``patterns`` are those of the keys that users of the instance can access.
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
    """Compare the numbers of keys, and all keys or a sample of them.

    Raises RedisError, Failure.
    """
    report = Report()
    with ExitStack() as clients:
        source, copy = (clients.enter_context(connect(0)) for connect in (pair.source, pair.copy))
        report.problems = _counts(source, copy, pair.wait_until_synced)
        databases = _count(source)
        total = sum(databases.values())
        for number, count in databases.items():
            connections = (clients.enter_context(connect(number)) for connect in (pair.source, pair.copy))
            database = _Database(number, *connections)
            for keys in _keys(database.source, None if full or total <= SAMPLE_SIZE else share(count, total)):
                _compare(pair, report, database, keys)
                time.sleep(PAUSE)
    return report


def share(count: int, total: int) -> int:
    """Return how many keys of a database are in the sample.

    The database has ``count`` of all ``total`` keys.
    """
    return math.ceil(SAMPLE_SIZE * count / total)


def _keys(redis: Redis, sample: int | None) -> Iterator[list[bytes]]:
    """Yield all keys of a database, or a random sample, in batches."""
    if sample is not None:
        commands = [("RANDOMKEY",)] * sample
        keys = {key for batch in batches(commands, BATCH) for key in ask(redis, batch) if key}
        yield from batches(sorted(keys), BATCH)
        return
    for batch in scan(redis, count=BATCH):
        yield from batches(batch, BATCH)


def _counts(source: Redis, copy: Redis, wait_until_synced: Callable[[], None]) -> list[str]:
    """Return how the numbers of keys differ.

    Keys that come and go during the comparison are no difference.
    """
    for attempt in range(ROUNDS):
        first = _count(source)
        wait_until_synced()
        copied = _count(copy)
        last = _count(source)
        problems = [
            f"db{number} has {last.get(number, 0)} keys there and {copied.get(number, 0)} here"
            for number in sorted({*first, *copied, *last})
            if not is_between(copied.get(number, 0), first.get(number, 0), last.get(number, 0))
        ]
        if not problems:
            return []
        time.sleep(0.1 * attempt)
    return problems


def _count(redis: Redis) -> dict[int, int]:
    return {int(name[2:]): database["keys"] for name, database in keyspace(redis.info("keyspace")).items()}


def is_between(count: int, first: int, last: int) -> bool:
    """Say whether a count lies between two others."""
    return min(first, last) <= count <= max(first, last)


def _compare(pair: Pair, report: Report, database: _Database, keys: list[bytes]) -> None:
    """Compare keys, and repeat it for those that changed on the source.

    A key is compared until it is the same or did not change on the source during the comparison, at most ROUNDS times.
    """
    report.compared += len(keys)
    progress.report(f"comparing keys: {report.compared:,}")
    remaining = keys
    for _ in range(ROUNDS):
        remaining = _compare_once(pair, report, database, remaining)
        if not remaining:
            return
    report.still_changing += len(remaining)


def _compare_once(pair: Pair, report: Report, database: _Database, keys: list[bytes]) -> list[bytes]:
    """Compare keys once.

    Returns those that differ, but changed on the source during the comparison.
    """
    absolute = pair.absolute_expiry
    originals = _read(database.source, keys, absolute_expiry=absolute)
    pair.wait_until_synced()
    copies = _read(database.copy, keys, absolute_expiry=True)
    differing: dict[bytes, tuple[Fingerprint, Fingerprint]] = {}
    for key, original, copied in zip(keys, originals, copies, strict=True):
        if difference(original, copied, time.time(), absolute_expiry=absolute):
            differing[key] = (original, copied)
        else:
            _record_same(pair, report, original, copied)
            report.outside_patterns += not any(fnmatchcase(key.decode("latin-1"), pattern) for pattern in pair.patterns)
            if copied.is_there and sum(map(len, report.samples.values())) < SAMPLE_SIZE:
                report.samples.setdefault(database.number, {})[key] = copied
    changing = []
    again = _read(database.source, list(differing), absolute_expiry=absolute)
    for (key, (original, copied)), current in zip(differing.items(), again, strict=True):
        late = 0 if absolute else TTL_TOLERANCE_MS
        if difference(original, current, time.time(), absolute_expiry=absolute, late=late):
            changing.append(key)
            continue
        what = difference(original, copied, time.time(), absolute_expiry=absolute)
        kind = f"{what} ({original.type} in db{database.number})"
        report.differing[kind] = report.differing.get(kind, 0) + 1
        if len(report.names) < MAX_NAMES:
            report.names.append(words(key))
    return changing


def _record_same(pair: Pair, report: Report, original: Fingerprint, copied: Fingerprint) -> None:
    drift = copied.expires_at - original.expires_at
    if not pair.absolute_expiry and original.is_there and drift > TTL_TOLERANCE_MS:
        report.ttl_drift = max(report.ttl_drift, drift / 1000)
    report.length_only += bool(original.length and not original.digest)


def _read(redis: Redis, keys: list[bytes], *, absolute_expiry: bool) -> list[Fingerprint]:
    if not keys:
        return []
    for _ in range(ROUNDS):
        try:
            return fingerprints(redis, keys, absolute_expiry=absolute_expiry)
        except ResponseError as error:
            # The key has got another type since TYPE.
            if "WRONGTYPE" not in str(error):
                raise
    return fingerprints(redis, keys, absolute_expiry=absolute_expiry)


def difference(
    original: Fingerprint, copied: Fingerprint, now: float, *, absolute_expiry: bool, late: int = MAX_TTL_DRIFT_MS
) -> str:
    """Return in what two fingerprints differ; empty if they do not.

    ``now`` is this host's clock in seconds. A key that has expired by this clock counts as missing. ``late`` is by how
    many milliseconds the copy may expire later, unless the original has an ``absolute_expiry``.
    """
    if original.is_there != copied.is_there:
        present = original if original.is_there else copied
        if 0 < present.expires_at <= now * 1000:
            return ""
        return "missing" if original.is_there else "only here"
    if original.type != copied.type:
        return "type"
    if not _has_same_expiry(original, copied, absolute_expiry=absolute_expiry, late=late):
        return "expiry"
    return "" if original.has_same_value(copied) else "value"


def _has_same_expiry(original: Fingerprint, copied: Fingerprint, *, absolute_expiry: bool, late: int) -> bool:
    if original.expires_at == copied.expires_at:
        return True
    if absolute_expiry or -1 in (original.expires_at, copied.expires_at):
        return False
    return -TTL_TOLERANCE_MS <= copied.expires_at - original.expires_at <= late
