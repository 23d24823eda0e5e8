"""Which keys take the memory: by prefix, from a sample of bounded cost, and the biggest ones of it.

Keys hold secrets (a session's key is its cookie) and people's data: whatever looks like an ID is folded into ``<id>``,
which also keeps prefixes few.
"""

import heapq
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from redis import Redis

from redisctl.core.formatting import words

ID = "<id>"
OTHERS = "(others)"
# Keys in one go: Redis answers others in between.
BATCH = 100
# Elements of a collection that MEMORY USAGE looks at; Redis's own default.
SAMPLES = 5
# More prefixes than anybody reads are names that do not look like IDs: they would fill this host's memory.
PREFIXES = 10_000

_BETWEEN = r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])"
_UUID = re.compile(_BETWEEN.format(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"))
# Eight digits of which one is no letter: "deadbeef" may be a name, "deadbee1" is not.
_HEX = re.compile(_BETWEEN.format(r"(?=[a-fA-F]*[0-9])[0-9a-fA-F]{8,}|[0-9a-fA-F]{16,}"))
_DIGITS = re.compile(_BETWEEN.format(r"[0-9]+"))
# A long part is a name when it is made of words, else a token.
_WORDS = re.compile(r"[a-z]+(?:[._-][a-z]+)*|[A-Z]+(?:[._-][A-Z]+)*")
_LONG, _LONGEST = 20, 60

# How many elements a key of a type has.
_LENGTHS = {"list": "LLEN", "set": "SCARD", "hash": "HLEN", "zset": "ZCARD", "stream": "XLEN"}


@dataclass(frozen=True)
class Group:
    """Keys of one prefix: those that were seen with their bytes, and what all of the database have, by their share."""

    prefix: str
    seen_keys: int
    seen_bytes: int
    share: float
    keys: int
    bytes: int


@dataclass(frozen=True)
class Big:
    """A key that takes much. ``elements`` is None for a type that has none."""

    name: str
    type: str
    bytes: int
    elements: int | None


@dataclass(frozen=True)
class Usage:
    """What a database's keys take. ``keys`` are all there are; ``whole`` says that all were seen, else it is a sample.

    ``bytes`` of all keys is then extrapolated, and so are the keys and bytes of groups.
    """

    database: int
    keys: int
    seen_keys: int
    seen_bytes: int
    whole: bool
    bytes: int
    groups: tuple[Group, ...]
    biggest: tuple[Big, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def fold(part: str) -> str:
    """A part of a key with IDs folded: ``user-17`` is ``user-<id>``."""
    # An address of mail is somebody's, too.
    if "@" in part or len(part) > _LONGEST or _is_token(part):
        return ID
    for pattern in (_UUID, _HEX, _DIGITS):
        part = pattern.sub(ID, part)
    return part


def _is_token(part: str) -> bool:
    return len(part) >= _LONG and not _UUID.search(part) and not _WORDS.fullmatch(part)


def prefix_of(key: str, depth: int, sessions: str) -> str:
    """The first parts of a key, and ``*`` for the rest. What ``*`` in the pattern ``sessions`` stands for is an ID."""
    parts = _folded(key, sessions)
    return ":".join(parts[:depth] + ["*"] * (len(parts) > depth))


def masked(key: str, sessions: str) -> str:
    """A key's name without its last part, and with IDs folded."""
    return ":".join([*_folded(key, sessions)[:-1], "…"])


def _folded(key: str, sessions: str) -> list[str]:
    head, star, _ = sessions.partition("*")
    if star and head and key.startswith(head):
        return [*head.rstrip(":").split(":"), ID]
    return [fold(part) for part in key.split(":")]


class Tally:
    """Sums by prefix, and the biggest keys."""

    def __init__(self, depth: int, sessions: str, biggest: int) -> None:
        self._depth, self.sessions, self._most = depth, sessions, biggest
        self._groups: dict[str, list[int]] = {}
        self._big: list[tuple[int, bytes]] = []
        self.keys = self.bytes = 0

    def add(self, key: bytes, taken: int) -> None:
        """Count a key that takes so many bytes."""
        prefix = prefix_of(words(key), self._depth, self.sessions)
        if prefix not in self._groups and len(self._groups) >= PREFIXES:
            prefix = OTHERS
        group = self._groups.setdefault(prefix, [0, 0])
        group[0] += 1
        group[1] += taken
        self.keys += 1
        self.bytes += taken
        heapq.heappush(self._big, (taken, key))
        if len(self._big) > self._most:
            heapq.heappop(self._big)

    @property
    def biggest(self) -> list[tuple[int, bytes]]:
        """The biggest keys and what they take, the biggest first."""
        return sorted(self._big, reverse=True)

    def groups(self, keys: int) -> tuple[Group, ...]:
        """The groups, the biggest first, with what they come to when the database has so many keys."""
        scale = keys / self.keys if self.keys else 0
        found = [
            Group(prefix, count, taken, taken / self.bytes, round(count * scale), round(taken * scale))
            for prefix, (count, taken) in self._groups.items()
        ]
        return tuple(sorted(found, key=lambda group: group.bytes, reverse=True))


def usage(redis: Redis, database: int, tally: Tally, sample: int | None, names: bool) -> Usage:
    """Look at ``sample`` keys, or at all for None. ``redis`` answers in bytes. Raises RedisError.

    The biggest keys go by their ``names``, or masked.

    SCAN goes by a hash that knows nothing of names, sizes and ages: the first keys that it finds are a fair sample.
    Redis is given as much time for others as it is asked for.
    """
    found: Iterable[bytes] = redis.scan_iter(count=BATCH)
    for batch in _batches(found if sample is None else islice(found, sample)):
        start = time.perf_counter()
        with redis.pipeline(transaction=False) as pipe:
            for key in batch:
                pipe.memory_usage(key, samples=SAMPLES)
            for key, taken in zip(batch, pipe.execute(), strict=True):
                # None: gone since.
                if taken is not None:
                    tally.add(key, taken)
        time.sleep(time.perf_counter() - start)
    there = redis.dbsize()
    whole = sample is None or there <= sample
    keys = tally.keys if whole else there
    return Usage(
        database=database,
        keys=keys,
        seen_keys=tally.keys,
        seen_bytes=tally.bytes,
        whole=whole,
        bytes=round(tally.bytes * keys / tally.keys) if tally.keys else 0,
        groups=tally.groups(keys),
        biggest=tuple(_big(redis, key, taken, None if names else tally.sessions) for taken, key in tally.biggest),
    )


def _batches(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    rest = iter(keys)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _big(redis: Redis, key: bytes, taken: int, sessions: str | None) -> Big:
    kind = words(redis.execute_command("TYPE", key))
    length = _LENGTHS.get(kind)
    elements = redis.execute_command(length, key) if length else None
    name = words(key)
    return Big(name if sessions is None else masked(name, sessions), kind, taken, elements)
