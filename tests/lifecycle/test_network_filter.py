"""Network filter: what reaches the containers, and what they reach.

A neighbour has routes to the networks of Redis's container, as a host on the same network may add for itself. Every
attack is repeated without the filter, where it must work: otherwise it proves nothing.
"""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sandbox import images
from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.deployer import Deployer
from tests.lifecycle.network_filter import FRAMES, WATCH, counting, inside, unfiltered
from tests.lifecycle.port_probe import answers

pytestmark = pytest.mark.security("network")


@pytest.fixture(scope="module")
def instance(host: Host, deployer: Deployer) -> Instance:
    """The default instance: published on 127.0.0.1."""
    return deployer.instance(host)


@pytest.fixture(scope="module")
def addresses(instance: Instance) -> list[str]:
    """The container's addresses, on the edge and on the backend network."""
    networks = instance.inspect()["NetworkSettings"]["Networks"]
    return [networks[f"redis_{part}"]["IPAddress"] for part in ("edge", "backend")]


@pytest.fixture(scope="module")
def neighbour(start_host: Callable[..., Host], host: Host, addresses: list[str]) -> Iterator[Host]:
    """Another host on the same network, with routes to the container's addresses."""
    other = start_host("lifecycle-bare", image="bare")
    try:
        for address in addresses:
            other.run(f"ip route replace {address}/32 via {host.address}", check=True)
        yield other
    finally:
        # Other modules deploy to this host, which the routes would prevent.
        other.run("; ".join(f"ip route delete {address}/32" for address in addresses))


def test_neighbour_with_a_route_reaches_no_container(host: Host, neighbour: Host, addresses: list[str]) -> None:
    """Only what Docker has translated for a published port reaches the container."""
    edge, backend = (f"{address} 6379" for address in addresses)
    with unfiltered(host):
        assert answers(neighbour, edge)[edge] == "redis"
    assert answers(neighbour, edge, backend) == {edge: "closed", backend: "closed"}


@contextmanager
def published_everywhere(host: Host, container: str) -> Iterator[None]:
    """Translate the port at every address of the host.

    Docker does that for a container that is published on 0.0.0.0.
    """
    rule = f"DOCKER ! -i redis-edge -p tcp --dport 6379 -j DNAT --to-destination {container}:6379"
    host.run(f"iptables --wait -t nat -A {rule}", check=True)
    try:
        yield
    finally:
        host.run(f"iptables --wait -t nat -D {rule}", check=True)


def test_wider_publication_opens_nothing(host: Host, neighbour: Host, addresses: list[str]) -> None:
    """The table accepts only connections to an address of redis_bind, here 127.0.0.1."""
    published = f"{host.address} 6379"
    with published_everywhere(host, addresses[0]):
        assert answers(neighbour, published) == {published: "closed"}
        with unfiltered(host):
            assert answers(neighbour, published) == {published: "redis"}


# Opens connections from Redis's network namespace: TCP, a query of a name server, and an echo request.
KNOCK = """
import socket, struct, sys
def icmp(address):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        header = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
        total = sum(struct.unpack("!4H", header))
        raw.sendto(struct.pack("!BBHHH", 8, 0, ~total & 0xFFFF, 1, 1), (address, 0))
        raw.settimeout(1)
        return raw.recv(99)
def udp(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"query", (address, 53))
def tcp(address):
    socket.create_connection((address, 22), timeout=1).close()
for address in sys.argv[1:]:
    for knock in (tcp, udp, icmp):
        try:
            knock(address)
            print(knock.__name__, address)
        except OSError:
            pass
"""

COUNTERS = """
  chain out { type filter hook postrouting priority 300; ip saddr SOURCES oifname eth0 meta l4proto PROTOCOLS counter; }
  chain in { type filter hook input priority 300; ip saddr SOURCES ct state new counter; }
"""


def knock_from_redis(instance: Instance, *targets: str) -> tuple[set[str], dict[str, int]]:
    """Knock from Redis's network namespace.

    Returns what answered, and how many packets passed by chain: out to other hosts, and in to the host's programs.
    """
    host = instance.host
    sources = [network["IPAddress"] for network in instance.inspect()["NetworkSettings"]["Networks"].values()]
    chains = COUNTERS.replace("SOURCES", f"{{ {', '.join(sources)} }}").replace("PROTOCOLS", "{ tcp, udp, icmp }")
    with counting(host, chains) as count:
        command = f"{inside(instance)} python3 - {shlex.join(targets)}"
        answered = host.run(command, input=KNOCK, check=True).stdout.splitlines()
        return {line for line in answered if not line.startswith("udp")}, count()


def test_redis_opens_no_connections(instance: Instance, neighbour: Host) -> None:
    """TCP, UDP and ICMP leave the container neither to another host nor to this one."""
    outside, itself = str(neighbour.address), str(instance.host.address)
    with unfiltered(instance.host):
        answered, counted = knock_from_redis(instance, outside, itself)
        assert {f"tcp {itself}", f"icmp {itself}"} <= answered
        assert counted["out"] >= 3
        assert counted["in"] >= 3
    assert knock_from_redis(instance, outside, itself) == (set(), {"out": 0, "in": 0})


# -- Clients on the host

# Holds a connection to the published port and prints which of its sockets docker-proxy holds.
HOLD = """
import socket, subprocess
with socket.create_connection(("127.0.0.1", 6379), timeout=2) as client:
    client.sendall(b"PING\\r\\n")
    print(client.recv(64).split()[0].decode())
    sockets = subprocess.run(["ss", "-Htnp"], capture_output=True, text=True).stdout.splitlines()
    print(len([line for line in sockets if "docker-proxy" in line and f":{client.getsockname()[1]} " in line]))
"""


def hold(host: Host) -> list[str]:
    """Return Redis's answer at 127.0.0.1, and the number of docker-proxy's sockets."""
    return host.run("python3 -", input=HOLD, check=True).stdout.split()


def test_clients_on_loopback_bypass_docker_proxy(instance: Instance) -> None:
    """Without the table they reach Redis through docker-proxy."""
    host = instance.host
    assert hold(host) == ["-NOAUTH", "0"]
    with unfiltered(host):
        assert hold(host) == ["-NOAUTH", "1"]
    assert hold(host) == ["-NOAUTH", "0"]


def test_recreated_network_translates_loopback(instance: Instance, deployer: Deployer) -> None:
    """The deploy has the new bridge route loopback addresses."""
    host = instance.host
    host.run(f"docker compose --project-directory /srv/redis down && systemctl stop {WATCH}", check=True)
    assert deployer.deploy(host).returncode == 0
    assert hold(host) == ["-NOAUTH", "0"]


LOOPBACK_COUNTERS = """
  chain arrived { type filter hook prerouting priority -310; iifname redis-edge ip daddr 127.0.0.1 counter; }
  chain in { type filter hook input priority 300; iifname redis-edge ip daddr 127.0.0.1 counter; }
"""


def test_only_the_host_sends_to_loopback(instance: Instance) -> None:
    """The table drops packets to loopback addresses from a container.

    The edge bridge alone routes such addresses.
    """
    host = instance.host
    settings = host.run("grep -l 1 /proc/sys/net/ipv4/conf/*/route_localnet", check=True).stdout.split()
    assert settings == ["/proc/sys/net/ipv4/conf/redis-edge/route_localnet"]
    mac = host.run("cat /sys/class/net/redis-edge/address", check=True).stdout.strip()
    edge = instance.inspect()["NetworkSettings"]["Networks"]["redis_edge"]
    device = host.run(f"{inside(instance)} ip -o -4 address show to {edge['IPAddress']}", check=True).stdout.split()[1]

    def send() -> dict[str, int]:
        with counting(host, LOOPBACK_COUNTERS) as count:
            command = f"{inside(instance)} python3 - {device} {mac} 127.0.0.1 {edge['IPAddress']}"
            host.run(command, input=f"{FRAMES}for _ in range(3):\n    send(source, SYN)\n", check=True)
            return count()

    with unfiltered(host):
        assert send() == {"arrived": 3, "in": 3}
    assert send() == {"arrived": 3, "in": 0}


# -- Names

# A name server that knows no name and writes down who asked for what.
NAME_SERVER = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.99", 53))
    while True:
        query, client = server.recvfrom(512)
        labels, position = [], 12
        while query[position]:
            labels.append(query[position + 1 : position + 1 + query[position]].decode())
            position += query[position] + 1
        print(".".join(labels), flush=True)
        server.sendto(query[:2] + b"\\x81\\x83" + query[4:6] + bytes(6) + query[12 : position + 5], client)
"""

# Asks Docker's resolver in the container directly, over UDP and TCP, for a name and for the name of an address.
ASK = """
import socket, struct
def query(name, kind):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\\0" + struct.pack("!2H", kind, 1)
for name, kind in (("straight.example.com", 1), ("straight.example.net", 28), ("7.2.0.192.in-addr.arpa", 12)):
    message = query(name, kind)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        client.sendto(message, ("127.0.0.11", 53))
        try:
            print("udp", client.recv(512)[3] & 15)
        except OSError as error:
            print("udp", error)
    with socket.create_connection(("127.0.0.11", 53), timeout=3) as client:
        client.sendall(struct.pack("!H", len(message)) + message)
        try:
            print("tcp", client.recv(512)[5] & 15)
        except (OSError, IndexError) as error:
            print("tcp", error)
"""


@pytest.fixture
def asked(instance: Instance) -> Iterator[Callable[[], list[str]]]:
    """Run a name server on the host that all containers inherit.

    Yields a function that returns the names that it was asked for.
    """
    host, log = instance.host, "/run/lifecycle-names"
    before = host.run("cat /etc/resolv.conf", check=True).stdout
    host.run("cat >/run/lifecycle-names.py", input=NAME_SERVER, check=True)
    options = f"--quiet --unit=lifecycle-names --property=StandardOutput=file:{log}"
    try:
        host.run(f"systemd-run {options} python3 /run/lifecycle-names.py", check=True)
        host.run("cat >/etc/resolv.conf", input="nameserver 127.0.0.99\n", check=True)
        # A container gets the name servers that the host has when it starts.
        host.run("docker restart redis", check=True)
        instance.wait_until_healthy()

        def names() -> list[str]:
            return host.run(f"cat {log}", check=True).stdout.split()

        yield names
    finally:
        host.run("cat >/etc/resolv.conf", input=before, check=True)
        host.run(
            f"systemctl stop lifecycle-names; rm -f {log} /run/lifecycle-names.py; docker restart redis", check=True
        )
        instance.wait_until_healthy()


def test_redis_resolves_no_outside_names(instance: Instance, neighbour: Host, asked: Callable[[], list[str]]) -> None:
    """No query of Redis's container leaves it.

    Containers of applications resolve outside names and the name of the instance, and reach other hosts.
    """
    host = instance.host
    host.run("docker exec redis getent hosts resolver.example.com")
    answered = host.run(f"{inside(instance)} python3 -", input=ASK, check=True).stdout.splitlines()
    assert len(answered) == 6
    own = host.run("docker exec redis getent hosts redis", check=True).stdout
    assert own.split()[1:] == ["redis"]
    assert asked() == []

    ssh = f"exec 3<>/dev/tcp/{neighbour.address}/22; head -c 3 <&3"
    script = f"getent hosts application.example.com; redis-cli -h redis PING; {ssh}"
    create = f"docker create --name lifecycle-app --entrypoint bash {images.redis_reference()} -c {shlex.quote(script)}"
    application = host.run(
        f"docker network create lifecycle-apps >/dev/null && {create} >/dev/null && "
        "docker network connect lifecycle-apps lifecycle-app && docker network connect redis_backend lifecycle-app && "
        "docker network disconnect bridge lifecycle-app && docker start --attach lifecycle-app; "
        "docker rm --force lifecycle-app >/dev/null; docker network rm lifecycle-apps >/dev/null"
    )
    assert "NOAUTH" in application.stdout, application.stderr
    assert application.stdout.endswith("SSH"), (application.stdout, application.stderr)
    assert "application.example.com" in asked()
