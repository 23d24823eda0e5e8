"""Redis is reached exactly where the settings say: at those addresses and that port, from those places."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer
from tests.lifecycle.instance import Instance

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
