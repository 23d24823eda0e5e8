"""Host checks: facts are parsed, and every blocker of a deploy is reported."""

from dataclasses import replace
from typing import Any

import pytest

from redisctl.schema import Container, InstanceState, OtherInstance, StoredData, UnitState
from redoubt import docker, host_checks
from redoubt.docker import docker_source
from redoubt.facts.host import Build, HostFacts, Listener, Neighbour, Persistence, parse_host_facts
from redoubt.host_checks import persistence_switch, problems
from redoubt.settings.load import load
from redoubt.sizes import GIB, MIB

PROBE = """\
uid 0
system Debian GNU/Linux 13 (trixie)
id debian
version 13
codename trixie
container none
kernel /proc/sys/vm/overcommit_memory 0
kernel /sys/kernel/mm/transparent_hugepage/enabled [always] madvise never
memory_kib 4015012
machine 0123 uts:[4567]
disk_free_kib 20971520
docker_installed Docker version 26.1.5+dfsg1, build a72d7cd
docker_answers 26.1.5+dfsg1
docker_enabled enabled
docker_package docker.io
compose 2.26.1-4
selinux
logrotate /usr/sbin/logrotate
python True
root yes
redisctl 0123abcd
calendar_refused
address 127.0.0.1
address 10.0.0.5
address ::1
listener LISTEN 0 4096 127.0.0.1:6379 0.0.0.0:* users:(("docker-proxy",pid=812,fd=4))
listener LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=401,fd=3))
listener LISTEN 0 128 [::]:22 [::]:* users:(("sshd",pid=401,fd=4))
listener LISTEN 0 128 [fe80::1%eth0]:546 [::]:*
listener LISTEN 0 128 *:8080 *:*
"""
INSTANCE = InstanceState(
    image={"Id": "sha256:1"},
    config={"appendonly": "yes", "save": "900 1 300 10", "maxmemory": str(GIB)},
    running_engine="redis",
    running_version="8.0.2",
    used_memory=99 * MIB,
    configured=True,
    configured_appendonly="yes",
    stored=StoredData(rdb=True, aof=True, formats=("REDIS0012",)),
    published=(("127.0.0.1", 6379),),
    data_dir="/srv/redis/data/live",
    other_instances=(OtherInstance("queue", "/srv/queue/data/live", 768 * MIB, (("0.0.0.0", 6380),)),),
    deployed_settings={"redis_maxmemory_policy": "volatile-lru", "redis_appendonly": True},
    generation=3,
    units={"redis-backup.timer": UnitState(present=True, active=True, enabled=True, outdated=False)},
)
FACTS = parse_host_facts(PROBE.splitlines()).with_instance(INSTANCE)
ALLOWED = {"redis_allow_from": ["10.0.0.0/8"]}


def with_state(**changes: Any) -> HostFacts:
    """Return a good host whose instance differs in this."""
    return FACTS.with_instance(replace(INSTANCE, **changes))


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


def test_host_facts_are_parsed() -> None:
    assert (
        HostFacts(
            uid=0,
            system="Debian GNU/Linux 13 (trixie)",
            system_id=("debian", "13"),
            codename="trixie",
            memory=4015012 * 1024,
            machine="0123 uts:[4567]",
            disk_free=20 * GIB,
            docker=(26, 1, 5),
            docker_answers=True,
            docker_at_boot=True,
            docker_package="docker.io",
            compose=(2, 26, 1),
            selinux=False,
            container="",
            kernel={
                "/proc/sys/vm/overcommit_memory": "0",
                "/sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never",
            },
            schedule_refused="",
            addresses=frozenset({"127.0.0.1", "10.0.0.5", "::1"}),
            listeners=(
                Listener("127.0.0.1", 6379, "docker-proxy (pid 812)"),
                Listener("0.0.0.0", 22, "sshd (pid 401)"),
                Listener("::", 22, "sshd (pid 401)"),
                Listener("fe80::1", 546),
                Listener("::", 8080),
            ),
            has_logrotate=True,
            has_python=True,
            has_root=True,
            redisctl="0123abcd",
            instance=INSTANCE,
        )
        == FACTS
    )


def test_host_facts_include_what_redisctl_reports() -> None:
    assert FACTS.neighbours == (Neighbour("queue", "/srv/queue", 768 * MIB, frozenset({("0.0.0.0", 6380)})),)
    assert FACTS.published == frozenset({("127.0.0.1", 6379)})
    assert FACTS.persistence == Persistence(
        "yes",
        "900 1 300 10",
        "yes",
        rdb=True,
        aof=True,
        formats=frozenset({"REDIS0012"}),
        used_memory=99 * MIB,
        maxmemory=GIB,
    )
    assert FACTS.running_build == Build("redis", "8.0.2")
    assert FACTS.has_redisctl_config
    assert FACTS.has_unit("redis-backup.timer")
    assert not FACTS.has_unit("redis-network.service")


def test_host_without_an_instance_has_no_running_build() -> None:
    bare = parse_host_facts(PROBE.splitlines())
    assert bare.instance == InstanceState()
    assert (bare.running_build, bare.neighbours, bare.persistence) == (None, (), Persistence())
    assert not bare.has_redisctl_config


def test_running_build_names_the_engine_that_answers() -> None:
    assert with_state(running_engine="valkey", running_version="8.1.1").running_build == Build("valkey", "8.1.1")
    assert with_state(running_version="").running_build is None


@pytest.mark.parametrize(
    ("image", "running", "expected"),
    [("sha256:1", "sha256:1", True), ("sha256:1", "sha256:2", False), ("", "", False), ("sha256:1", None, False)],
)
def test_configured_image_runs_if_a_container_has_it(image: str, running: str | None, expected: bool) -> None:
    containers = () if running is None else (container(running),)
    facts = with_state(image={"Id": image} if image else None, containers=containers)
    assert facts.runs_configured_image("redis") is expected
    assert not facts.runs_configured_image("other")


def container(image_id: str) -> Container:
    """Return the container of an instance that runs this image."""
    return Container("redis", "redis", "abc", image_id, "running", "healthy", 0.0, frozenset(), {})


def test_kernel_of_a_container_is_not_tuned() -> None:
    inside = replace(FACTS, container="lxc")
    (problem,) = problems(load({}), inside)
    assert "this host is a container (lxc), which cannot set up the kernel: set redis_host_tuning = False" in problem
    assert problems(load({"redis_host_tuning": False}), inside) == []


def test_incomplete_host_facts_are_an_error() -> None:
    with pytest.raises(ValueError, match="compose"):
        parse_host_facts([line for line in PROBE.splitlines() if not line.startswith("compose")])


def test_good_host_has_no_blockers() -> None:
    assert problems(load({}), FACTS) == []


@pytest.mark.parametrize(
    ("change", "data", "message"),
    [
        ({"uid": 1000}, {}, "needs root"),
        ({"system_id": ("fedora", "43"), "system": "Fedora Linux 43"}, {}, "Fedora Linux 43 is not supported"),
        ({"docker": (20, 10, 24)}, {}, "is too old"),
        ({"compose": (2, 20, 0)}, {}, "is too old"),
        ({"compose": None, "docker_package": "docker-ce"}, {}, "install docker-compose-plugin"),
        ({"compose": None, "docker_package": ""}, {}, "has no Compose v2"),
        ({"compose": None}, {"redis_docker_source": "none"}, "install docker-compose (Debian 13)"),
        ({"compose": None, "docker": (24, 0, 7)}, {}, "is too old"),
        (
            {"docker": None, "system_id": ("fedora", "43"), "system": "Fedora Linux 43"},
            {"redis_allow_unsupported_system": True},
            "cannot install it on Fedora Linux 43",
        ),
        ({"docker": None}, {"redis_docker_source": "none"}, "forbids"),
        (
            {"docker": None, "system_id": ("debian", "12"), "system": "Debian 12"},
            {"redis_docker_source": "distribution"},
            "no package of Compose v2",
        ),
        ({"memory": GIB}, {}, "1024 MiB of RAM"),
        ({"disk_free": GIB}, {}, "has room for 1024 MiB, and 3072 MiB"),
        (
            {"instance": replace(INSTANCE, published=())},
            {},
            "127.0.0.1:6379 is in use by docker-proxy (pid 812): stop it, or set another redis_port or redis_bind"
            ". If 'docker ps' shows no container with this port, Docker has not released it",
        ),
        ({}, {"redis_root": "/var/lib"}, "redis_root = '/var/lib' is a directory of the system"),
        ({}, {"redis_root": "/tmp/redis"}, "redis_root = '/tmp/redis' loses its files at a reboot"),
        ({}, {"redis_root": "/opt/redis"}, "redis_root = '/opt/redis', but redis has its data in /srv/redis"),
        (
            {},
            {"redis_bind": ["10.0.0.6"]},
            "10.0.0.6 is not an address of this host, which has 10.0.0.5, 127.0.0.1, ::1",
        ),
        ({"addresses": frozenset({"127.0.0.1"})}, {"redis_bind": ["::1"]}, "::1 is not an address of this host"),
        (
            {"addresses": frozenset({"127.0.0.1"})},
            {"redis_bind": ["::"], **ALLOWED},
            ":: is not an address of this host",
        ),
        ({}, {"redis_port": 22}, "127.0.0.1:22 is in use by sshd (pid 401)"),
        ({}, {"redis_port": 8080}, "127.0.0.1:8080 is in use by another process"),
        (
            {"instance": replace(INSTANCE, foreign_container="web sha256:1")},
            {},
            "there is a container redis that Redoubt did not create",
        ),
    ],
)
def test_each_blocker_of_a_host_is_reported(change: dict[str, object], data: dict[str, object], message: str) -> None:
    blockers = problems(load(data), replace(FACTS, **change))  # type: ignore[arg-type]
    assert blockers
    assert message in blockers[0]


UNIT = UnitState(present=True, active=True, enabled=True, outdated=False)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"unmounted": ("/srv/redis/backups",)}, "nothing is mounted on /srv/redis/backups"),
        ({"stored": StoredData(is_mount_point=True)}, "/srv/redis/data/live is a mount point"),
        ({}, "/srv/redis/data/live is missing, and redis still runs"),
        ({"config": {}}, "it would start empty. If /srv/redis or /srv/redis/data is a disk of its own, mount it"),
        # The record of the last deploy is on the missing disk as well.
        ({"config": {}, "deployed_settings": {}, "units": {"redis-recover.path": UNIT}}, "it would start empty"),
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
        ({}, {"redis_allow_data_loss": "empty"}),
    ],
    ids=["first deploy", "allowed"],
)
def test_start_without_data_needs_permission_or_a_new_host(state: dict[str, Any], data: dict[str, Any]) -> None:
    facts = with_state(**{"config": {}, "stored": StoredData(missing=True), **state})
    assert problems(load(data), facts) == []


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


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.0.0.2", "10.0.0.5", "0.0.0.0", "::", "::1"])
def test_own_addresses_may_be_bound(bind: str) -> None:
    assert problems(load({**ALLOWED, "redis_bind": [bind]}), replace(FACTS, listeners=())) == []


def test_unknown_addresses_of_a_host_are_accepted() -> None:
    assert problems(load({"redis_bind": ["10.0.0.6"]}), replace(FACTS, addresses=frozenset())) == []


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


def test_process_on_ipv4_and_ipv6_is_reported_once() -> None:
    assert len(problems(load({"redis_port": 22}), FACTS)) == 1


def test_all_blockers_are_reported_at_once() -> None:
    taken = with_state(published=(), foreign_container="web sha256:1")
    bad = replace(taken, memory=1, disk_free=1, docker=(1, 0), system_id=("x", "1"))
    assert len(problems(load({}), bad)) == 6


def test_invalid_setting_is_not_checked_on_the_host() -> None:
    assert problems(load({}), replace(FACTS, memory=1, disk_free=1), invalid={"redis_maxmemory"}) == []


def test_present_data_counts_as_free_space() -> None:
    assert problems(load({}), replace(with_state(stored=StoredData(size=2 * GIB)), disk_free=GIB)) == []


def test_unsupported_system_can_be_allowed() -> None:
    facts = replace(FACTS, system_id=("fedora", "43"))
    assert problems(load({"redis_allow_unsupported_system": True}), facts) == []


@pytest.mark.parametrize(
    ("desired", "used", "conflict"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "::", True),
        ("::1", "0.0.0.0", False),
        ("::1", "::", True),
        ("0.0.0.0", "10.0.0.1", True),
        ("0.0.0.0", "::1", False),
        ("::", "10.0.0.1", True),
    ],
)
def test_overlapping_addresses_are_a_conflict(desired: str, used: str, conflict: bool) -> None:
    facts = replace(FACTS, addresses=frozenset(), listeners=(Listener(used, 7000),))
    assert bool(problems(load({**ALLOWED, "redis_port": 7000, "redis_bind": [desired]}), facts)) is conflict


@pytest.mark.parametrize(
    ("change", "setting", "source"),
    [
        ({}, "auto", "present"),
        ({}, "docker", "present"),
        ({"docker": None}, "auto", "distribution"),
        ({"docker": None, "system_id": ("debian", "12")}, "auto", "docker"),
        ({"docker": None, "system_id": ("ubuntu", "24.04")}, "auto", "distribution"),
        ({"docker": None}, "docker", "docker"),
        ({"docker": None}, "none", "none"),
    ],
)
def test_source_of_docker(change: dict[str, object], setting: str, source: str) -> None:
    facts = replace(FACTS, **change)  # type: ignore[arg-type]
    assert docker_source(load({"redis_docker_source": setting}), facts) == source


def test_refusal_names_every_supported_system() -> None:
    (message,) = problems(load({}), replace(FACTS, system_id=("x", "1")))
    for name, version in docker.SUPPORTED:
        assert f"{name.capitalize()} {version}" in message


@pytest.mark.parametrize(("stored", "message"), [(3, None), (4, None), (2, "older than the passwords"), (0, "missing")])
def test_outdated_password_store_is_refused(stored: int, message: str | None) -> None:
    blockers = host_checks.check_secret_store("secrets/a/redis.yml", stored, "/srv/redis", FACTS)
    assert bool(blockers) == bool(message)
    assert (message or "") in "".join(blockers)


def test_host_without_the_instance_needs_no_store() -> None:
    fresh = parse_host_facts(PROBE.splitlines())
    assert host_checks.check_secret_store("secrets/a/redis.yml", 0, "/srv/redis", fresh) == []


@pytest.mark.parametrize(
    ("repository", "stored", "present", "refused"),
    [("/mnt", "", True, True), ("/mnt", "known", True, False), ("/mnt", "", False, False), ("", "", True, False)],
)
def test_repository_password_is_never_replaced(repository: str, stored: str, present: bool, refused: bool) -> None:
    settings = load({"redis_backup_restic_repository": repository})
    blockers = host_checks.check_repository_password(
        "redis.yml", stored, settings, with_state(repository_password=present)
    )
    assert [("'repository: <password>'" in line) for line in blockers] == [True] * refused


def test_refused_schedule_is_reported() -> None:
    (problem,) = problems(load({"redis_backup_schedule": "25:00"}), replace(FACTS, schedule_refused="Failed to parse"))
    assert problem.startswith("redis_backup_schedule = '25:00': this host's systemd reports: Failed to parse")
