"""Fingerprints of keys, to compare two servers: type, expiry and value digest.

DUMP cannot be compared: the order in which a hash or a set is stored differs between processes.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from redisctl.core.answers import reading_answers
from redisctl.core.client import UnreadableAnswer
from redisctl.core.scan import ask, batches

# Elements of a key, and bytes, up to which the value is compared. Of a larger one only the length is.
MAX_ELEMENTS = 1000
MAX_BYTES = 100 * 1024
# Entries of a stream that are compared. Redis stores the fields that entries share once, and answers them for each.
MAX_ENTRIES = 50
# Keys that are read at once, and the bytes of their contents. Each string counts some bytes in addition, so that the
# answers stay within what client.py reads.
BATCH, MAX_CONTENTS, _PER_STRING = 100, 12 * 1024**2, 48

_LENGTH = {
    "string": "STRLEN",
    "list": "LLEN",
    "hash": "HLEN",
    "set": "SCARD",
    "zset": "ZCARD",
    "stream": "XLEN",
}


@dataclass(frozen=True)
class Fingerprint:
    """A key's state.

    ``expires_at`` is Unix time in milliseconds, -1 for never. ``digest`` is empty if not compared.
    """

    type: str
    expires_at: int
    length: int
    digest: str

    @property
    def is_there(self) -> bool:
        """Whether the key exists."""
        return self.type != "none"

    def has_same_value(self, other: "Fingerprint") -> bool:
        """Say whether two values are the same, as far as both were read."""
        same_length = (self.type, self.length) == (other.type, other.length)
        return same_length and (self.digest == other.digest or not (self.digest and other.digest))

    def is_same(self, other: "Fingerprint") -> bool:
        """Say whether two keys have the same value and expiry."""
        return self.has_same_value(other) and self.expires_at == other.expires_at


@reading_answers()
def fingerprints(redis: Redis, keys: Sequence[bytes], *, absolute_expiry: bool = True) -> list[Fingerprint]:
    """Return the fingerprints of keys, in a few round trips for each BATCH of them.

    The client must not decode. ``absolute_expiry`` says that Redis knows PEXPIRETIME, as it does since 7.0. Otherwise
    the expiry is computed from its clock and the TTL, and is off by the time of a round trip. Raises RedisError
    and Failure.
    """
    return [
        fingerprint
        for batch in batches(list(keys), BATCH)
        for fingerprint in _fingerprints(redis, batch, absolute_expiry=absolute_expiry)
    ]


def _fingerprints(redis: Redis, keys: list[bytes], *, absolute_expiry: bool) -> list[Fingerprint]:
    command, now = ("PEXPIRETIME", 0) if absolute_expiry else ("PTTL", _clock(redis))
    answers = ask(redis, [words for key in keys for words in (("TYPE", key), (command, key))])
    types = [kind.decode() for kind in answers[::2]]
    lengths = _ask_some(
        redis, [(_LENGTH[kind], key) if kind in _LENGTH else None for kind, key in zip(types, keys, strict=True)]
    )
    sizes = _sizes(redis, types, keys, lengths)
    contents = _contents(redis, types, keys, lengths, sizes)
    return [
        Fingerprint(kind, int(expiry) + (now if expiry >= 0 else 0), int(length or 0), digest(kind, content))
        for kind, expiry, length, content in zip(types, answers[1::2], lengths, contents, strict=True)
    ]


def _clock(redis: Redis) -> int:
    """Return Redis's clock in milliseconds since 1970."""
    seconds, micros = redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


def _ask_some(redis: Redis, commands: Iterable[tuple[Any, ...] | None]) -> list[Any]:
    """Send the commands that are not None, and return None for the others."""
    entries = list(commands)
    answers = iter(ask(redis, [command for command in entries if command]))
    return [next(answers) if command else None for command in entries]


def _sizes(redis: Redis, types: list[str], keys: list[bytes], lengths: list[int | None]) -> list[int | None]:
    """Return the bytes of values; None for those with too many elements.

    A single element may have half a gigabyte.
    """
    collections = {
        place: ("MEMORY", "USAGE", key, "SAMPLES", 0)
        for place, (kind, key, length) in enumerate(zip(types, keys, lengths, strict=True))
        if kind in _LENGTH and kind != "string" and length is not None and length <= MAX_ELEMENTS
    }
    try:
        answers = ask(redis, collections.values())
    except ResponseError:
        # A source of an import that is older than Redis 4, or does not allow it.
        answers = [MAX_BYTES] * len(collections)
    sizes = dict(zip(collections, answers, strict=True))
    return [lengths[place] if kind == "string" else sizes.get(place) for place, kind in enumerate(types)]


def _contents(
    redis: Redis, types: list[str], keys: list[bytes], lengths: list[int | None], sizes: list[int | None]
) -> list[Any]:
    """Return values as redis-py does, None for those that are not compared."""
    costs = {
        place: answer_cost(types[place], lengths[place] or 0, size)
        for place, size in enumerate(sizes)
        if size is not None and size <= MAX_BYTES
    }
    contents: list[Any] = [None] * len(keys)
    for places in affordable(costs, MAX_CONTENTS):
        try:
            answers = ask(redis, [_read_command(types[place], keys[place]) for place in places])
        except UnreadableAnswer:
            # A list whose nodes are compressed, for example.
            continue
        for place, answer in zip(places, answers, strict=True):
            contents[place] = answer
    return contents


def answer_cost(kind: str, length: int, size: int) -> int:
    """Return the most that a value of ``size`` bytes in Redis can cost in an answer."""
    if kind == "stream":
        # Each value of an entry takes Redis two bytes or more, and its field may be shared.
        return min(length, MAX_ENTRIES) * size + size * _PER_STRING
    return size + (1 if kind == "string" else 2 * length) * _PER_STRING


def affordable(costs: Mapping[int, int], budget: int) -> Iterator[list[int]]:
    """Yield the places in groups that cost no more than the budget, or have only one."""
    group: list[int] = []
    spent = 0
    for place, cost in costs.items():
        if group and spent + cost > budget:
            yield group
            group, spent = [], 0
        group.append(place)
        spent += cost
    if group:
        yield group


def _read_command(kind: str, key: bytes) -> tuple[Any, ...]:
    """Return the command that reads a value."""
    return {
        "string": ("GET", key),
        "list": ("LRANGE", key, 0, -1),
        "hash": ("HGETALL", key),
        "set": ("SMEMBERS", key),
        "zset": ("ZRANGE", key, 0, -1, "WITHSCORES"),
        "stream": ("XRANGE", key, "-", "+", "COUNT", MAX_ENTRIES),
    }[kind]


def digest(kind: str, content: Any) -> str:
    """Return a digest of a value as redis-py returns it.

    The order of hashes and sets does not change it.
    """
    if content is None:
        return ""
    if kind == "hash":
        content = sorted(content.items())
    elif kind == "set":
        content = sorted(content)
    elif kind == "zset":
        is_paired = bool(content) and isinstance(content[0], tuple)
        flat = [part for pair in content for part in pair] if is_paired else content
        # Versions print scores in different ways.
        content = [part if place % 2 == 0 else struct.pack("d", float(part)) for place, part in enumerate(flat)]
    sha256 = hashlib.sha256()
    _feed(sha256, content)
    return sha256.hexdigest()


def _feed(sha256: Any, content: Any) -> None:
    """Hash each part with its length before it.

    So different contents never give the same bytes.
    """
    if isinstance(content, dict):
        content = list(content.items())
    if isinstance(content, (list, tuple)):
        sha256.update(f"*{len(content)}\n".encode())
        for part in content:
            _feed(sha256, part)
    else:
        data = content if isinstance(content, bytes) else str(content).encode()
        sha256.update(f"${len(data)}\n".encode() + data)
