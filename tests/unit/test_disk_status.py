"""The state of backups, previous data and AOF files on the disk becomes verdicts."""

from dataclasses import replace
from typing import Any

import pytest

from redisctl.backup.attempt import Attempt
from redisctl.monitor import redis_files
from redisctl.monitor.health import CRITICAL, OK, UNKNOWN, WARNING, Check, overall, run_checks
from redisctl.monitor.status import DiskStatus
from tests.unit.test_health import HEALTHY, NOW

HOUR, DAY, MIB, GIB = 3600.0, 86400.0, 1024**2, 1024**3
GOOD = DiskStatus(scheduled=True, deployed=NOW - 100 * DAY, verified=NOW - HOUR, count=3)


def check(name: str, disk: DiskStatus, **changes: Any) -> Check | None:
    """A check of a reading with this on its disk."""
    return {item.name: item for item in run_checks(replace(HEALTHY, disk=disk, **changes))}.get(name)


@pytest.mark.parametrize(
    ("changes", "verdict", "words"),
    [
        ({}, OK, "the newest good one is 1 h old"),
        ({"verified": NOW - 25 * HOUR}, OK, "1 d 1 h old"),
        ({"verified": NOW - 27 * HOUR}, WARNING, "1 d 3 h old"),
        ({"verified": NOW - 53 * HOUR}, CRITICAL, "2 d 5 h old"),
        ({"verified": None, "deployed": NOW - HOUR}, OK, "no verified backup among 3"),
        ({"verified": None, "deployed": NOW - 27 * HOUR, "count": 0}, WARNING, "no verified backup"),
        ({"verified": None}, WARNING, "no verified backup"),
        ({"verified": NOW - 90 * DAY, "scheduled": False}, OK, "not scheduled"),
        ({"attempt": Attempt(NOW - 60, NOW)}, OK, "1 h old"),
        ({"attempt": Attempt(NOW - 60, NOW, "disk full")}, CRITICAL, "failed: disk full"),
        ({"attempt": Attempt(NOW - 60)}, CRITICAL, "1 min ago, was interrupted"),
        (
            {"attempt": Attempt(NOW - 60), "lock_holder": "redisctl is at work", "lock_verb": "backup"},
            OK,
            "at work",
        ),
        ({"attempt": Attempt(NOW - 60), "scheduled": False}, CRITICAL, "was interrupted"),
        ({"bad": ("20261124T030000Z",)}, CRITICAL, "found damage in 20261124T030000Z"),
        ({"unreadable": ("x: no backup",)}, WARNING, "x: no backup"),
        ({"unknown": {"backup": "Permission denied"}}, UNKNOWN, "Permission denied"),
    ],
)
def test_backup_state_has_a_verdict_and_a_remedy(changes: dict[str, Any], verdict: str, words: str) -> None:
    result = check("backup", replace(GOOD, **changes))
    assert result is not None
    assert (result.verdict, words in result.observed, bool(result.remedy)) == (verdict, True, verdict != OK), result


@pytest.mark.parametrize(
    ("name", "disk", "words"),
    [
        (
            "files of redis",
            {"unexpected_files": ("data/live/core",), "unexpected_size": 77 * MIB},
            "data/live/core (77.0 MiB)",
        ),
        ("files of redis", {"unexpected_files": tuple("abcdefgh")}, "a, b, c, d, e and 3 more"),
        ("redis log", {"log_size": 21 * MIB, "log_limit": 20 * MIB}, "has 21.0 MiB, and should be rotated at 10.0 MiB"),
        ("data files", {"data_limit": GIB // 2}, "data/live takes 1.0 GiB; the settings explain 512.0 MiB"),
    ],
)
def test_files_that_fill_the_disk_are_reported(name: str, disk: dict[str, Any], words: str) -> None:
    result = check(name, replace(GOOD, **disk), data_size=GIB)
    assert result
    assert (result.verdict, words in result.observed, bool(result.remedy)) == (WARNING, True, True), result
    assert check(name, GOOD, data_size=GIB) is None


def test_only_names_of_redis_are_known() -> None:
    """Names of Redis and Valkey, and of their temporary files."""
    live, aof = redis_files.patterns("dump.rdb", "appendonly.aof", "appendonlydir")
    known = ["dump.rdb", "appendonlydir", "temp-17.rdb", "temp-1700000000.17.rdb", "temp-rewriteaof-bg-17.aof"]
    assert redis_files.unexpected_names([*known, "core", "dump.rdb.1", "temp-x.rdb", "dumpXrdb"], live) == [
        *("core", "dump.rdb.1", "temp-x.rdb", "dumpXrdb")
    ]
    known = ["appendonly.aof.1.base.rdb", "appendonly.aof.12.incr.aof", "appendonly.aof.manifest"]
    assert redis_files.unexpected_names([*known, "temp-appendonly.aof.manifest", "x.aof\n", "appendonly.aof"], aof) == [
        *("x.aof\n", "appendonly.aof")
    ]


def test_disk_state_has_verdicts() -> None:
    names = ("backup disk", "previous data", "interrupted change", "aof files", "aof truncated")
    assert [check(name, GOOD) for name in names] == [None] * 5
    for free, verdict in ((3 * GIB, OK), (1.5 * GIB, WARNING), (GIB / 2, CRITICAL)):
        result = check("backup disk", replace(GOOD, backups_free=int(free)))
        assert result
        assert result.verdict == verdict
    result = check("previous data", replace(GOOD, previous=("20261124T030000Z",), previous_size=GIB))
    assert result
    assert result.verdict == OK
    assert "1.0 GiB in data/previous, replaced at 20261124T030000Z: redisctl restore --undo" in result.observed
    broken = replace(GOOD, interrupted="restore of x was interrupted while starting")
    result = check("interrupted change", broken)
    assert result
    assert (result.verdict, "redisctl recover" in result.remedy) == (CRITICAL, True)
    assert check("interrupted change", replace(broken, lock_holder="redisctl is at work (restore)")) is None
    result = check("upgrade", replace(GOOD, upgrading=True))
    assert result
    assert (result.verdict, "deploy again" in result.remedy) == (CRITICAL, True)
    result = check("aof files", replace(GOOD, aof_problem="missing: x"))
    assert result
    assert (result.verdict, "do not restart" in result.remedy) == (CRITICAL, True)
    for ago, verdict in ((HOUR, WARNING), (2 * DAY, OK)):
        result = check("aof truncated", replace(GOOD, truncations=(NOW - 3 * DAY, NOW - ago)))
        assert result
        assert (result.verdict, "2 times, last" in result.observed) == (verdict, True)


@pytest.mark.parametrize("name", ["backup", "backup disk", "previous data", "aof files", "redis log"])
def test_unreadable_state_is_unknown(name: str) -> None:
    checks = run_checks(replace(HEALTHY, disk=replace(GOOD, unknown={name: "cannot be read"})))
    assert {item.name: item.verdict for item in checks}[name] == UNKNOWN
    assert overall(checks) == UNKNOWN
    assert overall([*checks, Check("x", WARNING, "")]) == WARNING
