"""Data files as other servers write them, and as damage leaves them."""

import os
from collections.abc import Callable
from pathlib import Path

from redisctl.core import aof_manifest
from redisctl.core.instance import Instance
from redisctl.core.scratch_redis import running_redis, scratch_name

LIBRARY = "#!lua name=lib\nredis.register_function('f', function() return 1 end)"
KEYS = 40


def command(*arguments: str | bytes) -> bytes:
    """Return a command as an AOF contains it."""
    data = [item if isinstance(item, bytes) else item.encode() for item in arguments]
    return b"*%d\r\n" % len(data) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in data)


def write_rdb(instance: Instance, directory: Path, *, database: int = 5, checksum: bool = True) -> bytes:
    """Return an RDB snapshot of a plain server.

    It has keys of several types in two databases, and a function.
    """
    options = {"databases": "64", "rdbcompression": "no", "rdbchecksum": "yes" if checksum else "no"}
    directory.mkdir()
    os.chown(directory, *instance.owner)
    with running_redis(instance, scratch_name(instance), directory, options, 0) as redis:
        for number in range(KEYS - 3):
            redis.set(f"key:{number}", "value", px=7_200_000 if number % 2 else None)
        redis.hset(b"\xff\x00hash", mapping={f"field{number}": f"value{number}" for number in range(20)})
        redis.xadd("stream", {"a": "b"})
        redis.function_load(LIBRARY)
        redis.execute_command("SELECT", database)
        redis.set("elsewhere", "1")
        redis.save()
    return (directory / "dump.rdb").read_bytes()


def write_aof(directory: Path, base: bytes, increment: bytes, name: str = "appendonly.aof") -> Path:
    """Write the directory of an AOF of Redis 7."""
    directory.mkdir()
    (directory / f"{name}.1.base.rdb").write_bytes(base)
    (directory / f"{name}.1.incr.aof").write_bytes(increment)
    parts = [
        aof_manifest.Part(f"{name}.1.base.rdb", 1, aof_manifest.BASE),
        aof_manifest.Part(f"{name}.1.incr.aof", 1, aof_manifest.INCREMENT),
    ]
    (directory / f"{name}.manifest").write_text(aof_manifest.to_text(parts))
    return directory


Edit = Callable[[bytes], bytes]


def flipped(at: int) -> Edit:
    """Return an edit that changes one byte."""
    return lambda data: data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
