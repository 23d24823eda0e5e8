"""Fingerprints of keys, to compare two servers: type, expiry and value digest.

DUMP cannot be compared: the order in which a hash or a set is stored differs between processes.
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from redisctl.core.scan import ask

# Elements of a key, and bytes of a string, up to which the value is compared. Of a larger one only the length is.
MAX_ELEMENTS = 1000
MAX_BYTES = 64 * 1024

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


def fingerprints(redis: Redis, keys: Sequence[bytes], *, absolute_expiry: bool = True) -> list[Fingerprint]:
    """Return the fingerprints of keys, in a few round trips.

    The client must not decode. ``absolute_expiry`` says that Redis knows PEXPIRETIME, as it does since 7.0. Otherwise
    the expiry is computed from its clock and the TTL, and is off by the time of a round trip. Raises RedisError.
    """
    command, now = ("PEXPIRETIME", 0) if absolute_expiry else ("PTTL", _clock(redis))
    answers = ask(redis, [words for key in keys for words in (("TYPE", key), (command, key))])
    types = [kind.decode() for kind in answers[::2]]
    lengths = _ask_some(
        redis, [(_LENGTH[kind], key) if kind in _LENGTH else None for kind, key in zip(types, keys, strict=True)]
    )
    contents = _ask_some(
        redis, [_read_command(kind, key, length) for kind, key, length in zip(types, keys, lengths, strict=True)]
    )
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


def _read_command(kind: str, key: bytes, length: int | None) -> tuple[Any, ...] | None:
    """Return the command that reads a value.

    Returns None if the value is too large or of an unknown type.
    """
    if length is None or length > (MAX_BYTES if kind == "string" else MAX_ELEMENTS):
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
