"""A moment in a log of writes: parsed, found, and cut to."""

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from redisctl.core import aof_manifest
from redisctl.core.aof_manifest import read_manifest
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.core.scratch_redis import run_checker

# -- A moment in a log of writes


def parse_time(text: str) -> float:
    """A moment on the command line: ``2026-11-24 16:20:05``, with a zone or of this host's; or seconds since 1970."""
    try:
        try:
            at = float(text)
        except ValueError:
            # As Python before 3.11 reads it.
            at = datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone().timestamp()
        # Neither nan, nor milliseconds, nor what no clock shows.
        datetime.fromtimestamp(at).astimezone()
        return at
    except (ValueError, OverflowError, OSError):
        raise Failure(f"{text!r} is no moment such as '2026-11-24 16:20:05'") from None


def format_time(at: float | None) -> str:
    """A moment as this host's clock has it."""
    return datetime.fromtimestamp(at or 0).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def aof_start_time(log: Path) -> float:
    """The moment from which on a log of writes can be followed: that of its base. Raises Failure."""
    base = read_manifest(log)[0]
    if base.type != aof_manifest.BASE:
        return 0.0
    at = rdb_time(log / base.name)
    if at is None:
        raise Failure(f"{base.name} does not say when it was made")
    return at


def rdb_time(path: Path) -> float | None:
    """The moment whose data a snapshot holds, from its head; None where it does not say, as a log without one."""
    with path.open("rb") as file:
        # An auxiliary field of every snapshot, a number of four bytes.
        found = re.search(rb"\xfa\x05ctime\xc2(.{4})", file.read(512), re.DOTALL)
    return float(int.from_bytes(found[1], "little")) if found else None


def truncate_aof(instance: Instance, log: Path, to: float) -> None:
    """Cut a log of writes, which is a copy, behind a moment: what was written in that second stays. Raises Failure."""
    start = aof_start_time(log)
    if int(to) < start:
        raise Failure(
            f"this log of writes begins at {format_time(start)}, when Redis last rewrote it: for an earlier moment "
            "restore a backup from before it"
        )
    if not any(b"#TS:" in head for head in _heads(log)):
        raise Failure("this log of writes says no times: redis_aof_timestamps was off when it was written")
    parts = read_manifest(log)
    # Each part by itself: the checker of Valkey 9 takes its own base for damaged.
    while parts[-1].type != aof_manifest.BASE:
        words = ("redis-check-aof", "--truncate-to-timestamp", str(int(to)), f"{log.name}/{parts[-1].name}")
        code, said = run_checker(instance, log.parent, *words)
        if code == 0:
            return
        if "nothing before timestamp" not in said:
            raise Failure(f"redis-check-aof says: {' / '.join(said.strip().splitlines()[-3:])}")
        # All of it came later.
        (log / parts.pop().name).unlink()
        (log / aof_manifest.MANIFEST).write_text(aof_manifest.to_text(parts))
        if not parts:
            raise Failure(f"this log of writes has nothing from before {format_time(to)}")


def _heads(log: Path) -> Iterator[bytes]:
    for part in read_manifest(log):
        with (log / part.name).open("rb") as file:
            yield file.read(4096)
