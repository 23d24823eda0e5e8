"""Data checks: a deploy neither loses data nor starts without it."""

from dataclasses import replace
from typing import Any

import pytest

from redisctl.schema import StoredData, UnitState
from redoubt.data_checks import persistence_switch
from redoubt.facts.host import HostFacts
from redoubt.host_checks import problems
from redoubt.settings.load import load
from redoubt.sizes import GIB, MIB
from tests.unit.good_host import FACTS, INSTANCE, with_state

UNIT = UnitState(present=True, active=True, enabled=True, outdated=False)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"unmounted": ("/srv/redis/backups",)}, "nothing is mounted on /srv/redis/backups"),
        ({"stored": StoredData(is_mount_point=True)}, "/srv/redis/data/live is a mount point"),
        ({}, "/srv/redis/data/live is missing, and redis still runs"),
        ({"config": {}}, "it would start empty. If /srv/redis or /srv/redis/data is a disk of its own, mount it"),
        # The record of the last deploy is on the missing disk as well.
        ({"config": {}, "deployed_settings": {}, "units": {"redis-network.service": UNIT}}, "it would start empty"),
        # One problem is reported once.
        ({"config": {}, "unmounted": ("/srv/redis/data",)}, "nothing is mounted on /srv/redis/data"),
    ],
)
def test_missing_disk_is_refused(state: dict[str, Any], message: str) -> None:
    (blocker,) = problems(load({}), with_state(**{"stored": StoredData(missing=True), **state}))
    assert message in blocker


@pytest.mark.parametrize(
    ("state", "data"),
    [
        ({"deployed_settings": {}, "units": {}}, {}),
        ({"deployed_settings": {}, "units": {"redis-recover.path": UNIT}}, {}),
        ({}, {"redis_allow_data_loss": "empty"}),
    ],
    ids=["first deploy", "first deploy killed before the directories", "allowed"],
)
def test_start_without_data_needs_permission_or_a_new_host(state: dict[str, Any], data: dict[str, Any]) -> None:
    facts = with_state(**{"config": {}, "stored": StoredData(missing=True), **state})
    assert problems(load(data), facts) == []


def test_present_data_counts_as_free_space() -> None:
    assert problems(load({}), replace(with_state(stored=StoredData(size=2 * GIB)), disk_free=GIB)) == []


@pytest.mark.parametrize(
    ("data", "loss", "message"),
    [
        ({"redis_maxmemory": "98mb"}, "eviction", "redis uses 99.0 MiB: it would evict keys by volatile-lru until"),
        (
            {"redis_maxmemory": "98mb", "redis_maxmemory_policy": "noeviction"},
            "eviction",
            "redis uses 99.0 MiB: it would refuse every write",
        ),
        (
            {"redis_maxmemory_policy": "allkeys-lru"},
            "policy",
            "evicts any key, also queues and jobs; redis runs with 'volatile-lru'",
        ),
        ({"redis_appendonly": False}, "persistence", "a crash loses all changes since the last one"),
    ],
)
def test_data_loss_is_refused_until_allowed(data: dict[str, Any], loss: str, message: str) -> None:
    (blocker,) = problems(load(data), FACTS)
    assert message in blocker
    assert blocker.endswith(f"--data redis_allow_data_loss={loss}")
    allowed = load({**data, "redis_allow_data_loss": f"{loss},policy"})
    assert problems(allowed, FACTS) == []
    assert allowed.digest == load(data).digest


@pytest.mark.parametrize(("running", "refused"), [(98 * MIB, False), (64 * MIB, False), (100 * MIB, True), (0, True)])
def test_only_a_lower_maxmemory_can_evict(running: int, refused: bool) -> None:
    full = with_state(config={**INSTANCE.config, "maxmemory": str(running)})
    assert bool(problems(load({"redis_maxmemory": "98mb"}), full)) is refused


@pytest.mark.parametrize(
    "data",
    [{"redis_maxmemory": "99mb"}, {"redis_maxmemory_policy": "noeviction"}, {"redis_maxmemory_policy": "volatile-ttl"}],
)
def test_harmless_changes_need_no_permission(data: dict[str, Any]) -> None:
    assert problems(load(data), FACTS) == []


def with_persistence(
    appendonly: str | None = None,
    save: str | None = None,
    configured: str = "",
    *,
    rdb: bool = False,
    aof: bool = False,
) -> HostFacts:
    """Return a host whose Redis has this configuration and these files.

    Redis does not answer if ``appendonly`` is None.
    """
    config = {} if appendonly is None else {"appendonly": appendonly, "save": save or "", "maxmemory": str(GIB)}
    return with_state(config=config, configured_appendonly=configured, stored=StoredData(rdb=rdb, aof=aof))


@pytest.mark.parametrize(
    ("desired", "facts", "written"),
    [
        (True, with_persistence("yes", ""), ""),
        (True, with_persistence("no", "900 1"), "aof"),
        (True, with_persistence("no", "900 1", aof=True), "aof"),
        (False, with_persistence("yes", "900 1"), "rdb"),
        (False, with_persistence("yes", ""), "rdb"),
        (False, with_persistence("no", ""), "rdb"),
        (False, with_persistence("no", "900 1"), ""),
        (True, with_persistence(), ""),
        (False, with_persistence(), ""),
    ],
)
def test_data_is_written_where_the_next_start_reads_it(desired: bool, facts: HostFacts, written: str) -> None:
    assert persistence_switch(load({"redis_appendonly": desired}), facts) == written


@pytest.mark.parametrize(("databases", "written"), [("4", ""), ("3", ""), ("5", "aof")])
def test_aof_is_rewritten_before_databases_go(databases: str, written: str) -> None:
    facts = with_state(config={**INSTANCE.config, "databases": databases})
    assert persistence_switch(load({"redis_databases": 4}), facts) == written


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"used_databases": 5}, "redis_databases = 4, but db4 of redis has keys: move (MOVE) or delete (FLUSHDB)"),
        ({"used_databases": 4}, ""),
        (
            {"config": {}, "deployed_settings": {"redis_databases": 5}},
            "redis does not answer whether its databases above that have keys: deploy with redis_databases = 5 first",
        ),
        ({"config": {}, "deployed_settings": {"redis_databases": 4}}, ""),
        ({"config": {}, "deployed_settings": {"redis_databases": 5}, "stored": StoredData()}, ""),
    ],
)
def test_database_with_keys_must_stay(state: dict[str, Any], message: str) -> None:
    found = problems(load({"redis_databases": 4}), with_state(**state))
    assert [message in problem for problem in found] == [True] * bool(message), found


@pytest.mark.parametrize(
    ("desired", "facts", "refused"),
    [
        (True, with_persistence(), False),
        (True, with_persistence(configured="yes", rdb=True, aof=True), False),
        (True, with_persistence(rdb=True), True),
        (True, with_persistence(configured="no", rdb=True, aof=True), True),
        (True, with_persistence("no", "900 1", "no", rdb=True), False),
        (False, with_persistence(configured="yes", rdb=True, aof=True), True),
        (False, with_persistence(configured="no", rdb=True, aof=True), False),
        (False, with_persistence("yes", "", "yes", rdb=True, aof=True), False),
    ],
)
def test_start_without_the_data_is_refused(desired: bool, facts: HostFacts, refused: bool) -> None:
    settings = load({"redis_appendonly": desired, "redis_allow_data_loss": ["persistence"]})
    blockers = problems(settings, facts)
    assert bool(blockers) is refused
    assert all("it would start without the data" in problem for problem in blockers)


@pytest.mark.parametrize(
    ("engine", "formats", "message"),
    [
        ("redis", {"REDIS0012"}, ""),
        ("redis", {"REDIS0011"}, ""),
        (
            "redis",
            {"REDIS0011", "VALKEY080"},
            "Valkey 9.0 or newer wrote the data in /srv/redis/data/live (VALKEY080), and Redis does not read it",
        ),
        ("valkey", set(), ""),
        ("valkey", {"REDIS0009", "REDIS0011"}, ""),
        ("valkey", {"VALKEY080"}, ""),
        (
            "valkey",
            {"REDIS0012"},
            "Redis 7.4 or newer wrote the data in /srv/redis/data/live (REDIS0012), and Valkey does not read it",
        ),
        ("valkey", {"REDIS0011", "REDIS0015"}, "(REDIS0015)"),
        ("valkey", {""}, ""),
    ],
)
def test_unreadable_data_of_the_other_engine_is_refused(engine: str, formats: set[str], message: str) -> None:
    facts = with_state(stored=replace(INSTANCE.stored, formats=tuple(sorted(formats))))
    blockers = problems(load({"redis_engine": engine}), facts)
    assert bool(blockers) is bool(message)
    assert all(message in problem for problem in blockers)
