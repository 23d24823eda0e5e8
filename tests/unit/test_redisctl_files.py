"""redisctl: what lies on the disk becomes verdicts; last words become advice; losses and growth are counted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from redisctl.apps import growth
from redisctl.core import aof_manifest
from redisctl.core.startup_errors import StartupError, explain, last_start_lines, truncations
from redisctl.data import aof_scan
from redisctl.data.aof_scan import Losses
from redisctl.data.repair import AOF, RDB, Finding, RdbCheck, Report, best_source
from redisctl.monitor.health import CRITICAL, OK, UNKNOWN, WARNING, Check, overall, run_checks
from redisctl.monitor.status import DiskStatus
from tests.unit.test_redisctl import NOW, WELL

HOUR, DAY, GIB = 3600.0, 86400.0, 1024**3
GOOD = DiskStatus(scheduled=True, deployed=NOW - 100 * DAY, verified=NOW - HOUR, count=3)


def check(name: str, kept: DiskStatus, **changes: Any) -> Check | None:
    """A check of a reading with this on its disk."""
    return {one.name: one for one in run_checks(replace(WELL, disk=kept, **changes))}.get(name)


@pytest.mark.parametrize(
    ("changes", "verdict", "words"),
    [
        ({}, OK, "the newest good one is 1 h old"),
        ({"verified": NOW - 25 * HOUR}, OK, "1 d 1 h old"),
        ({"verified": NOW - 27 * HOUR}, WARNING, "1 d 3 h old"),
        ({"verified": NOW - 53 * HOUR}, CRITICAL, "2 d 5 h old"),
        ({"verified": None, "deployed": NOW - HOUR}, OK, "none that was verified of 3"),
        ({"verified": None, "deployed": NOW - 27 * HOUR, "count": 0}, WARNING, "none that was verified"),
        ({"verified": None}, WARNING, "none that was verified"),
        ({"verified": NOW - 90 * DAY, "scheduled": False}, OK, "not scheduled"),
        ({"attempt": {"began": NOW - 60, "ended": NOW, "error": ""}}, OK, "1 h old"),
        ({"attempt": {"began": NOW - 60, "ended": NOW, "error": "disk full"}}, CRITICAL, "failed: disk full"),
        ({"attempt": {"began": NOW - 60}}, CRITICAL, "1 min ago, was cut off"),
        ({"attempt": {"began": NOW - 60}, "running": "redisctl backup has run for 1 min"}, OK, "has run for"),
        ({"attempt": {"began": NOW - 60}, "scheduled": False}, CRITICAL, "was cut off"),
        ({"bad": ("20261124T030000Z",)}, CRITICAL, "found bad: 20261124T030000Z"),
        ({"unreadable": ("x: no backup",)}, WARNING, "x: no backup"),
        ({"unknown": {"backup": "Permission denied"}}, UNKNOWN, "Permission denied"),
    ],
)
def test_backup_state_has_a_verdict_and_a_remedy(changes: dict[str, Any], verdict: str, words: str) -> None:
    found = check("backup", replace(GOOD, **changes))
    assert found is not None
    assert (found.verdict, words in found.observed, bool(found.remedy)) == (verdict, True, verdict != OK), found


def test_disk_state_has_verdicts() -> None:
    names = ("backup disk", "previous data", "interrupted restore", "aof files", "aof truncated")
    assert [check(name, GOOD) for name in names] == [None] * 5
    for free, verdict in ((3 * GIB, OK), (1.5 * GIB, WARNING), (GIB / 2, CRITICAL)):
        found = check("backup disk", replace(GOOD, backups_free=int(free)))
        assert found
        assert found.verdict == verdict
    found = check("previous data", replace(GOOD, previous=("20261124T030000Z",), previous_size=GIB))
    assert found
    assert found.verdict == OK
    assert "1.0 GiB in data/previous, replaced at 20261124T030000Z: redisctl restore --undo" in found.observed
    broken = replace(GOOD, interrupted="the restore was broken off while moving in")
    found = check("interrupted restore", broken)
    assert found
    assert (found.verdict, "redisctl recover" in found.remedy) == (CRITICAL, True)
    assert check("interrupted restore", replace(broken, running="redisctl restore has run for 1 s")) is None
    found = check("upgrade", replace(GOOD, upgrading=True))
    assert found
    assert (found.verdict, "deploy again" in found.remedy) == (CRITICAL, True)
    found = check("aof files", replace(GOOD, aof_problem="missing: x"))
    assert found
    assert (found.verdict, "do not restart" in found.remedy) == (CRITICAL, True)
    for ago, verdict in ((HOUR, WARNING), (2 * DAY, OK)):
        found = check("aof truncated", replace(GOOD, truncations=(NOW - 3 * DAY, NOW - ago)))
        assert found
        assert (found.verdict, "2 times, last" in found.observed) == (verdict, True)


@pytest.mark.parametrize("name", ["backup", "backup disk", "previous data", "aof files", "redis log"])
def test_unreadable_state_is_unknown(name: str) -> None:
    checks = run_checks(replace(WELL, disk=replace(GOOD, unknown={name: "cannot be read"})))
    assert {one.name: one.verdict for one in checks}[name] == UNKNOWN
    assert overall(checks) == UNKNOWN
    assert overall([*checks, Check("x", WARNING, "")]) == WARNING


BASE, INCR = "appendonly.aof.2.base.rdb", "appendonly.aof.2.incr.aof"
START = "7:C 24 Nov 2026 16:35:19.934 * oO0OoO0OoO0Oo Redis is starting oO0OoO0OoO0Oo"
BAD = (
    f"# Bad file format reading the append only file {INCR}: make a backup of your AOF file, then use ./redis-check-aof"
)


@pytest.mark.parametrize(
    ("said", "means", "advice"),
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
        ("# Wrong signature trying to load DB from file", "not from Redis", "restore latest"),
    ],
)
def test_startup_errors_are_explained(said: str, means: str, advice: str) -> None:
    found = explain(said.splitlines())
    assert isinstance(found, StartupError), said
    assert (means in found.meaning, advice in found.remedy) == (True, True), found
    container = check("container", replace(GOOD, last_words=tuple(said.splitlines())), unreachable_reason="gone")
    assert container
    assert (container.verdict, found.meaning in container.observed) == (CRITICAL, True)


def test_previous_start_is_not_explained() -> None:
    assert explain(["7:M * Ready to accept connections unix", "7:M # Redis is now ready to exit, bye bye..."]) is None
    serves = "7:M * Ready to accept connections unix"
    assert explain(last_start_lines([START, BAD, START, serves])) is None
    # The next start has not come that far yet.
    assert explain(last_start_lines([START, BAD, START])) is not None
    assert last_start_lines([START, serves, START, BAD]) == [START, BAD]
    # Redis that serves has other reasons for what its log says.
    container = check("container", replace(GOOD, last_words=(BAD,)))
    assert container
    assert container.verdict == OK


def test_aof_truncations_are_counted() -> None:
    line = f"7:M 24 Nov 2026 16:35:19.936 # !!! Truncating the AOF {INCR} at offset 22448 !!!"
    assert truncations([START, line, "7:M x"]) == [1795538119.0]
    assert truncations([START]) == []


MANIFEST = f"file {BASE} seq 2 type b\nfile {INCR} seq 2 type i startoffset 316\n"


@pytest.mark.parametrize(
    ("text", "names", "words"),
    [
        (MANIFEST, [BASE, INCR, "m"], ""),
        (None, [], ""),
        (None, [BASE, INCR], "Redis would start empty"),
        (MANIFEST, [BASE], f"missing: {INCR}"),
        ("file appe", [BASE, INCR], "is not a line of a manifest"),
        ("", [BASE, INCR], "names no file"),
        ("file a.1.base.rdb seq 1 type b\nfile a.1.incr.aof seq 1 type i", ["a.1.base.rdb", "a.1.incr.aof"], ""),
        (
            "file a.1.base.rdb seq 1 type b\nfile a.1.incr.aof seq 1 type i",
            ["a.1.base.rdb", "a.1.incr.aof", BASE, INCR],
            f"an AOF that it ignores: {BASE}, {INCR}",
        ),
        # A rewrite that was killed leaves that.
        (MANIFEST, [BASE, INCR, "appendonly.aof.3.base.rdb", "temp-rewriteaof-9.aof"], ""),
    ],
)
def test_aof_that_differs_from_its_manifest_is_reported(text: str | None, names: list[str], words: str) -> None:
    said = aof_manifest.find_problem(text, names)
    assert (words in said) if words else said == ""


def test_manifest_is_made_only_of_unambiguous_names() -> None:
    third, fourth = "appendonly.aof.3.incr.aof", "appendonly.aof.4.incr.aof"
    assert aof_manifest.from_file_names([third, BASE, INCR, "temp-1.aof"]) == [
        aof_manifest.Part(BASE, 2, "b"),
        aof_manifest.Part(INCR, 2, "i"),
        aof_manifest.Part(third, 3, "i"),
    ]
    for doubt in ([INCR], [BASE, INCR, fourth], [BASE, "appendonly.aof.3.base.rdb", INCR], []):
        assert aof_manifest.from_file_names(doubt) is None


def words(*parts: str) -> bytes:
    return f"*{len(parts)}\r\n".encode() + b"".join(f"${len(one)}\r\n{one}\r\n".encode() for one in parts)


def test_losses_after_the_damage_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    sound = b"#TS:1000\r\n" + words("SELECT", "0") + words("SET", "app:session:a", "1")
    cut = (
        b"GARBAGE*3\r\n$3\r\nSE"
        + b"\r\n#TS:2000\r\n"
        + words("SET", "app:session:b", "x\r\n*1\r\n$4\r\nPING\r\n")
        + words("DEL", "app:session:b", "rq:job:1", "rq:queue:mail")
        + b"#TS:3000\r\n"
        + words("MSET", "x", "app:session:no", "y", "2")
        + b"*2\r\n$3\r\nDEL\r\n$9\r\nto"
    )
    log.write_bytes(sound + cut)
    found = Losses()
    with log.open("rb") as file:
        aof_scan.count(found, file, len(sound), "app:session:*")
    assert (found.size, found.unseen, dict(found.commands)) == (len(cut), 0, {"SET": 1, "DEL": 1, "MSET": 1})
    assert {kind: len(keys) for kind, keys in found.keys.items()} == {"sessions": 1, "jobs": 1, "queues": 1, "other": 2}
    assert (found.first, found.last) == (2000.0, 3000.0)
    assert 0 < found.unclear < len(cut)
    told = found.as_dict(names=False)
    assert "app:session:b" not in str(told)
    assert "app:session:b" in found.as_dict(names=True)["names"]
    with log.open("rb") as file:
        assert aof_scan.last_timestamp(file, len(sound)) == 1000.0
        assert aof_scan.last_timestamp(file, len(sound) + len(cut)) == 3000.0
        aof_scan.count(found, file, len(sound + cut), "app:session:*")
    assert found.size == len(cut)


@pytest.mark.parametrize(
    ("snapshot", "log", "until", "before", "chosen"),
    [
        ((500.0, ""), AOF, None, 900.0, AOF),  # Nobody knows when the log was cut: it may be later.
        ((500.0, ""), AOF, 400.0, 900.0, RDB),
        ((500.0, ""), AOF, 600.0, 900.0, AOF),
        ((500.0, ""), AOF, None, 500.5, RDB),  # Nothing was written after it.
        ((500.0, "cut off"), AOF, 400.0, 900.0, AOF),
        ((None, ""), AOF, 400.0, 900.0, AOF),
        ((500.0, ""), "", None, 900.0, RDB),
        ((500.0, "cut off"), "", None, 900.0, ""),
        ((None, ""), "", None, 900.0, ""),
    ],
)
def test_best_source_loses_least(
    snapshot: tuple[float | None, str], log: str, until: float | None, before: float, chosen: str
) -> None:
    taken, problem = snapshot
    there = None if taken is None else RdbCheck(Path("dump.rdb"), problem, 10, taken)
    report = Report([Finding("x", "damaged")], source=log, cut=True, last_write=until, mtime=before, snapshot=there)
    assert best_source(report) == chosen
    whole = replace(report, findings=[], cut=False)
    assert best_source(whole) == log


def test_growth_is_reported_for_backup_day_and_week() -> None:
    before = [(NOW - hours * HOUR, 1000 - int(hours)) for hours in (1, 2, 23, 26, 100, 160, 300)]
    found = growth.growth(NOW, 1100, before)
    assert [(round((NOW - one["since"]) / HOUR), one["count"], one["change"]) for one in found] == [
        (1, 999, 101),
        (23, 977, 123),
        (160, 840, 260),
    ]
    assert list(growth.rows(NOW, found[:1])) == [("growth", "+101 (+10%) in 1 h: the backup had 999")]
    assert growth.growth(NOW, 5, []) == []
    # The only one is a day old, and told once.
    assert growth.growth(NOW, 5, [(NOW - DAY, 9)]) == [{"since": NOW - DAY, "count": 9, "change": -4}]
