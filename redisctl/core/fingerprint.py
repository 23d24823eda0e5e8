"""What a key is, in a form that can be compared with another server's: type, end, and a digest of the value.

Not DUMP: the order in which a hash or a set is stored is different in each process.
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from redisctl.core.scan import ask

# Elements of a key, and bytes of a string, whose value is compared; of a larger one it is the length alone.
ELEMENTS = 1000
BYTES = 64 * 1024

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
    """A key as it is. ``expires_at`` is Unix time in milliseconds, -1 for never. ``digest`` is empty for a type not
    read."""

    type: str
    expires_at: int
    length: int
    digest: str

    @property
    def is_there(self) -> bool:
        """Whether there is such a key."""
        return self.type != "none"


def fingerprints(redis: Redis, keys: Sequence[bytes], *, absolute_expiry: bool = True) -> list[Fingerprint]:
    """What these keys are, in a few round trips. The client must not decode. Raises RedisError.

    ``absolute_expiry`` is whether Redis tells the moment at which a key ends, as it does since 7.0. Else the end is
    reckoned by its clock, and off by the time of a round trip.
    """
    asked, now = ("PEXPIRETIME", 0) if absolute_expiry else ("PTTL", _clock(redis))
    answers = ask(redis, [command for key in keys for command in (("TYPE", key), (asked, key))])
    types = [kind.decode() for kind in answers[::2]]
    lengths = _ask_some(
        redis, [(_LENGTH[kind], key) if kind in _LENGTH else None for kind, key in zip(types, keys, strict=True)]
    )
    contents = _ask_some(
        redis, [_content(kind, key, length) for kind, key, length in zip(types, keys, lengths, strict=True)]
    )
    return [
        Fingerprint(kind, int(ends) + (now if ends >= 0 else 0), int(length or 0), digest(kind, content))
        for kind, ends, length, content in zip(types, answers[1::2], lengths, contents, strict=True)
    ]


def _clock(redis: Redis) -> int:
    """The time that Redis has, in milliseconds since 1970."""
    seconds, micros = redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


def _ask_some(redis: Redis, commands: Iterable[tuple[Any, ...] | None]) -> list[Any]:
    every = list(commands)
    answers = iter(ask(redis, [command for command in every if command]))
    return [next(answers) if command else None for command in every]


def _content(kind: str, key: bytes, length: int | None) -> tuple[Any, ...] | None:
    if length is None or length > (BYTES if kind == "string" else ELEMENTS):
        return None
    return {
        "string": ("GET", key),
        "list": ("LRANGE", key, 0, -1),
        "hash": ("HGETALL", key),
        "set": ("SMEMBERS", key),
        "zset": ("ZRANGE", key, 0, -1, "WITHSCORES"),
        "stream": ("XRANGE", key, "-", "+"),
    }[kind]


def digest(kind: str, content: Any) -> str:
    """A digest of a value as redis-py answers it, whatever order hashes and sets came in."""
    if content is None:
        return ""
    if kind == "hash":
        content = sorted(content.items())
    elif kind == "set":
        content = sorted(content)
    elif kind == "zset":
        # Versions print scores in different ways.
        flat = (
            content if not content or not isinstance(content[0], tuple) else [one for pair in content for one in pair]
        )
        content = [one if place % 2 == 0 else struct.pack("d", float(one)) for place, one in enumerate(flat)]
    taken = hashlib.sha256()
    _feed(taken, content)
    return taken.hexdigest()


def _feed(taken: Any, content: Any) -> None:
    """Each part with its length before it, so that no two contents are the same bytes."""
    if isinstance(content, dict):
        content = list(content.items())
    if isinstance(content, (list, tuple)):
        taken.update(f"*{len(content)}\n".encode())
        for one in content:
            _feed(taken, one)
    else:
        data = content if isinstance(content, bytes) else str(content).encode()
        taken.update(f"${len(data)}\n".encode() + data)
