"""Which keys use the memory: by prefix, and the biggest keys.

Both come from a sample of limited cost. Keys contain secrets (the key of a session is its cookie) and personal data. So
everything that looks like an ID is replaced by ``<id>``, which also keeps the number of prefixes small.
"""

import heapq
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import Any

from redis import Redis

from redisctl.core.formatting import words
from redisctl.core.scan import scan

ID = "<id>"
OTHERS = "(others)"
# Keys that are measured at once. Redis serves other clients in between.
BATCH = 100
# Elements of a collection that MEMORY USAGE measures; Redis's own default.
SAMPLES = 5
# Limit of prefixes. IDs that do not look like IDs would fill this host's memory otherwise.
PREFIXES = 10_000

_BETWEEN = r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])"
_UUID = re.compile(_BETWEEN.format(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"))
# Eight or more hexadecimal digits, one of them not a letter: "deadbeef" may be a name, "deadbee1" is not.
_HEX = re.compile(_BETWEEN.format(r"(?=[a-fA-F]*[0-9])[0-9a-fA-F]{8,}|[0-9a-fA-F]{16,}"))
_DIGITS = re.compile(_BETWEEN.format(r"[0-9]+"))
# A long part is a name if it consists of words, else a token.
_WORDS = re.compile(r"[a-z]+(?:[._-][a-z]+)*|[A-Z]+(?:[._-][A-Z]+)*")
_LONG, _LONGEST = 20, 60

# The command that counts the elements of a type.
_LENGTHS = {"list": "LLEN", "set": "SCARD", "hash": "HLEN", "zset": "ZCARD", "stream": "XLEN"}


@dataclass(frozen=True)
class Group:
    """Keys of one prefix.

    ``seen_keys`` and ``seen_bytes`` are those in the sample, ``share`` is their part of its bytes. ``keys`` and
    ``bytes`` are the estimate for the whole database.
    """

    prefix: str
    seen_keys: int
    seen_bytes: int
    share: float
    keys: int
    bytes: int


@dataclass(frozen=True)
class BigKey:
    """A big key. ``elements`` is None for a type without elements."""

    name: str
    type: str
    bytes: int
    elements: int | None


@dataclass(frozen=True)
class Usage:
    """The memory of a database's keys. ``keys`` counts all keys.

    Unless ``complete`` is true, ``bytes`` and the keys and bytes of groups are extrapolated from a sample.
    """

    database: int
    keys: int
    seen_keys: int
    seen_bytes: int
    complete: bool
    bytes: int
    groups: tuple[Group, ...]
    biggest: tuple[BigKey, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return asdict(self)


def fold(part: str) -> str:
    """Replace IDs in a part of a key: ``user-17`` becomes ``user-<id>``."""
    # A mail address is personal data.
    if "@" in part or len(part) > _LONGEST or _is_token(part):
        return ID
    for pattern in (_UUID, _HEX, _DIGITS):
        part = pattern.sub(ID, part)
    return part


def _is_token(part: str) -> bool:
    return len(part) >= _LONG and not _UUID.search(part) and not _WORDS.fullmatch(part)


def prefix_of(key: str, depth: int, sessions: str) -> str:
    """Return the first parts of a key, and ``*`` for the rest.

    The ``*`` in the pattern ``sessions`` is an ID.
    """
    parts = _folded(key, sessions)
    return ":".join(parts[:depth] + ["*"] * (len(parts) > depth))


def masked(key: str, sessions: str) -> str:
    """Return a key without its last part, with IDs replaced."""
    return ":".join([*_folded(key, sessions)[:-1], "…"])


def _folded(key: str, sessions: str) -> list[str]:
    head, star, _ = sessions.partition("*")
    if star and head and key.startswith(head):
        return [*head.rstrip(":").split(":"), ID]
    return [fold(part) for part in key.split(":")]


class Tally:
    """Sums up keys by prefix, and remembers the biggest ones."""

    def __init__(self, depth: int, sessions: str, biggest: int) -> None:
        self._depth, self.sessions, self._max_biggest = depth, sessions, biggest
        self._groups: dict[str, list[int]] = {}
        self._big: list[tuple[int, bytes]] = []
        self.keys = self.bytes = 0

    def add(self, key: bytes, size: int) -> None:
        """Count a key and its bytes."""
        prefix = prefix_of(words(key), self._depth, self.sessions)
        if prefix not in self._groups and len(self._groups) >= PREFIXES:
            prefix = OTHERS
        group = self._groups.setdefault(prefix, [0, 0])
        group[0] += 1
        group[1] += size
        self.keys += 1
        self.bytes += size
        heapq.heappush(self._big, (size, key))
        if len(self._big) > self._max_biggest:
            heapq.heappop(self._big)

    @property
    def biggest(self) -> list[tuple[int, bytes]]:
        """The sizes and names of the biggest keys, the biggest first."""
        return sorted(self._big, reverse=True)

    def groups(self, keys: int) -> tuple[Group, ...]:
        """Return the groups, biggest first, extrapolated to a database of ``keys`` keys."""
        scale = keys / self.keys if self.keys else 0
        groups = [
            Group(prefix, count, size, size / self.bytes, round(count * scale), round(size * scale))
            for prefix, (count, size) in self._groups.items()
        ]
        return tuple(sorted(groups, key=lambda group: group.bytes, reverse=True))


def usage(redis: Redis, database: int, tally: Tally, sample: int | None, names: bool) -> Usage:
    """Measure ``sample`` keys, or all if it is None.

    ``redis`` does not decode. ``names`` shows the names of the biggest keys instead of masking them. SCAN orders keys
    by a hash that does not depend on names, sizes and ages, so the first keys are a fair sample. After each batch,
    Redis gets as long for other clients as the batch took. Raises RedisError.
    """
    scanned: Iterable[bytes] = chain.from_iterable(scan(redis, count=BATCH))
    for batch in _batches(scanned if sample is None else islice(scanned, sample)):
        start = time.perf_counter()
        with redis.pipeline(transaction=False) as pipe:
            for key in batch:
                pipe.memory_usage(key, samples=SAMPLES)
            for key, size in zip(batch, pipe.execute(), strict=True):
                # None if the key is gone.
                if size is not None:
                    tally.add(key, size)
        time.sleep(time.perf_counter() - start)
    count = redis.dbsize()
    complete = sample is None or count <= sample
    keys = tally.keys if complete else count
    return Usage(
        database=database,
        keys=keys,
        seen_keys=tally.keys,
        seen_bytes=tally.bytes,
        complete=complete,
        bytes=round(tally.bytes * keys / tally.keys) if tally.keys else 0,
        groups=tally.groups(keys),
        biggest=tuple(_big(redis, key, size, None if names else tally.sessions) for size, key in tally.biggest),
    )


def _batches(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    rest = iter(keys)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _big(redis: Redis, key: bytes, size: int, sessions: str | None) -> BigKey:
    kind = words(redis.execute_command("TYPE", key))
    length = _LENGTHS.get(kind)
    elements = redis.execute_command(length, key) if length else None
    name = words(key)
    return BigKey(name if sessions is None else masked(name, sessions), kind, size, elements)
