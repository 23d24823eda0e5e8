"""Host checks: every blocker of a deploy is reported."""

from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import pytest

from redoubt import docker, host_checks
from redoubt.docker import docker_source
from redoubt.facts.host import Listener, Route, parse_host_facts
from redoubt.host_checks import problems
from redoubt.settings.load import load
from redoubt.sizes import GIB
from tests.unit.good_host import FACTS, INSTANCE, PROBE, with_state

ALLOWED = {"redis_allow_from": ["10.0.0.0/8"]}


def test_account_with_redis_number_is_refused() -> None:
    """The message names the account, the settings and a free number."""
    facts = replace(FACTS, owner_account="dhcpcd", free_id=59998)
    (problem,) = problems(load({"redis_uid": 991}), facts)
    assert "redis_uid = 991 is the account dhcpcd" in problem
    assert "set redis_uid and redis_gid" in problem
    assert "59998" in problem


def test_missing_rules_of_docker_are_a_warning() -> None:
    """A deploy does not repair them, so it says what does."""
    assert host_checks.warnings(load({}), FACTS) == []
    (warning,) = host_checks.warnings(load({}), with_state(translated=False))
    assert "Docker's rules for the port of redis are missing" in warning
    assert "systemctl restart docker" in warning


def test_kernel_of_a_container_is_not_tuned() -> None:
    inside = replace(FACTS, container="lxc")
    (problem,) = problems(load({}), inside)
    assert "this host is a container (lxc), which cannot set up the kernel: set redis_host_tuning = False" in problem
    assert problems(load({"redis_host_tuning": False}), inside) == []


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
        ({"root_resolved": "/etc/cron.d"}, {}, "redis_root = '/srv/redis' is a directory of the system"),
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


@pytest.mark.parametrize(
    ("owner", "entries", "state", "message"),
    [
        ("", ("config", "app.py"), {"data_dir": ""}, "it contains config, app.py. A deploy would change the owners"),
        ("", ("config",), {"foreign_container": "redis sha256:1"}, "'echo redis >/srv/redis/.redoubt' on the host"),
        ("queue", (".redoubt",), {}, "redis_root = '/srv/redis' belongs to the instance queue"),
        ("redis", (".redoubt", "data", "app.py"), {"data_dir": ""}, ""),
        ("", (), {"data_dir": ""}, ""),
        # Somebody removed the marker of an instance that is deployed.
        ("", ("config",), {}, ""),
    ],
    ids=["application", "other container", "other instance", "kept data", "empty", "marker is missing"],
)
def test_root_must_be_empty_or_its_own(
    owner: str, entries: tuple[str, ...], state: dict[str, Any], message: str
) -> None:
    facts = replace(with_state(**state), root_owner=owner, root_entries=entries)
    blockers = [problem for problem in problems(load({}), facts) if "redis_root" in problem]
    assert [message in blocker for blocker in blockers] == ([True] if message else [])


@pytest.mark.parametrize(
    "root",
    [
        *("/bin", "/boot/redis", "/etc", "/etc/apt/keyrings", "/lib64/redis", "/opt", "/sbin/x", "/srv", "/usr"),
        *("/usr/redis", "/usr/src", "/usr/local", "/usr/local/src", "/usr/local/share/redis", "/var", "/var/lib"),
        *("/var/local", "/var/log", "/var/mail", "/var/opt", "/var/spool", "/var/www"),
    ],
)
def test_directory_of_the_system_is_no_root(root: str) -> None:
    facts = replace(FACTS, root_resolved=root, root_owner="", root_entries=())
    (blocker,) = problems(load({"redis_root": root}), facts)
    assert blocker.startswith(f"redis_root = '{root}' is a directory of the system, whose owner and mode")
    assert "use a directory such as /srv/redis" in blocker


@pytest.mark.parametrize(
    "root", ["/opt/redis", "/home/app/redis", "/var/lib/redis", "/var/opt/redis", "/usr/local/redis", "/data", "/etcd"]
)
def test_directory_in_the_system_may_be_a_root(root: str) -> None:
    facts = replace(with_state(data_dir=""), root_resolved=root, root_owner="", root_entries=())
    assert problems(load({"redis_root": root}), facts) == []


@pytest.mark.parametrize(
    ("access", "is_refused"),
    [
        ("0:0 755", False),
        ("0:0 700", False),
        ("0:0 750", False),
        ("", False),
        ("0:8 2775", True),
        ("0:50 755", True),
        ("1000:1000 755", True),
        ("0:0 1777", True),
    ],
)
def test_empty_root_that_others_use_is_refused(access: str, is_refused: bool) -> None:
    """Packages create empty directories for what they write later."""
    facts = replace(with_state(data_dir=""), root_owner="", root_entries=(), root_access=access)
    blockers = problems(load({}), facts)
    assert len(blockers) == is_refused
    if is_refused:
        owner, mode = access.split()
        assert f"is empty, but it belongs to {owner} with mode {mode}, and no deploy of redis" in blockers[0]
        assert "run 'chown 0:0 /srv/redis && chmod 00755 /srv/redis' on the host" in blockers[0]


def test_files_of_others_are_not_overwritten() -> None:
    """A root with the marker of the instance shows that they are its own.

    Then somebody has changed them.
    """
    facts = replace(with_state(data_dir=""), root_owner="", root_entries=(), foreign_files=("/etc/logrotate.d/redis",))
    (problem,) = problems(load({}), facts)
    assert problem.startswith("/etc/logrotate.d/redis exists, and no deploy of redis has written it: ")
    assert problems(load({}), replace(facts, root_owner="redis")) == []


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.0.0.2", "10.0.0.5", "0.0.0.0", "::", "::1"])
def test_own_addresses_may_be_bound(bind: str) -> None:
    assert problems(load({**ALLOWED, "redis_bind": [bind]}), replace(FACTS, listeners=())) == []


def test_unknown_addresses_of_a_host_are_accepted() -> None:
    assert problems(load({"redis_bind": ["10.0.0.6"]}), replace(FACTS, addresses=frozenset())) == []


def test_process_on_ipv4_and_ipv6_is_reported_once() -> None:
    assert len(problems(load({"redis_port": 22}), FACTS)) == 1


def test_all_blockers_are_reported_at_once() -> None:
    taken = with_state(published=(), foreign_container="web sha256:1")
    bad = replace(taken, memory=1, disk_free=1, docker=(1, 0), system_id=("x", "1"))
    assert len(problems(load({}), bad)) == 6


def test_invalid_setting_is_not_checked_on_the_host() -> None:
    assert problems(load({}), replace(FACTS, memory=1, disk_free=1), invalid={"redis_maxmemory"}) == []


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


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        ((), ""),
        (("10.0.0.0/8", "eth0"), ""),
        (("198.18.0.0/24", "redis-edge"), ""),
        # OpenVPN's way to take all traffic.
        (("128.0.0.0/1", "tun0"), ""),
        (
            ("198.18.0.0/15", "tun0"),
            "redis_edge_subnet = '198.18.0.0/28' overlaps routes of this host (198.18.0.0/15",
        ),
        (
            ("198.18.0.9/32", "wg0"),
            "redis_edge_subnet = '198.18.0.0/28' overlaps routes of this host (198.18.0.9/32",
        ),
    ],
)
def test_edge_subnet_must_be_unused(routes: tuple[str, str], message: str) -> None:
    settings = load({"redis_edge_subnet": "198.18.0.0/28"})
    facts = replace(FACTS, routes=(Route(IPv4Network(routes[0]), routes[1]),) if routes else ())
    assert [problem[: len(message)] for problem in problems(settings, facts)] == ([message] if message else [])
