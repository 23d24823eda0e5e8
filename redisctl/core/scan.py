"""Scans over many keys that other clients do not notice.

They take small steps and pause after each. Redis executes one command at a time, so each step here takes it about a
millisecond.
"""

import random
import time
from collections.abc import Iterable, Iterator
from typing import Any

from redis import Redis

from redisctl.core import progress
from redisctl.core.answers import reading_answers
from redisctl.core.client import UnreadableAnswer
from redisctl.core.errors import Failure

# Keys per step of SCAN, commands that are sent at once, and the pause in seconds after a step.
STEP = 1000
PAUSE = 0.001
# Seconds for a whole scan. Redis decides when it ends. 100 million keys take about half an hour, and a comparison of
# them some hours.
SCAN_TIMEOUT = 86400
# Bytes of the name of a key in a sample, and names that are read at once. Applications may write longer ones.
MAX_NAME, _NAMES = 64 * 1024, 10


def scan(
    redis: Redis, pattern: str | None = None, *, count: int = STEP, database: int | None = None
) -> Iterator[list[Any]]:
    """Yield the keys of a database as SCAN returns them, ``count`` a step or more.

    ``database`` is another one than that of the client. Raises RedisError, and Failure if Redis never ends the scan.
    """
    deadline = time.monotonic() + SCAN_TIMEOUT
    cursor = seen = 0
    own = redis.connection_pool.connection_kwargs.get("db") or 0
    while True:
        try:
            if database is None or database == own:
                cursor, keys = redis.scan(cursor, match=pattern, count=count)
            else:
                match = () if pattern is None else ("MATCH", pattern)
                step = ("SCAN", cursor, *match, "COUNT", count)
                _, (cursor, keys), _ = ask(redis, [("SELECT", database), step, ("SELECT", own)])
        except UnreadableAnswer:
            # Many long names. One alone is never too long: the client reads it as an empty one.
            if count == 1:
                raise
            count = max(1, count // 10)
            continue
        seen += len(keys)
        progress.report(f"reading keys: {seen:,}")
        yield keys
        if not cursor:
            return
        _ensure_in_time(deadline)


def _ensure_in_time(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise Failure(f"reading all keys did not end within {SCAN_TIMEOUT / 3600:.0f} h: redisctl health checks Redis")


def keys_like(redis: Redis, pattern: str) -> Iterator[list[str]]:
    """Yield all keys of a pattern in batches.

    A key that exists all the time comes at least once.
    """
    for keys in scan(redis, pattern):
        yield from batches(keys, STEP)
        time.sleep(PAUSE)


@reading_answers()
def random_keys(redis: Redis, number: int) -> list[bytes]:
    """Return some keys of the first database, sorted, at most ``number``.

    Leaves out names above MAX_NAME bytes. The client must not decode. Raises RedisError.
    """
    keys: set[bytes] = set()
    for commands in batches([("RANDOMKEY",)] * number, _NAMES):
        try:
            keys.update(key for key in ask(redis, commands) if key and len(key) <= MAX_NAME)
        except UnreadableAnswer:
            continue
    return sorted(keys)


def members(redis: Redis, key: str, size: int) -> Iterator[list[tuple[str, float]]]:
    """Yield all members of a sorted set with their scores, in batches.

    The caller may remove them.
    """
    deadline = time.monotonic() + SCAN_TIMEOUT
    cursor = 0
    while True:
        cursor, entries = redis.zscan(key, cursor, count=size)
        yield from batches(entries, size)
        if not cursor:
            return
        _ensure_in_time(deadline)
        time.sleep(PAUSE)


def ask(redis: Redis, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Send commands at once, not as a transaction, and return the answers.

    The caller sends no more commands than one step. Raises RedisError.
    """
    with redis.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        return pipeline.execute()


def batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Yield a list in parts."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class Sample:
    """A random sample of at most ``capacity`` keys.

    Each key has the same chance, and how many will come need not be known.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.offered = 0
        self.keys: list[str] = []

    def add(self, keys: Iterable[str]) -> None:
        """Offer keys to the sample."""
        for key in keys:
            self.offered += 1
            if len(self.keys) < self._capacity:
                self.keys.append(key)
            elif (index := random.randrange(self.offered)) < self._capacity:
                self.keys[index] = key

    def sizes(self, redis: Redis) -> list[int]:
        """Return the memory in bytes of the keys that still exist.

        It does not count as their use.
        """
        sizes: list[int] = []
        for keys in batches(self.keys, STEP):
            sizes += [size for size in ask(redis, [("MEMORY", "USAGE", key) for key in keys]) if size]
            time.sleep(PAUSE)
        return sizes


def memory(sizes: list[int], count: int) -> dict[str, int]:
    """Extrapolate the sizes of a sample to ``count`` keys.

    Returns bytes of all (estimated), mean and largest.
    """
    mean = sum(sizes) / len(sizes) if sizes else 0
    return {"all": int(mean * count), "mean": int(mean), "largest": max(sizes, default=0), "sampled": len(sizes)}
