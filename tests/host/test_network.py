"""Network: Redis is reachable only where the settings say.

It opens no connections to the outside.
"""

import ipaddress
import json
import shlex
import socket
from typing import Any

import pytest
from testinfra.host import Host

from redoubt import network_filter
from redoubt.settings.model import Settings
from tests.host.host_under_test import Target, listens, quoted

pytestmark = pytest.mark.security("network")


@pytest.fixture(scope="module")
def addresses(host: Host) -> list[str]:
    """Return the host's addresses, including loopback."""
    interfaces = json.loads(host.check_output("ip -json address show"))
    return [
        address["local"]
        for interface in interfaces
        for address in interface["addr_info"]
        # A link-local address is only valid together with its interface.
        if address["scope"] != "link"
    ]


@pytest.fixture(scope="module")
def networks(host: Host, settings: Settings) -> dict[str, dict[str, Any]]:
    """Return Redis's networks, as Docker inspects them."""
    names = quoted(f"{settings.redis_name}_backend", f"{settings.redis_name}_edge")
    return {network["Name"]: network for network in json.loads(host.check_output(f"docker network inspect {names}"))}


# -- Incoming


def test_port_listens_only_where_the_settings_say(host: Host, settings: Settings) -> None:
    """No address is missing and no further address listens."""
    ports = {str(port.published) for port in settings.ports}
    sockets = [socket.removeprefix("tcp://").rpartition(":") for socket in host.socket.get_listening_sockets()]
    listening = {(address, port) for address, _, port in sockets if port in ports}
    assert listening == {(address, port) for address in settings.redis_bind for port in ports}


def test_container_publishes_nothing_else(settings: Settings, container: dict[str, Any]) -> None:
    """There is no second port, and none that Docker chose."""
    published = {
        (port, binding["HostIp"], binding["HostPort"])
        for port, bindings in container["NetworkSettings"]["Ports"].items()
        for binding in bindings or ()
    }
    assert published == {
        (f"{port.inside}/tcp", address, str(port.published))
        for port in settings.ports
        for address in settings.redis_bind
    }


def test_only_configured_addresses_accept_connections(host: Host, settings: Settings, addresses: list[str]) -> None:
    """Redis's ports accept connections only at the configured addresses.

    The test tries every address of the host: Docker's rules may redirect a port on which nothing listens.
    """
    endpoints = [f"{address}/{port.published}" for address in addresses for port in settings.ports]
    script = 'for a in "$@"; do timeout 2 bash -c "</dev/tcp/$a" && echo "$a"; done 2>/dev/null'
    accepted = set(host.run(f"bash -c {quoted(script)} - {quoted(*endpoints)}").stdout.split())
    expected = {
        address for address in addresses if address in settings.redis_bind or _is_covered(address, settings.redis_bind)
    }
    assert accepted == {f"{address}/{port.published}" for address in expected for port in settings.ports}


def _is_covered(address: str, bind: tuple[str, ...]) -> bool:
    """Return whether 0.0.0.0 or :: is published and includes this address."""
    return ("::" if ":" in address else "0.0.0.0") in bind


@pytest.mark.outside
def test_redis_is_reachable_from_outside_only_if_set(target: Target, settings: Settings) -> None:
    """This machine reaches Redis without SSH only if the settings publish it.

    The test connects to the host's address.
    """
    assert target.outside is not None
    address = _resolved(target.outside)
    is_published = address in settings.redis_bind or _is_covered(address, settings.redis_bind)
    is_allowed = not settings.redis_allow_from or _is_in(_source_address(address), settings.redis_allow_from)
    assert (is_published and is_allowed) or not any(listens(address, port.published) for port in settings.ports)


def _source_address(destination: str) -> str:
    """Return the address with which this machine connects to another."""
    with socket.socket(socket.AF_INET6 if ":" in destination else socket.AF_INET, socket.SOCK_DGRAM) as unconnected:
        # This sends nothing.
        unconnected.connect((destination, 9))
        return str(unconnected.getsockname()[0])


def _is_in(address: str, networks: tuple[str, ...]) -> bool:
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in networks)


@pytest.fixture(scope="module")
def chains(host: Host, settings: Settings) -> dict[str, tuple[dict[str, Any], list[list[dict[str, Any]]]]]:
    """Return the chains of the kernel's table by name, each with its rules."""
    table = f"redoubt_{settings.redis_name.replace('-', '_')}"
    entries = json.loads(host.check_output(f"nft --json list table inet {table}"))["nftables"]
    rules = [entry["rule"] for entry in entries if "rule" in entry]
    return {
        chain["name"]: (chain, [rule["expr"] for rule in rules if rule["chain"] == chain["name"]])
        for chain in (entry["chain"] for entry in entries if "chain" in entry)
    }


def test_network_filter_is_loaded_at_boot_and_watched(host: Host, settings: Settings) -> None:
    """A unit loads the table at boot.

    A timer and a path unit load it again if it disappears.
    """
    name = f"{settings.redis_name}-network"
    units = f"{name}.service {name}-watch.timer {name}-watch.path"
    states = host.check_output(f"systemctl is-enabled {units}; systemctl is-active {units}").split()
    assert states == ["enabled"] * 3 + ["active"] * 3


@pytest.mark.parametrize("place", ["host", "container"])
def test_loaded_rules_are_exactly_those_of_the_settings(
    place: str, target: Target, settings: Settings, container: dict[str, Any]
) -> None:
    """No rule is missing, none was added, and they are in the right order.

    The rules are rendered on this machine. nft writes those in the kernel as it writes these, which it loads in a new
    network namespace that is gone afterwards.
    """
    rules, limits, *_ = network_filter.files(settings)
    within = "" if place == "host" else f"nsenter --target {container['State']['Pid']} --net"
    listing = f"nft --stateless --terse list table inet redoubt_{settings.redis_name.replace('-', '_')}"
    loaded = target.run(f"{within} {listing}")
    assert loaded.returncode == 0, loaded.stderr
    expected = target.run(
        f"unshare --net sh -c {quoted(f'nft -f - && {listing}')}", (rules if place == "host" else limits).content
    )
    assert expected.returncode == 0, expected.stderr
    assert loaded.stdout == expected.stdout


def test_network_filter_drops_what_is_not_allowed(chains: dict[str, Any]) -> None:
    """Packets to and from the containers pass chains that end in a drop."""
    hooks = {name: (chain.get("hook"), chain.get("policy")) for name, (chain, _) in chains.items()}
    assert hooks["outside"] == ("prerouting", "accept")
    assert hooks["forward"] == ("forward", "accept")
    assert hooks["input"] == ("input", "accept")
    for name in ("leaving", "entering"):
        assert chains[name][1][-1] == [{"drop": None}]
    jumps = [rule[-1] for name in ("forward", "input") for rule in chains[name][1]]
    assert jumps.count({"jump": {"target": "leaving"}}) == 2
    assert jumps.count({"jump": {"target": "entering"}}) == 1


def test_network_filter_admits_only_redis_allow_from(settings: Settings, chains: dict[str, Any]) -> None:
    """The kernel's table drops all other sources for these ports."""
    chain, rules = chains["outside"]
    assert chain["prio"] == -300
    # nft writes the members of a set in the order of its own.
    refusals = [rule for rule in rules if any(_field(match) == "dport" for match in rule[:-1])]
    if not (settings.redis_allow_from and settings.redis_bind):
        assert refusals == []
        return
    admitted, filtered_ports = set(), set()
    for rule in refusals:
        assert rule[-1] == {"drop": None}
        (ports,) = [_members(match["match"]["right"]) for match in rule[:-1] if _field(match) == "dport"]
        filtered_ports.update(ports)
        for sources in (match["match"]["right"] for match in rule[:-1] if _field(match) == "saddr"):
            admitted |= {_network(source) for source in _members(sources)}
    allowed = {ipaddress.ip_network(network) for network in settings.redis_allow_from}
    # 0.0.0.0/0 or ::/0 admits a whole family, which then needs no rule. Nor does a family without an address.
    unfiltered = {network.version for network in allowed if not network.prefixlen}
    bound = {4 if ":" not in address or address == "::" else 6 for address in settings.redis_bind}
    families = (bound | ({6} if "::" in settings.redis_bind else set())) - unfiltered
    listed = {network for network in allowed if network.version in families}
    v4 = ipaddress.collapse_addresses(network for network in listed if isinstance(network, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(network for network in listed if isinstance(network, ipaddress.IPv6Network))
    assert admitted == {*v4, *v6}
    assert len(refusals) == len(families)
    assert filtered_ports == ({port.published for port in settings.ports} if families else set())


def _field(expression: dict[str, Any]) -> str:
    """Return the field of a packet that an expression of a rule matches."""
    left = expression.get("match", {}).get("left", {})
    return str(left.get("payload", {}).get("field", "")) if isinstance(left, dict) else ""


def _members(sources: Any) -> list[Any]:
    """Return the members of a set; nft lists a set with one member as this member."""
    return list(sources["set"]) if isinstance(sources, dict) and "set" in sources else [sources]


def _network(source: Any) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return a source of a rule as a network.

    nft writes an address as a string and a network as an object.
    """
    if isinstance(source, str):
        return ipaddress.ip_network(source)
    return ipaddress.ip_network(f"{source['prefix']['addr']}/{source['prefix']['len']}")


def _resolved(name: str) -> str:
    return str(socket.getaddrinfo(name, None)[0][4][0])


def test_redis_is_reachable_on_the_host(target: Target) -> None:
    """Operators and applications on the host log in at the published address."""
    assert target.client("sessions").ping()


def test_redis_is_on_its_own_networks_alone(settings: Settings, container: dict[str, Any]) -> None:
    """It is not on Docker's default bridge, where any container could reach it."""
    assert set(container["NetworkSettings"]["Networks"]) == {
        f"{settings.redis_name}_backend",
        f"{settings.redis_name}_edge",
    }


def test_only_redis_is_on_the_edge_network(settings: Settings, networks: dict[str, dict[str, Any]]) -> None:
    """The edge network has no member but Redis.

    It carries the published port; applications reach Redis on the backend network.
    """
    members = {container["Name"] for container in networks[f"{settings.redis_name}_edge"]["Containers"].values()}
    assert members == {settings.redis_name}


# -- Outgoing


def test_backend_network_is_internal(settings: Settings, networks: dict[str, dict[str, Any]]) -> None:
    """Applications and Redis share a network without a way out of the host."""
    assert networks[f"{settings.redis_name}_backend"]["Internal"] is True


def test_no_rule_masquerades_redis(host: Host, container: dict[str, Any]) -> None:
    """The kernel translates no address of Redis.

    So no answer from outside can reach it.
    """
    addresses = [
        ipaddress.ip_address(network["IPAddress"]) for network in container["NetworkSettings"]["Networks"].values()
    ]
    rules = [shlex.split(rule) for rule in host.check_output("iptables -t nat -S POSTROUTING").splitlines()]
    masquerading = [rule for rule in rules if {"MASQUERADE", "SNAT"} & set(rule)]
    matching = [
        " ".join(rule)
        for rule in masquerading
        for address in addresses
        if _matches(rule, "-s", address) and not _stays_inside(rule, addresses)
    ]
    assert masquerading, "Docker has rules of its own, but none was found"
    assert matching == []


def _matches(rule: list[str], option: str, address: Any) -> bool:
    """Return whether a rule's option includes an address.

    A rule without the option includes any address.
    """
    if option not in rule:
        return True
    inside = address in ipaddress.ip_network(rule[rule.index(option) + 1])
    return inside != (rule[rule.index(option) - 1] == "!")


def _stays_inside(rule: list[str], addresses: list[Any]) -> bool:
    """Return whether a rule is for connections of the container to itself."""
    return "-d" in rule and any(rule[rule.index("-d") + 1] == f"{address}/32" for address in addresses)


# Sends a query for an address to Docker's resolver in the container, and prints the code of its answer, if one comes.
QUERY = """
import socket
name = b"".join(bytes([len(label)]) + label for label in b"redoubt-audit.invalid".split(b".")) + bytes(1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(3)
    client.sendto(bytes((0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)) + name + bytes((0, 1, 0, 1)), ("127.0.0.11", 53))
    try:
        print(client.recv(512)[3] & 15)
    except OSError:
        pass
"""
SERVER_FAILURE = 2


def test_redis_has_no_name_server(target: Target, container: dict[str, Any]) -> None:
    """Docker's resolver answers Redis only for containers.

    A name server would answer that the name does not exist.
    """
    assert container["HostConfig"]["Dns"] == ["127.0.0.1"]
    answer = target.run(f"nsenter --target {container['State']['Pid']} --net python3 -", QUERY)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() in ("", str(SERVER_FAILURE))


def test_nothing_outside_answers_redis(
    host: Host, settings: Settings, container: dict[str, Any], addresses: list[str]
) -> None:
    """No gateway, SSH client or address of the host answers Redis.

    The test connects from Redis's network namespace to the host's default gateway, its SSH clients, and every address
    of the host.
    """
    peers = host.check_output(
        "ip -4 route show default | awk '{ print $3 }'; ss -4Htnp state established | awk '/\"sshd/ { print $4 }'"
    )
    # sshd also has a connection to Redis: the one of these tests.
    redis_addresses = {network["IPAddress"] for network in container["NetworkSettings"]["Networks"].values()}
    outside = {peer.partition(":")[0] for peer in peers.split()} - {"127.0.0.1", *redis_addresses}
    assert outside, "the host has neither a gateway nor an SSH client"
    outside |= {address for address in addresses if ":" not in address and not address.startswith("127.")}
    script = """
    PUBLISHED=$1
    shift
    for peer in "$@"; do
        for port in 22 53 80 443 "$PUBLISHED"; do
            { timeout 0.5 bash -c "</dev/tcp/$peer/$port" 2>/dev/null; [ $? = 124 ] || echo "$peer:$port"; } &
        done
    done
    wait
    """
    inside = f"nsenter --target {container['State']['Pid']} --net bash -c {quoted(script)} -"
    assert host.check_output(f"{inside} {quoted(str(settings.redis_port), *sorted(outside))}") == ""
