"""redisctl: readings become verdicts with advice, and the program is one file that is the same everywhere."""

import io
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from redisctl.__main__ import DIGEST, modules_dir
from redisctl.core.formatting import ago, size
from redisctl.monitor import health
from redisctl.monitor.health import CRITICAL, OK, UNKNOWN, WARNING, Check, overall, run_checks
from redisctl.monitor.stats import rows, stats_of
from redisctl.monitor.status import Status
from redoubt import host_files, redisctl_bundle
from redoubt.settings.load import load

GIB = 1024**3
NOW = 1_800_000_000.0
INFO: dict[str, Any] = {
    "redis_version": "8.0.2",
    "uptime_in_seconds": 90000,
    "role": "master",
    "connected_slaves": 0,
    "loading": 0,
    "used_memory": 200 * 1024**2,
    "used_memory_peak": 210 * 1024**2,
    "used_memory_rss": 230 * 1024**2,
    "maxmemory": GIB,
    "maxmemory_policy": "volatile-lru",
    "mem_fragmentation_ratio": 1.1,
    "evicted_keys": 0,
    "expired_keys": 12,
    "connected_clients": 7,
    "blocked_clients": 2,
    "rejected_connections": 0,
    "rdb_last_save_time": NOW - 600,
    "rdb_changes_since_last_save": 5,
    "rdb_last_bgsave_status": "ok",
    "aof_enabled": 1,
    "aof_current_size": 4096,
    "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "instantaneous_ops_per_sec": 40,
    "total_commands_processed": 5000,
    "keyspace_hits": 90,
    "keyspace_misses": 10,
    "db0": {"keys": 30, "expires": 20, "avg_ttl": 5},
}
WELL = Status(
    at=NOW,
    container_status="running",
    health="healthy",
    info=INFO,
    config={"maxclients": "10000", "save": "900 1"},
    round_trip=0.0003,
    disk_free=20 * GIB,
    data_size=GIB,
    certificate_ends=NOW + 200 * 86400,
)


def found(**changes: Any) -> dict[str, Check]:
    """The checks of a reading with other values, of its own or of INFO, by name."""
    own = {name: value for name, value in changes.items() if name in Status.__dataclass_fields__}
    info = {**INFO, **{name: value for name, value in changes.items() if name not in own}}
    return {check.name: check for check in run_checks(replace(WELL, **{"info": info, **own}))}


def test_healthy_instance_needs_no_remedy() -> None:
    checks = run_checks(WELL)
    assert {check.verdict for check in checks} == {OK}
    assert {check.remedy for check in checks} == {""}
    assert overall(checks) == OK
    names = [check.name for check in checks]
    assert len(names) == len(set(names)) > 15


@pytest.mark.parametrize(
    ("changes", "name", "verdict", "words"),
    [
        ({"container_status": "exited"}, "container", CRITICAL, "exited, healthy"),
        ({"health": "unhealthy"}, "container", CRITICAL, "running, unhealthy"),
        ({"restarts": 3}, "container", WARNING, "3 restarts"),
        ({"killed_for_memory": True}, "container", WARNING, "0 restarts"),
        ({"round_trip": 0.2}, "ping", WARNING, "200.0 ms"),
        ({"round_trip": 2.0}, "ping", CRITICAL, "2000.0 ms"),
        ({"role": "slave", "master_host": "10.0.0.1"}, "role", CRITICAL, "replica of 10.0.0.1"),
        ({"loading": 1}, "loading", WARNING, "loading"),
        ({"used_memory": 0.74 * GIB}, "memory", OK, "74%"),
        ({"used_memory": 0.75 * GIB}, "memory", WARNING, "75%"),
        ({"used_memory": 0.9 * GIB}, "memory", CRITICAL, "90%"),
        ({"maxmemory": 0}, "memory", WARNING, "no maxmemory"),
        ({"mem_fragmentation_ratio": 1.6}, "fragmentation", WARNING, "1.60"),
        ({"mem_fragmentation_ratio": 9.0, "used_memory": 2**20}, "fragmentation", OK, "means nothing"),
        ({"evicted_keys": 4}, "evictions", WARNING, "4 keys"),
        ({"connected_clients": 9100}, "clients", CRITICAL, "9100 of 10000"),
        ({"rejected_connections": 1}, "rejected connections", WARNING, "1 since"),
        ({"rdb_last_save_time": NOW - 90000}, "rdb snapshot", WARNING, "1 d 1 h old, 5 changes"),
        ({"rdb_last_save_time": NOW - 9e6, "rdb_changes_since_last_save": 0}, "rdb snapshot", OK, "0 changes"),
        ({"rdb_last_bgsave_status": "err"}, "rdb snapshot", CRITICAL, "the last one failed"),
        ({"config": {"maxclients": "10000", "save": ""}}, "rdb snapshot", OK, "off"),
        ({"aof_last_write_status": "err"}, "aof", CRITICAL, "failed: write"),
        ({"aof_last_bgrewrite_status": "err"}, "aof", CRITICAL, "failed: bgrewrite"),
        ({"aof_enabled": 0}, "aof", OK, "off"),
        ({"disk_free": 1.5 * GIB}, "disk", WARNING, "1.5 GiB free"),
        ({"disk_free": 0.5 * GIB}, "disk", CRITICAL, "512.0 MiB free"),
        ({"certificate_ends": NOW + 29 * 86400}, "certificate", WARNING, "29 days left, until 2027-02-13"),
        ({"certificate_ends": NOW - 1}, "certificate", CRITICAL, "days left"),
    ],
)
def test_each_problem_has_a_verdict_and_a_remedy(changes: dict[str, Any], name: str, verdict: str, words: str) -> None:
    check = found(**changes)[name]
    assert (check.verdict, words in check.observed) == (verdict, True), check
    assert bool(check.remedy) == (verdict != OK)


def test_silent_redis_is_critical_and_host_is_checked() -> None:
    checks = {
        check.name: check for check in run_checks(replace(WELL, info={}, config={}, unreachable_reason="Timeout"))
    }
    assert checks["ping"].verdict == CRITICAL
    assert {"container", "disk", "certificate"} < set(checks)


def test_certificate_is_checked_only_with_tls() -> None:
    assert "certificate" not in found(certificate_ends=None)


def test_worst_verdict_is_the_overall_verdict() -> None:
    made = [Check("x", verdict, "") for verdict in (OK, CRITICAL, WARNING)]
    assert overall(made) == CRITICAL
    assert overall(made[:1] + made[2:]) == WARNING
    assert overall([]) == UNKNOWN
    assert health.EXIT_CODES == {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}


def test_stats_are_the_same_for_programs_and_people() -> None:
    values = stats_of(WELL)
    assert (values["hit_ratio"], values["keys"], values["keys_with_ttl"]) == (0.9, 30, 20)
    shown = dict(rows(values))
    assert shown["hits"] == "90.0% of reads found their key"
    assert shown["memory"].startswith("200.0 MiB of 1.0 GiB")
    unasked = stats_of(replace(WELL, info={**INFO, "keyspace_hits": 0, "keyspace_misses": 0, "aof_enabled": 0}))
    assert (unasked["hit_ratio"], unasked["aof_size"]) == (None, None)
    assert dict(rows(unasked))["hits"] == "nothing asked yet"


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (GIB, "1.0 GiB"), (5e12, "4.5 TiB")]
)
def test_sizes_are_short(count: float, words: str) -> None:
    assert size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h"), (90061, "1 d 1 h")]
)
def test_times_are_short(seconds: float, words: str) -> None:
    assert ago(seconds) == words


def test_program_is_one_reproducible_file(tmp_path: Path) -> None:
    made = redisctl_bundle.archive()
    redisctl_bundle.archive.cache_clear()
    assert redisctl_bundle.archive() == made
    names = zipfile.ZipFile(io.BytesIO(made)).namelist()
    assert {"__main__.py", "redisctl/cli/main.py", "redis/client.py", "click/core.py", "rich/console.py"} < set(names)
    assert not [name for name in names if name.startswith(("redoubt/", "pyinfra/", "tests/"))]
    program = tmp_path / "redisctl"
    program.write_bytes(made)
    # Help needs no root, no Redis and nothing that is installed.
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(program), "health", "--help"], capture_output=True, text=True, check=True
        )
    finally:
        # By root.
        shutil.rmtree(modules_dir(str(tmp_path)), ignore_errors=True)
    assert "as monitors of Nagios's kind read it" in done.stdout


def test_program_ends_with_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the place where its modules are unpacked: one for what is the same, another for what is not."""
    ends = []
    for libraries in ((), ("click",), ()):
        monkeypatch.setattr(redisctl_bundle, "LIBRARIES", libraries)
        redisctl_bundle.archive.cache_clear()
        ends.append(redisctl_bundle.archive()[-DIGEST:])
    redisctl_bundle.archive.cache_clear()
    assert re.fullmatch(rb"[0-9a-f]{64}", ends[0])
    assert ends[0] == ends[2] != ends[1]


def test_each_instance_has_its_own_command() -> None:
    settings = load({"redis_name": "queue"})
    files = {file.path: file.content for file in host_files.redisctl_program(settings)}
    assert files["/usr/local/sbin/redisctl-queue"] == '#!/bin/sh\nexec /srv/queue/redisctl "$@"\n'
    config = host_files.redisctl_config(settings)
    assert (config.path, '"name": "queue"' in config.content) == ("/srv/queue/redisctl.json", True)
    assert host_files.redisctl_path(load({})) == "/usr/local/sbin/redisctl"
