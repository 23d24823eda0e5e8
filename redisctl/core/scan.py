"""Ways over many keys that other clients do not notice: small steps, and a pause after each.

Redis does one thing at a time. What is asked here is done in parts that take it about a millisecond.
"""

import random
import time
from collections.abc import Iterable, Iterator
from typing import Any

from redis import Redis

# Keys that Redis looks at in one step of SCAN, commands that are sent at once, and the pause in seconds after a step.
STEP = 1000
PAUSE = 0.001


def keys_like(redis: Redis, pattern: str) -> Iterator[list[str]]:
    """All keys of a pattern, in batches. A key that is there all the time comes at least once."""
    cursor = 0
    while True:
        cursor, keys = redis.scan(cursor, match=pattern, count=STEP)
        if keys:
            yield from batches(keys, STEP)
        if not cursor:
            return
        time.sleep(PAUSE)


def members(redis: Redis, key: str, size: int) -> Iterator[list[tuple[str, float]]]:
    """All members of a sorted set with their scores, in batches; they may be removed meanwhile."""
    cursor = 0
    while True:
        cursor, found = redis.zscan(key, cursor, count=size)
        yield from batches(found, size)
        if not cursor:
            return
        time.sleep(PAUSE)


def ask(redis: Redis, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Answers to commands that are sent at once, and not as a transaction: no more than a step. Raises RedisError."""
    with redis.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        return pipeline.execute()


def batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    """A list in parts."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class Sample:
    """As many of the keys that pass as it has room for, each with the same chance, however many come."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.passed = 0
        self.keys: list[str] = []

    def add(self, keys: Iterable[str]) -> None:
        """Let keys pass."""
        for key in keys:
            self.passed += 1
            if len(self.keys) < self.room:
                self.keys.append(key)
            elif (place := random.randrange(self.passed)) < self.room:
                self.keys[place] = key

    def sizes(self, redis: Redis) -> list[int]:
        """Bytes of memory of those that are still there. It does not count as their use."""
        found: list[int] = []
        for some in batches(self.keys, STEP):
            found += [size for size in ask(redis, [("MEMORY", "USAGE", key) for key in some]) if size]
            time.sleep(PAUSE)
        return found


def memory(sizes: list[int], count: int) -> dict[str, int]:
    """What a sample says of so many keys: bytes in all (estimated), mean and largest."""
    mean = sum(sizes) / len(sizes) if sizes else 0
    return {"all": int(mean * count), "mean": int(mean), "largest": max(sizes, default=0), "sampled": len(sizes)}
