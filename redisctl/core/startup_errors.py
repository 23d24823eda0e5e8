"""Why a Redis ended, by its last words: what they mean and which command helps. Pure.

Redis that cannot load its data ends, and the engine starts it again, for ever. Its log says why, in words for its
developers. Those here are of Redis 7.2 to 8 and Valkey, src/aof.c, src/rdb.c and src/config.c.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from redisctl.core.formatting import words

REPAIR = "redisctl repair shows what is wrong and what a repair would lose"
RESTORE = "redisctl restore latest shows what the newest backup would bring back"
_OWNER = f"{REPAIR}; where data/ itself is not uid 999's, deploy again"

# What Redis says, what it means, what helps. The first that fits is told: particular ones stand before general ones.
_ERRORS: tuple[tuple[str, str, str], ...] = (
    (
        r"No space left on device|Disk quota exceeded",
        "the disk is full",
        "free some: df; redisctl restore --discard-previous removes data that was set aside",
    ),
    (r"Read-only file system", "the disk takes no writes", "dmesg says why; the kernel does that after errors"),
    (r"Input/output error", "the disk cannot be read", f"dmesg, and another disk; then {RESTORE}"),
    (r"Permission denied|Operation not permitted", "Redis may not read or write its files", _OWNER),
    (
        r"Bad file format reading the append only file (?P<file>\S+?):",
        "the log of writes is damaged in {file}: what is there is no command",
        REPAIR,
    ),
    (
        r"Unexpected end of file reading the append only file(?: (?P<file>\S+)\. )?",
        "the log of writes is cut off{in_file}, and more follows, or cut ends are refused",
        REPAIR,
    ),
    (
        r"Unknown command '(?P<command>[^']*)' reading the append only file",
        "the log of writes has the command {command}, which this Redis does not know by that name",
        "nothing is damaged: deploy with the command's former name, or the former version; redisctl repair checks it",
    ),
    (
        r"Can't handle RDB format version (?P<version>\d+)",
        "a snapshot was written by a newer version (RDB format {version})",
        f"nothing is damaged: deploy that version again; or {RESTORE}",
    ),
    (
        r"Wrong signature trying to load DB|Bad signature",
        "a snapshot is of no Redis, or of an engine that this one cannot read",
        f"deploy the engine that wrote it; or {RESTORE}",
    ),
    (r"Wrong RDB checksum|RDB CRC error", "a snapshot is not what was written: its checksum is wrong", REPAIR),
    (
        r"FATAL AOF MANIFEST FILE ERROR|Found an (?:invalid|empty) AOF manifest",
        "the manifest of the log of writes is damaged",
        REPAIR,
    ),
    (
        r"Unable to obtain the AOF file (?P<file>\S+) length",
        "{file}, a part of the log of writes, is missing",
        REPAIR,
    ),
    (
        r"Short read or OOM loading DB|Unexpected EOF reading RDB|Internal error in RDB|Error reading the RDB|"
        r"rdb file reading failure",
        "a snapshot is cut off or damaged",
        REPAIR,
    ),
    (r"Unrecoverable error reading the append only file", "the log of writes cannot be read", f"dmesg; {REPAIR}"),
    (r"Out Of Memory allocating", "there is not enough memory to load the data", "raise redis_maxmemory and deploy"),
    (
        r"FATAL CONFIG FILE ERROR",
        "Redis refuses its configuration",
        "docker logs says at which line; deploy again, which puts redis.conf right",
    ),
    (r"REDIS BUG REPORT|crashed by signal", "Redis crashed", f"logs/redis.log has its report; {RESTORE}"),
)

_START = " is starting oO0OoO0OoO0Oo"
_SERVES = "Ready to accept connections"
_TRUNCATION = re.compile(r"^\d+:\w (\d+ \w+ \d+ [\d:]+)\.\d+ # !!! Truncating the AOF (\S+) at offset (\d+)")


@dataclass(frozen=True)
class StartupError:
    """What the last words mean, and what to do."""

    meaning: str
    remedy: str


def last_start_lines(lines: Sequence[str]) -> list[str]:
    """What the log says of the last start; with the one before where the last is still on its way."""
    starts = [place for place, line in enumerate(lines) if _START in line]
    if not starts:
        return list(lines)
    last = list(lines[starts[-1] :])
    if len(starts) < 2 or explain(last) or any(_SERVES in line for line in last):
        return last
    return list(lines[starts[-2] :])


def explain(lines: Iterable[str]) -> StartupError | None:
    """The meaning of what a Redis said before it ended; None where nothing is known of it."""
    text = "\n".join(lines)
    for pattern, means, advice in _ERRORS:
        found = re.search(pattern, text)
        if found:
            told = {name: words(value.encode()) for name, value in found.groupdict().items() if value}
            in_file = f" in {told['file']}" if "file" in told else ""
            return StartupError(means.format(**{**told, "in_file": in_file}), advice)
    return None


def truncations(lines: Iterable[str]) -> list[float]:
    """When Redis cut a torn end off its log of writes by itself, as the log tells: seconds since the epoch."""
    found = filter(None, map(_TRUNCATION.match, lines))
    return [datetime.strptime(one[1], "%d %b %Y %H:%M:%S").replace(tzinfo=timezone.utc).timestamp() for one in found]
