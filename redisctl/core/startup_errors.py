"""Reasons why a Redis exited, by the last lines of its log, and remedies. Pure.

A remedy is the command that helps. If Redis cannot load its data it exits, and Docker starts it again and again. These
messages are from Redis 7.2 to 8 and Valkey (src/aof.c, src/rdb.c and src/config.c).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from redisctl.core.formatting import words

REPAIR = "redisctl repair shows what is wrong and what a repair would lose"
RESTORE = "redisctl restore latest shows what the newest backup would bring back"
_OWNER = f"{REPAIR}; if data/live itself does not belong to Redis, deploy again"

# A pattern of the log, its meaning, and what to do. The first match counts: specific patterns come before general ones.
_ERRORS: tuple[tuple[str, str, str], ...] = (
    (
        r"No space left on device|Disk quota exceeded",
        "the disk is full",
        "free some space: df; redisctl restore --discard-previous removes previous data",
    ),
    (r"Read-only file system", "the disk is read-only", "dmesg says why; the kernel does this after disk errors"),
    (r"Input/output error", "the disk cannot be read", f"dmesg; use another disk, then {RESTORE}"),
    (r"Permission denied|Operation not permitted", "Redis may not read or write its files", _OWNER),
    (
        r"Bad file format reading the append only file (?P<file>\S+?):",
        "the AOF is damaged in {file}: at one place there is no valid command",
        REPAIR,
    ),
    (
        r"Unexpected end of file reading the append only file(?: (?P<file>\S+)\. )?",
        "the AOF is truncated{in_file}, and it is not the last file, or truncated files are refused",
        REPAIR,
    ),
    (
        r"Unknown command '(?P<command>[^']*)' reading the append only file",
        "the AOF has the command {command}, which is disabled or renamed in this Redis",
        "nothing is damaged: deploy with the command's previous name or version; redisctl repair checks it",
    ),
    (
        r"configured to handle more than (?P<databases>\d+) databases",
        "the data uses more than {databases} databases",
        "nothing is damaged: set redis_databases to a larger number and deploy",
    ),
    (
        r"no matching module(?: type)? '(?P<module>[^']*)'",
        "the data contains values of the module {module}, which is not loaded",
        "nothing is damaged: deploy with the module (redis_extra_config: loadmodule, and an image that has it)",
    ),
    (
        r"Can't handle RDB format version (?P<version>\d+)",
        "a newer version wrote an RDB snapshot (RDB format {version})",
        f"nothing is damaged: deploy that version again; or {RESTORE}",
    ),
    (
        r"Wrong signature trying to load DB|Bad signature",
        "an RDB snapshot is not from Redis, or from an engine that this one cannot read",
        f"deploy the engine that wrote it; or {RESTORE}",
    ),
    (r"Wrong RDB checksum|RDB CRC error", "an RDB snapshot is damaged: its checksum is wrong", REPAIR),
    (
        r"FATAL AOF MANIFEST FILE ERROR|Found an (?:invalid|empty) AOF manifest",
        "the AOF manifest is damaged",
        REPAIR,
    ),
    (
        r"Unable to obtain the AOF file (?P<file>\S+) length",
        "{file}, a file of the AOF, is missing",
        REPAIR,
    ),
    (
        r"Short read or OOM loading DB|Unexpected EOF reading RDB|Internal error in RDB|Error reading the RDB|"
        r"rdb file reading failure",
        "an RDB snapshot is truncated or damaged",
        REPAIR,
    ),
    (r"Unrecoverable error reading the append only file", "the AOF cannot be read", f"dmesg; {REPAIR}"),
    (r"Out Of Memory allocating", "there is not enough memory to load the data", "raise redis_maxmemory and deploy"),
    (
        r"FATAL CONFIG FILE ERROR",
        "Redis refuses its configuration",
        "redisctl log --container gives the line; deploy again, which writes redis.conf again",
    ),
    (r"REDIS BUG REPORT|crashed by signal", "Redis crashed", f"redisctl log --last 1000 shows the report; {RESTORE}"),
)

_START = " is starting oO0OoO0OoO0Oo"
_SERVES = "Ready to accept connections"
_TRUNCATION = re.compile(r"^\d+:\w (\d+ \w+ \d+ [\d:]+)\.\d+ # !!! Truncating the AOF (\S+) at offset (\d+)")


@dataclass(frozen=True)
class StartupError:
    """What the last lines of the log mean, and what to do."""

    meaning: str
    remedy: str


def last_start_lines(lines: Sequence[str]) -> list[str]:
    """Return the lines since the last start.

    Returns those of the start before as well, if the last one has not finished.
    """
    starts = [index for index, line in enumerate(lines) if _START in line]
    if not starts:
        return list(lines)
    last = list(lines[starts[-1] :])
    if len(starts) < 2 or explain(last) or any(_SERVES in line for line in last):
        return last
    return list(lines[starts[-2] :])


def explain(lines: Iterable[str]) -> StartupError | None:
    """Explain what Redis logged before it exited; None if it is not known."""
    text = "\n".join(lines)
    for pattern, meaning, remedy in _ERRORS:
        match = re.search(pattern, text)
        if match:
            values = {name: words(value.encode()) for name, value in match.groupdict().items() if value}
            in_file = f" in {values['file']}" if "file" in values else ""
            return StartupError(meaning.format(**{**values, "in_file": in_file}), remedy)
    return None


def explained(message: str) -> str:
    """Return what a message of Redis means and what to do.

    Returns the message itself if that is not known.
    """
    error = explain([message])
    return f"{error.meaning}: {error.remedy}" if error else message


def truncations(lines: Iterable[str]) -> list[float]:
    """Return when Redis truncated its AOF at a start, by its log.

    The times are in seconds since 1970.
    """
    matches = filter(None, map(_TRUNCATION.match, lines))
    return [
        datetime.strptime(match[1], "%d %b %Y %H:%M:%S").replace(tzinfo=timezone.utc).timestamp() for match in matches
    ]
