"""Redis is reached exactly where the settings say: at those addresses and that port, from those places."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox import images
from sandbox.hosts import Host
from tests.host.target import listens
from tests.lifecycle.conftest import Deployer
from tests.lifecycle.instance import Instance, wait_until

# Asks for a login over a plain connection: "-NOAUTH" is Redis's own voice, and not that of a forgotten proxy.
KNOCK = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3) as connection:
        connection.settimeout(3)
        connection.sendall(b"PING\\r\\n")
        print("redis" if connection.recv(64).startswith(b"-NOAUTH") else "other")
except OSError:
    print("closed")
"""


def answers(at: Host, address: str, port: int) -> str:
    """Who answers at an address as a host reaches it."""
    return at.run(f"python3 - {address} {port}", input=KNOCK, check=True).stdout.strip()


@pytest.fixture(scope="module", autouse=True)
def ipv6(host: Host) -> Iterator[None]:
    """The loopback's IPv6 address, which the engine takes away from a host that is a container."""
    host.run("sysctl -w net.ipv6.conf.lo.disable_ipv6=0", check=True)
    yield
    host.run("sysctl -w net.ipv6.conf.lo.disable_ipv6=1", check=True)


@pytest.fixture(scope="module")
def neighbour(start_host: Callable[..., Host]) -> Host:
    """Another host on the same network."""
    return start_host("lifecycle-bare", image="bare")


def listening(host: Host, *ports: int) -> set[str]:
    """Where something listens on one of these ports, by the kernel's word."""
    lines = host.run("ss -Hltn", check=True).stdout.splitlines()
    sockets = {line.split()[3].replace("[", "").replace("]", "") for line in lines}
    return {socket for socket in sockets if int(socket.rpartition(":")[2]) in ports}


LOOPBACK, LOOPBACK6, OUTSIDE, ALL = "127.0.0.1", "::1", "OUTSIDE", "0.0.0.0"


@pytest.mark.parametrize(
    ("published", "reached"),
    [
        (((LOOPBACK, OUTSIDE, LOOPBACK6), 6380), {LOOPBACK, OUTSIDE, LOOPBACK6}),
        (((ALL,), 6379), {LOOPBACK, OUTSIDE}),
        (((), 6379), set()),
        (((LOOPBACK,), 6379), {LOOPBACK}),
    ],
    ids=["several", "all", "none", "loopback"],
)
def test_redis_is_reached_exactly_at_the_addresses_of_the_settings(
    host: Host, neighbour: Host, deployer: Deployer, published: tuple[tuple[str, ...], int], reached: set[str]
) -> None:
    bind, port = published
    place = {LOOPBACK: LOOPBACK, LOOPBACK6: LOOPBACK6, OUTSIDE: str(host.address), ALL: ALL}
    settings: dict[str, Any] = {"redis_bind": [place[name] for name in bind], "redis_port": port}
    if ALL in bind:
        settings["redis_allow_from"] = ["0.0.0.0/0", "::/0"]

    result = deployer.deploy(host, **settings)

    assert result.returncode == 0, result.stderr
    assert listening(host, 6379, 6380) == {f"{place[name]}:{port}" for name in bind}
    for name in (LOOPBACK, LOOPBACK6, OUTSIDE):
        assert (name, answers(host, place[name], port)) == (name, "redis" if name in reached else "closed")
    assert answers(neighbour, place[OUTSIDE], port) == ("redis" if OUTSIDE in reached else "closed")
    # Containers on its network reach it in any case.
    assert Instance(host, deployer.secrets(host)).call("PING") == ["PONG"]
    again = deployer.deploy(host, **settings)
    assert (again.returncode, again.changed) == (0, []), again.stderr


# -- Networks that may come


@pytest.fixture(scope="module")
def filtered(host: Host, neighbour: Host, deployer: Deployer) -> Iterator[dict[str, Any]]:
    """Settings by which the neighbour may come, and nobody else from outside; deployed."""
    settings: dict[str, Any] = {"redis_bind": [ALL], "redis_allow_from": [f"{neighbour.address}/32", "192.0.2.0/24"]}
    result = deployer.deploy(host, **settings)
    assert result.returncode == 0, result.stderr
    yield settings
    assert deployer.deploy(host).returncode == 0


def assert_only_the_neighbour_comes(host: Host, neighbour: Host) -> None:
    address = str(host.address)
    assert answers(neighbour, address, 6379) == "redis"
    # This machine is on the same network, and not on the list.
    assert not listens(address, 6379)
    assert listens(address, 22)
    # Whoever is on the host is not from outside.
    assert answers(host, LOOPBACK, 6379) == "redis"
    assert answers(host, address, 6379) == "redis"


def test_only_the_named_networks_come_from_outside(
    host: Host, neighbour: Host, deployer: Deployer, filtered: dict[str, Any]
) -> None:
    assert_only_the_neighbour_comes(host, neighbour)
    again = deployer.deploy(host, **filtered)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_containers_on_its_network_come_in_any_case(host: Host, deployer: Deployer, filtered: dict[str, Any]) -> None:
    assert filtered
    backend = Instance(host, deployer.secrets(host)).inspect()["NetworkSettings"]["Networks"]["redis_backend"]
    said = host.run(
        f"docker run --rm --network redis_backend --entrypoint redis-cli {images.redis_reference()} "
        f"-h {backend['IPAddress']} PING"
    )
    assert "NOAUTH" in said.stdout


@pytest.mark.parametrize(
    "harm",
    [
        # What an administrator does who starts anew; the engine then makes its own rules again.
        "nft flush ruleset && systemctl restart docker",
        "nft flush chain inet redoubt_redis outside && systemctl disable redis-network.service",
        "systemctl stop redis-network.service; echo >/srv/redis/network.nft",
    ],
)
def test_what_is_undone_by_hand_is_put_back(
    host: Host, neighbour: Host, deployer: Deployer, filtered: dict[str, Any], harm: str
) -> None:
    host.run(harm, check=True)
    result = deployer.deploy(host, **filtered)
    assert result.returncode == 0, result.stderr
    assert_only_the_neighbour_comes(host, neighbour)
    again = deployer.deploy(host, **filtered)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_a_boot_brings_it_back_before_the_engine(
    host: Host, neighbour: Host, deployer: Deployer, filtered: dict[str, Any]
) -> None:
    assert filtered
    host.restart()
    wait_until(lambda: Instance(host, deployer.secrets(host)).health == "healthy", "Redis is back", 60)
    assert_only_the_neighbour_comes(host, neighbour)
    started = {
        unit: int(host.run(f"systemctl show --property ActiveEnterTimestampMonotonic --value {unit}").stdout)
        for unit in ("redis-network.service", "docker.service")
    }
    assert started["redis-network.service"] < started["docker.service"]


def test_other_networks_are_let_in_and_out_without_a_restart(
    host: Host, neighbour: Host, deployer: Deployer, filtered: dict[str, Any]
) -> None:
    redis = Instance(host, deployer.secrets(host))
    before = redis.identity
    elsewhere = {**filtered, "redis_allow_from": ["192.0.2.0/24"]}
    assert deployer.deploy(host, **elsewhere).returncode == 0
    assert answers(neighbour, str(host.address), 6379) == "closed"
    everybody = {**filtered, "redis_allow_from": ["0.0.0.0/0"]}
    assert deployer.deploy(host, **everybody).returncode == 0
    assert listens(str(host.address), 6379)
    assert redis.identity == before


def test_without_networks_nothing_of_it_is_left(host: Host, deployer: Deployer, filtered: dict[str, Any]) -> None:
    assert filtered
    address: dict[str, Any] = {"redis_bind": [str(host.address)]}
    assert deployer.deploy(host, **address).returncode == 0
    assert listens(str(host.address), 6379)
    left = host.run("nft list tables; ls /etc/systemd/system/*redis* /srv/redis/*.nft; systemctl list-units '*redis*'")
    assert "redoubt_redis" not in left.stdout
    assert "redis-network" not in left.stdout
    again = deployer.deploy(host, **address)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_redis_for_everybody_is_refused_unless_it_is_meant(deployed: Host, deployer: Deployer) -> None:
    result = deployer.deploy(deployed, redis_bind=[ALL])
    assert result.returncode == 1
    assert "redis_bind: 0.0.0.0 publishes Redis on every address of the host, past ufw" in result.stderr


def test_a_long_backlog_is_really_given(deployed: Host, deployer: Deployer) -> None:
    """Above the ceiling that a new network starts with, the kernel would cut it without a word."""
    result = deployer.deploy(deployed, redis_tcp_backlog=8192)
    assert result.returncode == 0, result.stderr
    pid = Instance(deployed, deployer.secrets(deployed)).inspect()["State"]["Pid"]
    listeners = deployed.run(f"nsenter --target {pid} --net ss -Hltn sport = :6379", check=True).stdout.splitlines()
    assert {line.split()[2] for line in listeners} == {"8192"}
    again = deployer.deploy(deployed, redis_tcp_backlog=8192)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_an_address_that_the_host_does_not_have_is_refused_before_redis_is_stopped(
    deployed: Host, deployer: Deployer
) -> None:
    redis = Instance(deployed, deployer.secrets(deployed))
    before = redis.identity
    result = deployer.deploy(deployed, redis_bind=["127.0.0.1", "192.0.2.7"])
    assert result.returncode == 1
    assert "redis_bind: 192.0.2.7 is no address of this host" in result.stderr
    assert redis.identity == before
