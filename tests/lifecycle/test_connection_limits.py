"""Connections: one address cannot take all of them.

All addresses together leave a reserve.
"""

import ipaddress
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from sandbox import images
from sandbox.hosts import Host
from tests.deployed_redis import Instance, redisctl, wait_until
from tests.deployer import Deployer
from tests.lifecycle.network_filter import FRAMES, health, inside, is_limited, unlimited
from tests.lifecycle.test_network import address6, give_ipv6, ipv6_enabled

pytestmark = pytest.mark.security("network")

# Redis itself accepts 32 more.
MAXCLIENTS = 100
# Connections that each attacker opens.
ATTACK = 120
# On a busy machine the kernel forgets to count a connection now and then, far fewer than the reserve.
UNCOUNTED = 5

# Opens connections, prints how many Redis answers, and holds them until its standard input ends.
CONNECT = """
import socket, sys
address, number = sys.argv[1], int(sys.argv[2])
held = []
for _ in range(number):
    try:
        connection = socket.create_connection((address, 6379), timeout=5)
        connection.sendall(b"PING\\r\\n")
        if connection.recv(64).startswith(b"-NOAUTH"):
            held.append(connection)
    except OSError:
        pass
print(len(held), flush=True)
sys.stdin.read()
"""
# A container on the network of applications.
APPLICATION = "lifecycle-application"
PROGRAM = "/run/lifecycle-connect.py"


@dataclass(frozen=True)
class Attacker:
    """A client without a password.

    ``within`` is a command that enters its network namespace on the host, ``address`` is that of Redis from there.
    """

    name: str
    host: Host
    address: str
    within: str = ""

    def connect(self) -> int:
        """Return how many connections Redis answers at the same time."""
        command = f"{self.within} python3 {PROGRAM} {self.address} {ATTACK} </dev/null"
        return int(self.host.run(command, check=True).stdout)

    @contextmanager
    def connected(self) -> Iterator[int]:
        """Hold the connections. Yields how many Redis answers."""
        unit, output = f"lifecycle-{self.name}", f"/run/lifecycle-{self.name}"
        run = f"systemd-run --quiet --collect --unit={unit} --property=StandardOutput=file:{output}"
        hold = f"sh -c 'sleep 300 | {self.within} python3 {PROGRAM} {self.address} {ATTACK}'"

        def printed() -> str:
            return self.host.run(f"cat {output}", check=True).stdout.strip()

        try:
            self.host.run(f": >{output}; {run} {hold}", check=True)
            wait_until(printed, f"{self.name} is connected", 60)
            yield int(printed())
        finally:
            self.host.run(f"systemctl stop {unit}; rm -f {output}")


def settings(host: Host) -> dict[str, Any]:
    """Return the settings of the instance."""
    return {"redis_bind": ["127.0.0.1", str(host.address), address6(host)], "redis_maxclients": MAXCLIENTS}


@pytest.fixture(scope="module")
def crowded(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """An instance that is open to other hosts, with few connections."""
    with ipv6_enabled(host):
        try:
            yield deployer.instance(host, **settings(host))
        finally:
            deployer.deploy(host)


@pytest.fixture(scope="module")
def attackers(crowded: Instance, start_host: Callable[..., Host]) -> Iterator[list[Attacker]]:
    """Another host, this host, a container on the same bridge.

    The last one is the other host over IPv6.
    """
    host, neighbour = crowded.host, start_host("lifecycle-bare", image="bare")
    backend = crowded.inspect()["NetworkSettings"]["Networks"]["redis_backend"]["IPAddress"]
    run = f"docker run --rm --detach --name {APPLICATION} --network redis_backend --entrypoint sleep"
    try:
        host.run(f"{run} {images.redis_reference()} 900", check=True)
        for place in (host, neighbour):
            place.run(f"cat >{PROGRAM}", input=CONNECT, check=True)
        give_ipv6(neighbour)
        yield [
            Attacker("outside", neighbour, str(host.address)),
            Attacker("host", host, "127.0.0.1"),
            Attacker("container", host, backend, inside(crowded, APPLICATION)),
            Attacker("outside6", neighbour, address6(host)),
        ]
    finally:
        host.run(f"docker rm --force {APPLICATION}; rm -f {PROGRAM}")
        neighbour.run(f"rm -f {PROGRAM}")


@contextmanager
def all_connected(attackers: list[Attacker]) -> Iterator[list[int]]:
    """Have all attackers hold their connections. Yields the number of each."""
    with ExitStack() as stack:
        yield [stack.enter_context(attacker.connected()) for attacker in attackers]


def is_limit(connections: int, limit: int) -> bool:
    """Say whether so many connections are as many as the limit allows."""
    return limit <= connections <= limit + UNCOUNTED


def test_one_address_takes_half_of_the_connections(attackers: list[Attacker]) -> None:
    """A connection that was closed counts no more."""
    for attacker in (*attackers, attackers[1]):
        assert is_limit(attacker.connect(), MAXCLIENTS // 2), attacker.name


def test_packets_from_false_addresses_do_not_count(crowded: Instance, attackers: list[Attacker]) -> None:
    """A container on the same bridge opens many connections and finishes none."""
    network = crowded.inspect()["NetworkSettings"]["Networks"]["redis_backend"]
    sources = ipaddress.ip_network(f"{network['IPAddress']}/{network['IPPrefixLen']}", strict=False)[1024]
    command = f"{attackers[2].within} python3 - eth0 {network['MacAddress']} {network['IPAddress']} {sources}"
    flood = f"for number in range({3 * MAXCLIENTS}):\n    send(ipaddress.ip_address(source) + number, SYN)\n"
    crowded.host.run(command, input=FRAMES + flood, check=True)
    for attacker in attackers:
        assert is_limit(attacker.connect(), MAXCLIENTS // 2), attacker.name


# Finishes handshakes with a FIN packet. A byte before it is missing, so Redis would not see the end.
FINISH = f"""{FRAMES}
raw.settimeout(3)
for port in range(30000, 30005):
    send(source, SYN, port=port)
    answer = b""
    while answer[34:38] != struct.pack("!HH", 6379, port):
        answer = raw.recv(2000)
    send(source, FIN | ACK, 3, struct.unpack("!I", answer[38:42])[0] + 1, port)
"""


def test_handshake_with_fin_opens_no_connection(crowded: Instance, attackers: list[Attacker]) -> None:
    """The kernel would not count it as a new one."""
    host, within = crowded.host, attackers[2].within
    network = crowded.inspect()["NetworkSettings"]["Networks"]["redis_backend"]
    address = crowded.inspect(APPLICATION)["NetworkSettings"]["Networks"]["redis_backend"]["IPAddress"]
    table = "table ip lifecycle { chain out { type filter hook output priority 0; tcp flags rst drop; }; }"
    host.run(f"{within} nft -f -", input=table, check=True)
    try:
        command = f"{within} python3 - eth0 {network['MacAddress']} {network['IPAddress']} {address}"
        host.run(command, input=FINISH, check=True)
        command = f"{inside(crowded)} ss -Htn state established dst {address}"
        assert host.run(command, check=True).stdout == ""
    finally:
        host.run(f"{within} nft delete table ip lifecycle", check=True)


# Opens connections as above, but from ports whose connections it has just reset.
RECONNECT = """
import socket, struct, sys
address, number = sys.argv[1], int(sys.argv[2])
def connect(port):
    connection = socket.socket()
    connection.settimeout(5)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.bind(("", port))
    connection.connect((address, 6379))
    connection.sendall(b"PING\\r\\n")
    if not connection.recv(64).startswith(b"-NOAUTH"):
        raise OSError
    return connection
held = []
for port in range(20000, 20000 + number):
    try:
        connect(port).close()
        held.append(connect(port))
    except OSError:
        pass
print(len(held))
"""


def test_new_connection_from_a_used_port_counts(crowded: Instance, attackers: list[Attacker]) -> None:
    """The kernel does not take it for the closed one, but may count both for a while."""
    container = attackers[2]
    command = f"{container.within} python3 - {container.address} {ATTACK}"
    assert 0 < int(crowded.host.run(command, input=RECONNECT, check=True).stdout) <= MAXCLIENTS // 2 + UNCOUNTED


def test_clients_over_ipv6_leave_the_share_of_local_ones(attackers: list[Attacker]) -> None:
    """docker-proxy connects for all clients over IPv6."""
    local, outside6 = attackers[1], attackers[3]
    with outside6.connected() as held:
        assert is_limit(held, MAXCLIENTS // 2)
        assert is_limit(local.connect(), MAXCLIENTS // 2)


def test_connections_without_a_password_leave_the_reserve(crowded: Instance, attackers: list[Attacker]) -> None:
    """120 connections from each place do not shut out health, admin and the backup.

    Without the table they do.
    """
    host = crowded.host
    check = "docker exec redis sh /etc/redis/healthcheck.sh"
    with unlimited(crowded), all_connected(attackers) as held:
        assert sum(held) > MAXCLIENTS + 20, held
        assert host.run(check).returncode != 0
        assert health(host)["ping"][0] == "critical"
        assert host.run("redisctl backup").returncode != 0
    with all_connected(attackers) as held:
        assert is_limit(sum(held), MAXCLIENTS), held
        assert is_limit(max(held), MAXCLIENTS // 2), held
        verdict, observed = health(host)["refused packets"]
        assert (verdict, "above redis_maxclients, since" in observed) == ("warning", True), observed
        assert health(host)["connection limits"] == ("ok", "loaded")
        began = time.monotonic()
        assert host.run(check).returncode == 0
        assert health(host)["ping"][0] == "ok"
        assert crowded.call("SET app:session:crowd 1 EX 60") == ["OK"]
        assert redisctl(crowded, "backup")["verified"]["verdict"] == "ok"
        assert time.monotonic() - began < 60


def test_changed_limit_applies_without_a_restart(
    crowded: Instance, attackers: list[Attacker], deployer: Deployer
) -> None:
    """The watch keeps the changed table as well."""
    host, before = crowded.host, crowded.identity
    changed = deployer.deploy(host, **settings(host), redis_maxclients_per_source=70)
    assert changed.returncode == 0, changed.stderr
    assert crowded.identity == before
    for _ in range(2):
        assert is_limited(crowded)
        assert all(is_limit(attacker.connect(), 70) for attacker in attackers)
        host.run("systemctl start redis-network-watch.service", check=True)
