"""Host facts: what the inspection and redisctl report is parsed."""

from ipaddress import IPv4Network

import pytest

from redisctl.schema import Container, InstanceState
from redoubt.facts.host import Build, HostFacts, Listener, Neighbour, Persistence, Route, parse_host_facts
from redoubt.sizes import GIB, MIB
from tests.unit.good_host import FACTS, INSTANCE, PROBE, with_state


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
            owner_account="",
            free_id=59999,
            has_logrotate=True,
            has_nft=True,
            has_python=True,
            routes=(Route(IPv4Network("10.0.0.0/24"), "eth0"),),
            has_root=True,
            root_owner="redis",
            root_entries=(".redoubt", "config"),
            root_resolved="/srv/redis",
            root_access="0:0 755",
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


def test_incomplete_host_facts_are_an_error() -> None:
    with pytest.raises(ValueError, match="compose"):
        parse_host_facts([line for line in PROBE.splitlines() if not line.startswith("compose")])


def test_route_over_two_links_is_parsed() -> None:
    lines = [
        "route 10.1.0.0/16 proto bird metric 32 \\\tnexthop via 10.0.0.1 dev eth0 \\\tnexthop via 10.0.1.1 dev eth1",
        "route default proto bird metric 32 \\\tnexthop via 10.0.0.1 dev eth0 weight 1",
    ]
    facts = parse_host_facts([*PROBE.splitlines(), *lines])
    assert facts.routes == (*FACTS.routes, Route(IPv4Network("10.1.0.0/16"), "eth0"))
