"""Checks of data files by Redis's own checkers.

They run on a copy and without network. redis-check-rdb reads an RDB snapshot as strictly as a server with ``sanitize-
dump-payload``, and finds its end. redis-check-aof cuts an AOF after its last complete command.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from redisctl.core import data_file
from redisctl.core.data_file import Head, Kind
from redisctl.core.formatting import words
from redisctl.core.instance import Instance
from redisctl.core.scratch_redis import run_checker
from redisctl.core.untrusted_files import UntrustedDirectory

# What redis-check-rdb reports of a file that is not damaged, but that this server cannot read.
_UNREADABLE = re.compile(r"Can't handle RDB format version|Wrong signature")

# Lines that a report has once at most, and a number that is larger than any file.
_ONCE = (r"^--- RDB ERROR DETECTED ---", r"^\[offset \d+\] \\o/ RDB looks OK!", r"^\[info\] \d+ keys read")
_HUGE = re.compile(r"^\[(?:info\] |offset )\d{20}", re.MULTILINE)


@dataclass(frozen=True)
class Finding:
    """A problem of a file.

    The first ``sound`` of its ``size`` bytes are intact. ``is_damage`` is False if only this server cannot read it.
    ``loses_data`` is False if everything after the problem is data of no kind.
    """

    name: str
    problem: str
    size: int = 0
    sound: int = 0
    is_damage: bool = True
    loses_data: bool = True


@dataclass(frozen=True)
class RdbCheck:
    """The report of redis-check-rdb on an RDB snapshot.

    ``keys`` are those that have not expired. ``at`` is the time of its data, None if it is unknown. ``end`` is the
    offset after its last byte, and ``databases`` the number of databases that a server needs. ``is_readable`` is False
    if another version or engine wrote it.
    """

    path: Path
    problem: str = ""
    keys: int = 0
    at: float | None = None
    end: int = 0
    databases: int = 1
    is_readable: bool = True


def check_rdb(instance: Instance, path: Path) -> RdbCheck:
    """Have redis-check-rdb check a copy of an RDB snapshot."""
    code, output = run_checker(instance, path.parent, "redis-check-rdb", path.name)
    head = data_file.read_head(path)
    check = parse_rdb_check(path, code, output, head)
    if check.is_readable:
        return check
    _, version = run_checker(instance, path.parent, "redis-server", "--version")
    match = re.match(r"(\w+) server v=(\S+)", version)
    return replace(check, problem=describe_unreadable(head, f"{match[1]} {match[2]}" if match else "this server"))


def parse_rdb_check(path: Path, code: int, output: str, head: Head) -> RdbCheck:
    """Parse the report of redis-check-rdb.

    It contains names and values of the file as they are.
    """
    if is_forged(output):
        problem = "a name or a value in it imitates the report of redis-check-rdb, which no Redis writes"
        return RdbCheck(path, problem, at=head.created)
    count = re.search(r"^\[info\] (\d+) keys read", output, re.MULTILINE)
    expired = re.search(r"^\[info\] (\d+) already expired", output, re.MULTILINE)
    keys = int(count[1]) - (int(expired[1]) if expired else 0) if count else 0
    databases = 1 + max(
        map(int, re.findall(r"^\[offset \d+\] Selecting DB ID (\d{1,10})$", output, re.MULTILINE)), default=0
    )
    ends = re.findall(r"^\[offset (\d+)\] \\o/ RDB looks OK! \\o/", output, re.MULTILINE)
    if code == 0 and ends:
        return RdbCheck(path, "", keys, head.created, int(ends[-1]), databases)
    error = re.search(r"DETECTED ---\s*\[offset (\d+)\] (.*)", output)
    if not error:
        problem = " / ".join(output.strip().splitlines()[-2:]) or "redis-check-rdb says nothing about it"
        return RdbCheck(path, problem, keys, head.created, databases=databases)
    is_readable = head.kind is not Kind.RDB or not _UNREADABLE.search(error[2])
    if not is_readable:
        return RdbCheck(path, error[2], keys, head.created, is_readable=False)
    reason = "it is truncated" if "EOF" in error[2] else "it is damaged"
    problem = f"at byte {error[1]}: {reason} ({error[2]})"
    return RdbCheck(path, problem, keys, head.created, int(error[1]), databases)


def is_forged(report: str) -> bool:
    """Say whether a report has lines that redis-check-rdb did not write."""
    offsets = [int(number) for number in re.findall(r"^\[offset (\d{1,20})", report, re.MULTILINE)]
    is_repeated = any(len(re.findall(line, report, re.MULTILINE)) > 1 for line in _ONCE)
    return offsets != sorted(offsets) or is_repeated or bool(_HUGE.search(report))


def describe_unreadable(head: Head, server: str) -> str:
    """Say who wrote an RDB snapshot that a server does not read.

    And which server reads it.
    """
    if head.magic == "VALKEY":
        return (
            f"Valkey wrote it, in RDB format {head.format}, and {server} does not read that. Nothing is damaged: "
            "deploy Valkey 9 or newer (redis_engine, redis_image), which alone reads it"
        )
    return (
        f"{head.server} wrote it, in RDB format {head.format}, and {server} does not read that. Nothing is damaged: "
        "deploy the version that wrote it, or a newer one (redis_image). Valkey does not read data of Redis 7.4 and "
        "newer"
    )


def check_part(instance: Instance, path: Path, snapshot: RdbCheck | None = None) -> Finding | None:
    """Check a copy of a part of an AOF, or of an AOF in one file.

    Returns what is wrong with it. The copy is cut at the damage. An RDB snapshot at its beginning must be intact;
    ``snapshot`` is its check, if there was one.
    """
    size = UntrustedDirectory(path.parent).file_size(path.name)
    if data_file.read_head(path).kind is Kind.RDB:
        snapshot = snapshot or check_rdb(instance, path)
        if snapshot.problem:
            return Finding(path.name, snapshot.problem, size, is_damage=snapshot.is_readable)
        if snapshot.end >= size:
            return None
        if not data_file.is_aof(tail(path, snapshot.end)):
            return cut_tail(path, snapshot.end)
    return _check_aof(instance, path, size)


def tail(path: Path, start: int, length: int = 16) -> bytes:
    """Return the bytes of a copy from an offset on."""
    with UntrustedDirectory(path.parent).open_file(path.name) as file:
        file.seek(start)
        return file.read(length)


def cut_tail(path: Path, end: int) -> Finding:
    """Cut a copy where its RDB snapshot ends, because what follows is no AOF."""
    files, first = UntrustedDirectory(path.parent), words(tail(path, end, 8))
    size = files.file_size(path.name)
    files.truncate_file(path.name, size=end)
    problem = f"at byte {end} the RDB snapshot ends, and {size - end} bytes follow ('{first}'...)"
    return Finding(path.name, problem, size, end, loses_data=False)


def _check_aof(instance: Instance, path: Path, size: int) -> Finding | None:
    code, output = run_checker(instance, path.parent, "redis-check-aof", "--fix", path.name)
    sound = UntrustedDirectory(path.parent).file_size(path.name)
    if code == 0 and sound == size:
        return None
    match = re.search(r"^0x\s*([0-9a-f]+): (.*)$", output, re.MULTILINE)
    problem = f"at byte {int(match[1], 16)}: {match[2]}" if match else f"at byte {sound}: no command begins there"
    # redis-check-aof does not cut a file that begins with damage.
    return Finding(path.name, problem, size, sound if code == 0 else 0)
