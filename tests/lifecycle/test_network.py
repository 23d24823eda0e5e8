"""Network access: Redis listens on the addresses and port of the settings.

It listens on no others, and answers only the networks in the settings.
"""

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sandbox import images
from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.deployer import Deployer
from tests.host.host_under_test import listens
from tests.lifecycle.conftest import assert_no_change
from tests.lifecycle.network_filter import WATCH, docker_rules_removed, unfiltered
from tests.lifecycle.port_probe import answers


@pytest.fixture(scope="module")
def neighbour(start_host: Callable[..., Host]) -> Host:
    """Another host on the same network."""
    return start_host("lifecycle-bare", image="bare")


# An IPv6 source that no setting allows.
STRANGER6 = "2001:db8::bad"


def address6(host: Host) -> str:
    """Return the IPv6 address that give_ipv6 adds to a host."""
    return str(ipaddress.IPv6Address(f"2001:db8::{host.address}"))


@contextmanager
def ipv6_enabled(host: Host) -> Iterator[None]:
    """Give a host IPv6 on its loopback and an address on the fleet network.

    A reboot loses both. Docker gives a container neither. An IPv6 network of Docker would enable forwarding on the
    whole machine, which then ignores router advertisements.
    """
    try:
        give_ipv6(host)
        yield
    finally:
        host.run("sysctl -w net.ipv6.conf.lo.disable_ipv6=1 net.ipv6.conf.eth0.disable_ipv6=1", check=True)


def give_ipv6(host: Host) -> None:
    """Enable IPv6 and add the address."""
    host.run("sysctl -w net.ipv6.conf.lo.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0", check=True)
    host.run(f"ip address replace {address6(host)}/64 dev eth0 nodad", check=True)


@pytest.fixture(scope="module", autouse=True)
def ipv6(host: Host, neighbour: Host) -> Iterator[None]:
    """IPv6 on both hosts; the neighbour can also come as a stranger."""
    with ipv6_enabled(host), ipv6_enabled(neighbour):
        # Without a preferred lifetime, the address is used only on request.
        neighbour.run(f"ip address replace {STRANGER6}/64 dev eth0 nodad preferred_lft 0", check=True)
        yield


def listening(host: Host, *ports: int) -> set[str]:
    """Return the kernel's sockets that listen on one of these ports."""
    lines = host.run("ss -Hltn", check=True).stdout.splitlines()
    sockets = {line.split()[3].replace("[", "").replace("]", "") for line in lines}
    return {socket for socket in sockets if int(socket.rpartition(":")[2]) in ports}


LOOPBACK, LOOPBACK6, OUTSIDE, OUTSIDE6 = "127.0.0.1", "::1", "OUTSIDE", "OUTSIDE6"
ALL, ALL6 = "0.0.0.0", "::"


@pytest.mark.parametrize(
    ("published", "reached"),
    [
        (((LOOPBACK, OUTSIDE, LOOPBACK6, OUTSIDE6), 6380), {LOOPBACK, OUTSIDE, LOOPBACK6, OUTSIDE6}),
        (((ALL,), 6379), {LOOPBACK, OUTSIDE}),
        (((), 6379), set()),
        (((LOOPBACK,), 6379), {LOOPBACK}),
    ],
    ids=["several", "all", "none", "loopback"],
)
def test_redis_listens_exactly_on_configured_addresses(
    host: Host, neighbour: Host, deployer: Deployer, published: tuple[tuple[str, ...], int], reached: set[str]
) -> None:
    bind, port = published
    outside = {OUTSIDE: str(host.address), OUTSIDE6: address6(host)}
    inside = {LOOPBACK: LOOPBACK, LOOPBACK6: LOOPBACK6, **outside}
    settings: dict[str, Any] = {"redis_bind": [inside.get(name, name) for name in bind], "redis_port": port}
    if ALL in bind:
        settings["redis_allow_from"] = ["0.0.0.0/0", "::/0"]

    result = deployer.deploy(host, **settings)

    assert result.returncode == 0, result.stderr
    assert listening(host, 6379, 6380) == {f"{address}:{port}" for address in settings["redis_bind"]}
    for client, addresses in ((host, inside), (neighbour, outside)):
        expected = {f"{addresses[name]} {port}": "redis" if name in reached else "closed" for name in addresses}
        assert answers(client, *expected) == expected
    # Containers on its network always reach it.
    assert Instance(host, deployer.secrets(host)).call("PING") == ["PONG"]


# -- Allowed networks


@pytest.fixture(scope="module")
def filtered(host: Host, neighbour: Host, deployer: Deployer) -> Iterator[dict[str, Any]]:
    """Deploy settings that allow only the neighbour from outside."""
    allowed = [f"{neighbour.address}/32", "192.0.2.0/24", address6(neighbour)]
    settings: dict[str, Any] = {"redis_bind": [ALL, ALL6], "redis_allow_from": allowed}
    result = deployer.deploy(host, **settings)
    assert result.returncode == 0, result.stderr
    yield settings
    assert deployer.deploy(host).returncode == 0


def assert_only_neighbour_connects(host: Host, neighbour: Host) -> None:
    address = str(host.address)
    expected = {
        f"{address} 6379": "redis",
        f"{address6(host)} 6379": "redis",
        f"{address6(host)} 6379 {STRANGER6}": "closed",
        f"{address6(host)} 22 {STRANGER6}": "other",
    }
    assert answers(neighbour, *expected) == expected
    # This machine is on the same network, but not allowed.
    assert not listens(address, 6379, timeout=1)
    assert listens(address, 22)
    # Clients on the host itself are always allowed.
    local_clients = {f"{local} 6379": "redis" for local in (LOOPBACK, LOOPBACK6, address, address6(host))}
    assert answers(host, *local_clients) == local_clients


def test_only_allowed_networks_connect(host: Host, neighbour: Host, filtered: dict[str, Any]) -> None:
    assert filtered
    assert_only_neighbour_connects(host, neighbour)


def test_containers_on_its_network_always_connect(host: Host, deployer: Deployer, filtered: dict[str, Any]) -> None:
    assert filtered
    backend = Instance(host, deployer.secrets(host)).inspect()["NetworkSettings"]["Networks"]["redis_backend"]
    answer = host.run(
        f"docker run --rm --network redis_backend --entrypoint redis-cli {images.redis_reference()} "
        f"-h {backend['IPAddress']} PING"
    )
    assert "NOAUTH" in answer.stdout


WRITE, LOAD = "Network | Write the network filter", "Network | Load the network filter"
# Manual changes of the network filter that the watch does not see, and the operations that repair them.
HARMS = (
    (
        f"systemctl stop {WATCH} && nft flush chain inet redoubt_redis outside && "
        "systemctl disable redis-network.service redis-network-watch.service",
        [LOAD],
    ),
    (f"systemctl disable --now {WATCH} && nft delete table inet redoubt_redis", [LOAD]),
    ("systemctl stop redis-network.service; echo >/srv/redis/network.nft", [WRITE, LOAD]),
)


def test_deploy_repairs_manual_changes_of_the_network_filter(
    host: Host, neighbour: Host, deployer: Deployer, filtered: dict[str, Any]
) -> None:
    """Each deploy changes only what repairs its harm.

    So the deploy before has left nothing to do.
    """
    for harm, changes in HARMS:
        host.run(harm, check=True)
        result = deployer.deploy(host, **filtered)
        assert (result.returncode, result.changed) == (0, changes), result.stderr
        assert_only_neighbour_connects(host, neighbour)
    assert_no_change(deployer, host, **filtered)


def test_boot_loads_the_network_filter_before_docker(
    host: Host, neighbour: Host, deployer: Deployer, filtered: dict[str, Any]
) -> None:
    assert filtered
    host.restart()
    give_ipv6(host)
    Instance(host, deployer.secrets(host)).wait_until_healthy()
    assert_only_neighbour_connects(host, neighbour)
    started = {
        unit: int(host.run(f"systemctl show --property ActiveEnterTimestampMonotonic --value {unit}").stdout)
        for unit in ("redis-network.service", "docker.service")
    }
    assert started["redis-network.service"] < started["docker.service"]


def test_allowed_networks_change_without_a_restart(
    host: Host, neighbour: Host, deployer: Deployer, filtered: dict[str, Any]
) -> None:
    """Networks of one address family allow no client of the other.

    The table is replaced in one step.
    """
    redis = Instance(host, deployer.secrets(host))
    before = redis.identity
    v4, v6 = f"{host.address} 6379", f"{address6(host)} 6379"
    past = f"{redis.inspect()['NetworkSettings']['Networks']['redis_edge']['IPAddress']} 6379"
    cases = [
        (["192.0.2.0/24"], {v4: "closed", v6: "closed", past: "closed"}),
        ([f"{STRANGER6}/128"], {v4: "closed", v6: "closed", f"{v6} {STRANGER6}": "redis"}),
        (["0.0.0.0/0"], {v4: "redis", v6: "closed", past: "closed"}),
    ]
    with route(neighbour, past.split(maxsplit=1)[0], host), record_nft_changes(host) as changes:
        for allowed, expected in cases:
            assert deployer.deploy(host, **{**filtered, "redis_allow_from": allowed}).returncode == 0
            assert answers(neighbour, *expected) == expected
    with route(neighbour, past.split(maxsplit=1)[0], host), unfiltered(host):
        assert answers(neighbour, past) == {past: "redis"}
    assert listens(str(host.address), 6379)
    assert redis.identity == before
    # Each transaction replaces the whole table.
    steps = [[line.split(maxsplit=1)[0] for line in step if " table inet redoubt_redis" in line] for step in changes]
    assert [step for step in steps if step] == [["delete", "add"]] * len(cases)


@contextmanager
def route(client: Host, address: str, via: Host) -> Iterator[None]:
    """Give a host a route to an address behind another one."""
    client.run(f"ip route replace {address}/32 via {via.address}", check=True)
    try:
        yield
    finally:
        client.run(f"ip route delete {address}/32", check=True)


@contextmanager
def record_nft_changes(host: Host) -> Iterator[list[list[str]]]:
    """Record the transactions of nftables. The list is filled at the end."""
    steps: list[list[str]] = []
    path = "/run/lifecycle-changes"
    run = "systemd-run --quiet --service-type=exec --unit=lifecycle-changes"
    host.run(f"{run} --property=StandardOutput=file:{path} nft monitor", check=True)
    try:
        yield steps
    finally:
        text = host.run(f"systemctl stop lifecycle-changes && cat {path} && rm {path}", check=True).stdout
    steps += [step.splitlines() for step in text.split("# new generation")]


def test_network_filter_covers_a_single_ipv6_address(
    host: Host, neighbour: Host, deployer: Deployer, filtered: dict[str, Any]
) -> None:
    published = {**filtered, "redis_bind": [address6(host)]}
    assert deployer.deploy(host, **published).returncode == 0
    v4, v6 = f"{host.address} 6379", f"{address6(host)} 6379"
    expected = {v4: "closed", v6: "redis", f"{v6} {STRANGER6}": "closed"}
    assert answers(neighbour, *expected) == expected
    assert answers(host, v6) == {v6: "redis"}
    with unfiltered(host):
        # Until the watch has put the table back, this address is open to all sources, and no other address is open.
        assert answers(neighbour, *expected) == {**expected, f"{v6} {STRANGER6}": "redis"}


def test_sources_are_not_filtered_without_networks(
    host: Host, neighbour: Host, deployer: Deployer, filtered: dict[str, Any]
) -> None:
    """Everyone reaches the addresses of redis_bind, and no other one.

    The rest of the table stays.
    """
    assert filtered
    address: dict[str, Any] = {"redis_bind": [str(host.address)]}
    assert deployer.deploy(host, **address).returncode == 0
    assert listens(str(host.address), 6379)
    table = host.run("nft list table inet redoubt_redis", check=True).stdout
    assert "saddr" not in table
    assert "chain entering" in table
    # Nor is another address open after a flush, until the watch has put the table back. Docker's rules stay away.
    bridge = host.run("ip -4 -o address show docker0", check=True).stdout.split()[3].partition("/")[0]
    expected = {f"{host.address} 6379": "redis", f"{bridge} 6379": "closed"}
    with route(neighbour, bridge, host), unfiltered(host):
        assert answers(neighbour, *expected) == expected
        with docker_rules_removed(host, "iptables --table nat --flush DOCKER"):
            assert answers(neighbour, *expected) == expected


def test_publishing_to_everyone_needs_confirmation(deployed: Host, deployer: Deployer) -> None:
    result = deployer.deploy(deployed, redis_bind=[ALL])
    assert result.returncode == 1
    assert "redis_bind: 0.0.0.0 publishes Redis on every address of the host, past ufw" in result.stderr


def test_long_backlog_takes_effect(deployed: Host, deployer: Deployer) -> None:
    """A backlog above the default of net.core.somaxconn takes effect.

    The kernel silently limits a backlog to this value, which is lower in a new network namespace.
    """
    result = deployer.deploy(deployed, redis_tcp_backlog=8192)
    assert result.returncode == 0, result.stderr
    pid = Instance(deployed, deployer.secrets(deployed)).inspect()["State"]["Pid"]
    listeners = deployed.run(f"nsenter --target {pid} --net ss -Hltn sport = :6379", check=True).stdout.splitlines()
    assert {line.split()[2] for line in listeners} == {"8192"}


def test_unknown_address_is_refused_and_redis_keeps_running(deployed: Host, deployer: Deployer) -> None:
    redis = Instance(deployed, deployer.secrets(deployed))
    before = redis.identity
    result = deployer.deploy(deployed, redis_bind=["127.0.0.1", "192.0.2.7"])
    assert result.returncode == 1
    assert "redis_bind: 192.0.2.7 is not an address of this host" in result.stderr
    assert redis.identity == before
