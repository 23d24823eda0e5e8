"""What Redis logged before it exited is explained."""

from dataclasses import replace

import pytest

from redisctl.core.startup_errors import StartupError, explain, last_start_lines, truncations
from redisctl.monitor.health import CRITICAL, OK
from tests.unit.test_disk_status import GOOD, check

BASE, INCR = "appendonly.aof.2.base.rdb", "appendonly.aof.2.incr.aof"


START = "7:C 24 Nov 2026 16:35:19.934 * oO0OoO0OoO0Oo Redis is starting oO0OoO0OoO0Oo"


BAD = (
    f"# Bad file format reading the append only file {INCR}: make a backup of your AOF file, then use ./redis-check-aof"
)


@pytest.mark.parametrize(
    ("log", "meaning", "remedy"),
    [
        (BAD, f"the AOF is damaged in {INCR}", "redisctl repair"),
        (
            f"# Unexpected end of file reading the append only file {INCR}. You can: 1)",
            f"truncated in {INCR}",
            "repair",
        ),
        ("# Unknown command 'FOO' reading the append only file x.aof", "command FOO", "previous name"),
        ("# Can't handle RDB format version 99\n# Error reading the RDB base file", "RDB format 99", "that version"),
        ("# Wrong RDB checksum expected: (c6) but got (35). Aborting now.", "checksum", "redisctl repair"),
        ("# Short read or OOM loading DB. Unrecoverable error, aborting now.", "truncated or damaged", "repair"),
        ("*** FATAL AOF MANIFEST FILE ERROR ***\nInvalid AOF manifest file format", "manifest", "repair"),
        (f"# Unable to obtain the AOF file {BASE} length. stat: No such file", f"{BASE}, a file of the AOF", "repair"),
        ("# Fatal error: can't open the append log file x for reading: Permission denied", "may not read", "deploy"),
        ("# Write error writing append only file: No space left on device", "disk is full", "--discard-previous"),
        ("*** FATAL CONFIG FILE ERROR (Redis 8.0.2) ***\n>>> 'bogus'\nBad directive", "configuration", "deploy"),
        (
            "# FATAL: Data file was created with a Redis server configured to handle more than 8 databases. Exiting",
            "more than 8 databases",
            "redis_databases",
        ),
        (
            "# The RDB file contains module data I can't load: no matching module type 'ReJSON-RL'",
            "module ReJSON-RL",
            "loadmodule",
        ),
        ("# Wrong signature trying to load DB from file", "not from Redis", "restore latest"),
    ],
)
def test_startup_errors_are_explained(log: str, meaning: str, remedy: str) -> None:
    error = explain(log.splitlines())
    assert isinstance(error, StartupError), log
    assert (meaning in error.meaning, remedy in error.remedy) == (True, True), error
    container = check("container", replace(GOOD, start_log=tuple(log.splitlines())), unreachable_reason="gone")
    assert container
    assert (container.verdict, error.meaning in container.observed) == (CRITICAL, True)


def test_previous_start_is_not_explained() -> None:
    assert explain(["7:M * Ready to accept connections unix", "7:M # Redis is now ready to exit, bye bye..."]) is None
    serves = "7:M * Ready to accept connections unix"
    assert explain(last_start_lines([START, BAD, START, serves])) is None
    # The next start has not come that far yet.
    assert explain(last_start_lines([START, BAD, START])) is not None
    assert last_start_lines([START, serves, START, BAD]) == [START, BAD]
    # Redis that serves has other reasons for what its log says.
    container = check("container", replace(GOOD, start_log=(BAD,)))
    assert container
    assert container.verdict == OK


def test_aof_truncations_are_counted() -> None:
    line = f"7:M 24 Nov 2026 16:35:19.936 # !!! Truncating the AOF {INCR} at offset 22448 !!!"
    assert truncations([START, line, "7:M x"]) == [1795538119.0]
    assert truncations([START]) == []
