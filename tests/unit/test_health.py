"""redisctl health: each check has a verdict, and a remedy if something is wrong."""

from dataclasses import replace
from typing import Any

import pytest

from redisctl.monitor import health
from redisctl.monitor.health import CRITICAL, OK, UNKNOWN, WARNING, Check, overall, run_checks
from redisctl.monitor.status import DiskStatus, NetworkStatus, Status
from redisctl.monitor.unexpected import Unexpected

GIB = 1024**3
NOW = 1_800_000_000.0
HELD = DiskStatus(lock_holder="a deploy is changing it", lock_verb="deploy")
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
HEALTHY = Status(
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


def checks_of(**changes: Any) -> dict[str, Check]:
    """Return the checks of a status by name.

    ``changes`` are fields of the status or values of INFO that differ from a healthy one.
    """
    own = {name: value for name, value in changes.items() if name in Status.__dataclass_fields__}
    info = {**INFO, **{name: value for name, value in changes.items() if name not in own}}
    return {check.name: check for check in run_checks(replace(HEALTHY, **{"info": info, **own}))}


def test_healthy_instance_needs_no_remedy() -> None:
    checks = run_checks(HEALTHY)
    assert {check.verdict for check in checks} == {OK}
    assert {check.remedy for check in checks} == {""}
    assert overall(checks) == OK
    names = [check.name for check in checks]
    assert len(names) == len(set(names)) > 15


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"mem_fragmentation_ratio": "x"}, "memory"),
        ({"maxmemory": 0.1, "used_memory": 10**400}, "memory"),
        ({"uptime_in_seconds": float("inf")}, "server"),
        ({"db0": "x"}, "keyspace"),
        ({"info": {}}, "persistence"),
        ({"config": {"maxclients": "\x1b[2J" * 1000}}, "clients"),
    ],
)
def test_answer_that_cannot_be_read_hides_no_other_check(changes: dict[str, Any], name: str) -> None:
    """A Redis that was taken over answers anything. The other checks stay."""
    checks = checks_of(network=NetworkStatus(("the table is not loaded",)), **changes)
    assert checks[name].verdict == CRITICAL
    assert checks[name].observed.startswith("the answers of Redis cannot be read: ")
    assert len(checks[name].observed) < 300
    assert checks["network filter"].verdict == CRITICAL
    assert {"ping", "slow commands", "disk", "backup"} <= checks.keys()


def test_limits_of_a_stopped_container_are_not_reported() -> None:
    """They are in the container's network, which is gone."""
    assert checks_of()["connection limits"].verdict == OK
    assert "connection limits" not in checks_of(container_status="exited")


@pytest.mark.parametrize(
    ("changes", "name", "verdict", "text"),
    [
        ({"container_status": "exited"}, "container", CRITICAL, "exited, healthy"),
        (
            {"network": NetworkStatus(("the nftables table redoubt_redis is not loaded",))},
            "network filter",
            CRITICAL,
            "redoubt_redis is not loaded",
        ),
        ({"network": NetworkStatus(watched=False)}, "network filter", WARNING, "the units that watch it"),
        (
            {"network": NetworkStatus(limit_differences=("the table is not loaded",))},
            "connection limits",
            WARNING,
            "the table is not loaded",
        ),
        (
            {"network": NetworkStatus(refused={"redis_maxclients_per_source": 3, "redis_maxclients": 0})},
            "refused packets",
            WARNING,
            "3 above redis_maxclients_per_source, since",
        ),
        ({"network": NetworkStatus(translated=False)}, "published port", WARNING, "Docker's rules are missing"),
        ({"health": "unhealthy"}, "container", CRITICAL, "running, unhealthy"),
        ({"restarts": 3}, "container", WARNING, "3 restarts"),
        ({"killed_for_memory": True}, "container", WARNING, "0 restarts"),
        ({"round_trip": 0.2}, "ping", WARNING, "200.0 ms"),
        ({"round_trip": 2.0}, "ping", CRITICAL, "2000.0 ms"),
        ({"role": "slave", "master_host": "10.0.0.1"}, "role", CRITICAL, "replica of 10.0.0.1"),
        ({"unexpected": Unexpected(primary="10.0.0.1:6379")}, "role", CRITICAL, "replica of 10.0.0.1:6379"),
        (
            {"unexpected": Unexpected(users="backdoor")},
            "changes",
            CRITICAL,
            "other users than config/users.acl: backdoor",
        ),
        ({"unexpected": Unexpected(users="backdoor"), "disk": HELD}, "changes", WARNING, "backdoor"),
        ({"unexpected": Unexpected(functions="evil")}, "functions", WARNING, "no user may run evil"),
        ({"unexpected": Unexpected(unknown="Redis loads its data")}, "changes", UNKNOWN, "Redis loads its data"),
        ({"undone": ("the data changed the server", "this was undone")}, "changes", WARNING, "the data changed"),
        ({"loading": 1}, "loading", WARNING, "loading"),
        ({"used_memory": 0.74 * GIB}, "memory", OK, "74%"),
        ({"used_memory": 0.75 * GIB}, "memory", WARNING, "75%"),
        ({"used_memory": 0.9 * GIB}, "memory", CRITICAL, "90%"),
        ({"maxmemory": 0}, "memory", WARNING, "no maxmemory"),
        ({"mem_fragmentation_ratio": 1.6}, "fragmentation", WARNING, "1.60"),
        ({"mem_fragmentation_ratio": 9.0, "used_memory": 2**20}, "fragmentation", OK, "not meaningful"),
        ({"evicted_keys": 4}, "evictions", WARNING, "4 keys"),
        ({"connected_clients": 9100}, "clients", CRITICAL, "9100 of 10000"),
        ({"rejected_connections": 1}, "rejected connections", WARNING, "1 since Redis"),
        ({"rdb_last_save_time": NOW - 90000}, "rdb snapshot", WARNING, "1 d 1 h old, 5 changes"),
        ({"rdb_last_save_time": NOW - 9e6, "rdb_changes_since_last_save": 0}, "rdb snapshot", OK, "0 changes"),
        ({"rdb_last_bgsave_status": "err"}, "rdb snapshot", CRITICAL, "the last save failed"),
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
def test_each_problem_has_a_verdict_and_a_remedy(changes: dict[str, Any], name: str, verdict: str, text: str) -> None:
    check = checks_of(**changes)[name]
    assert (check.verdict, text in check.observed) == (verdict, True), check
    assert bool(check.remedy) == (verdict != OK)


@pytest.mark.parametrize(
    ("active", "remedy"), [("yes", "Redis defragments while it runs: wait"), ("no", "restart Redis. Only some builds")]
)
def test_fragmentation_has_a_remedy_that_helps(active: str, remedy: str) -> None:
    """A deploy has already turned defragmentation on where the build supports it."""
    check = checks_of(mem_fragmentation_ratio=1.6, config={"maxclients": "10000", "save": "", "activedefrag": active})
    assert check["fragmentation"].remedy.startswith(remedy)


def test_silent_redis_is_critical_and_host_is_checked() -> None:
    checks = {
        check.name: check for check in run_checks(replace(HEALTHY, info={}, config={}, unreachable_reason="Timeout"))
    }
    assert checks["ping"].verdict == CRITICAL
    assert {"container", "disk", "certificate"} < set(checks)


def test_certificate_is_checked_only_with_tls() -> None:
    assert "certificate" not in checks_of(certificate_ends=None)


def test_worst_verdict_is_the_overall_verdict() -> None:
    checks = [Check("x", verdict, "") for verdict in (OK, CRITICAL, WARNING)]
    assert overall(checks) == CRITICAL
    assert overall(checks[:1] + checks[2:]) == WARNING
    assert overall([]) == UNKNOWN
    assert health.EXIT_CODES == {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}
