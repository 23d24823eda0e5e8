"""Scans over many keys that other clients do not notice.

They take small steps and pause after each. Redis executes one command at a time, so each step here takes it about a
millisecond.
"""

import random
import time
from collections.abc import Iterable, Iterator
from typing import Any

from redis import Redis

# Keys per step of SCAN, commands that are sent at once, and the pause in seconds after a step.
STEP = 1000
PAUSE = 0.001


def keys_like(redis: Redis, pattern: str) -> Iterator[list[str]]:
    """Yield all keys of a pattern in batches.

    A key that exists all the time comes at least once.
    """
    cursor = 0
    while True:
        cursor, keys = redis.scan(cursor, match=pattern, count=STEP)
        if keys:
            yield from batches(keys, STEP)
        if not cursor:
            return
        time.sleep(PAUSE)


def members(redis: Redis, key: str, size: int) -> Iterator[list[tuple[str, float]]]:
    """Yield all members of a sorted set with their scores, in batches.

    The caller may remove them.
    """
    cursor = 0
    while True:
        cursor, entries = redis.zscan(key, cursor, count=size)
        yield from batches(entries, size)
        if not cursor:
            return
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
