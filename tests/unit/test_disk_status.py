"""The state of backups, previous data and AOF files on the disk becomes verdicts."""

from dataclasses import replace
from typing import Any

import pytest

from redisctl.monitor.health import CRITICAL, OK, UNKNOWN, WARNING, Check, overall, run_checks
from redisctl.monitor.status import DiskStatus
from tests.unit.test_health import HEALTHY, NOW

HOUR, DAY, GIB = 3600.0, 86400.0, 1024**3
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
        ({"attempt": {"started": NOW - 60, "ended": NOW, "error": ""}}, OK, "1 h old"),
        ({"attempt": {"started": NOW - 60, "ended": NOW, "error": "disk full"}}, CRITICAL, "failed: disk full"),
        ({"attempt": {"started": NOW - 60}}, CRITICAL, "1 min ago, was interrupted"),
        (
            {"attempt": {"started": NOW - 60}, "lock_holder": "redisctl is at work", "lock_verb": "backup"},
            OK,
            "at work",
        ),
        ({"attempt": {"started": NOW - 60}, "scheduled": False}, CRITICAL, "was interrupted"),
        ({"bad": ("20261124T030000Z",)}, CRITICAL, "found damage in 20261124T030000Z"),
        ({"unreadable": ("x: no backup",)}, WARNING, "x: no backup"),
        ({"unknown": {"backup": "Permission denied"}}, UNKNOWN, "Permission denied"),
    ],
)
def test_backup_state_has_a_verdict_and_a_remedy(changes: dict[str, Any], verdict: str, words: str) -> None:
    result = check("backup", replace(GOOD, **changes))
    assert result is not None
    assert (result.verdict, words in result.observed, bool(result.remedy)) == (verdict, True, verdict != OK), result


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
