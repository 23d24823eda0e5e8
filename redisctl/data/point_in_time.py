"""Points in time in an AOF: parsing, finding, and truncating an AOF to one."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from redisctl.core import aof_manifest, data_file
from redisctl.core.aof_manifest import manifest_of, read_manifest
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.core.scratch_redis import run_checker
from redisctl.core.untrusted_files import UntrustedDirectory


def parse_time(text: str) -> float:
    """Parse a time such as ``2026-11-24 16:20:05``, or seconds since 1970.

    A time without a zone is in this host's. Raises Failure.
    """
    try:
        try:
            at = float(text)
        except ValueError:
            # Python before 3.11 does not parse Z.
            at = datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone().timestamp()
        # Refuses nan, milliseconds, and years that no clock shows.
        datetime.fromtimestamp(at).astimezone()
        return at
    except (ValueError, OverflowError, OSError):
        raise Failure(f"{text!r} is not a time: write it like '2026-11-24 16:20:05'") from None


def format_time(at: float | None) -> str:
    """Format a time in this host's zone. A foreign file may name any time."""
    try:
        return datetime.fromtimestamp(at or 0).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    except (ValueError, OverflowError, OSError):
        return "an impossible time"


def aof_start_time(aof: Path) -> float:
    """Return the earliest time to which an AOF can be truncated: that of its base.

    Raises Failure.
    """
    base = read_manifest(aof)[0]
    if base.type != aof_manifest.BASE:
        return 0.0
    at = rdb_time(aof / base.name)
    if at is None:
        raise Failure(f"{aof / base.name} does not say when it was created: restore a backup without --to")
    return at


def rdb_time(path: Path) -> float | None:
    """Return the time of an RDB snapshot's data, from its header.

    Returns None if the header has none.
    """
    return data_file.read_head(path).created


def truncate_aof(instance: Instance, aof: Path, to: float) -> None:
    """Truncate a copy of an AOF after a point in time.

    What was written in that second stays. Raises Failure.
    """
    start = aof_start_time(aof)
    if int(to) < start:
        raise Failure(
            f"this AOF begins at {format_time(start)}, when Redis last rewrote it: for an earlier time, restore a "
            "backup from before it"
        )
    if not any(b"#TS:" in head for head in _heads(aof)):
        raise Failure("this AOF contains no times, because redis_aof_timestamps was off: restore a backup without --to")
    parts, staged = read_manifest(aof), instance.untrusted(aof.parent)
    # Each part by itself: the checker of Valkey 9 reports its own base as damaged.
    while parts[-1].type != aof_manifest.BASE:
        command = ("redis-check-aof", "--truncate-to-timestamp", str(int(to)), f"{aof.name}/{parts[-1].name}")
        code, output = run_checker(instance, aof.parent, *command)
        if code == 0:
            return
        if "nothing before timestamp" not in output:
            raise Failure(f"redis-check-aof reports: {' / '.join(output.strip().splitlines()[-3:])}")
        # The whole part was written later.
        # The checker of the image has run in this directory.
        staged.remove_file(aof.name, parts.pop().name)
        staged.write_file(aof.name, manifest_of(aof).name, text=aof_manifest.to_text(parts))
        if not parts:
            raise Failure(f"this AOF has nothing from before {format_time(to)}: restore an earlier backup")


def _heads(aof: Path) -> Iterator[bytes]:
    for part in read_manifest(aof):
        with UntrustedDirectory(aof).open_file(part.name) as file:
            yield file.read(4096)
