"""Network: reached where the settings say, from nowhere else, and with no way out."""

import ipaddress
import json
import shlex
import socket
from typing import Any

import pytest
from testinfra.host import Host

from redoubt.settings.model import Settings
from tests.host.host_under_test import Target, listens, quoted

pytestmark = pytest.mark.security("network")

UNSPECIFIED = {"0.0.0.0", "::"}


@pytest.fixture(scope="module")
def addresses(host: Host) -> list[str]:
    """The host's own addresses, loopback included."""
    found = json.loads(host.check_output("ip -json address show"))
    return [
        address["local"]
        for interface in found
        for address in interface["addr_info"]
        # A link-local one needs its interface named with it.
        if address["scope"] != "link"
    ]


@pytest.fixture(scope="module")
def networks(host: Host, settings: Settings) -> dict[str, dict[str, Any]]:
    """Redis's networks as the engine has them."""
    names = quoted(f"{settings.redis_name}_backend", f"{settings.redis_name}_edge")
    return {network["Name"]: network for network in json.loads(host.check_output(f"docker network inspect {names}"))}


# -- Ways in


def test_port_listens_exactly_where_the_settings_say(host: Host, settings: Settings) -> None:
    """As sets: a check for one address passes as well when another one listens beside it."""
    ports = {str(port.published) for port in settings.ports}
    sockets = [socket.removeprefix("tcp://").rpartition(":") for socket in host.socket.get_listening_sockets()]
    listening = {(address, port) for address, _, port in sockets if port in ports}
    assert listening == {(address, port) for address in settings.redis_bind for port in ports}


def test_container_publishes_nothing_else(settings: Settings, container: dict[str, Any]) -> None:
    """No second port, and none that the engine chose."""
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


def test_connections_are_accepted_exactly_where_the_settings_say(
    host: Host, settings: Settings, addresses: list[str]
) -> None:
    """Tried on every address that the host has: the engine's rules redirect where no socket listens."""
    tries = [f"{address}/{port.published}" for address in addresses for port in settings.ports]
    script = 'for a in "$@"; do timeout 2 bash -c "</dev/tcp/$a" && echo "$a"; done 2>/dev/null'
    accepted = set(host.run(f"bash -c {quoted(script)} - {quoted(*tries)}").stdout.split())
    wanted = {
        address
        for address in addresses
        if address in settings.redis_bind
        or (UNSPECIFIED & set(settings.redis_bind) and _covered(address, settings.redis_bind))
    }
    assert accepted == {f"{address}/{port.published}" for address in wanted for port in settings.ports}


def _covered(address: str, bind: tuple[str, ...]) -> bool:
    """Whether an unspecified address among the published ones takes this one in."""
    return ("::" if ":" in address else "0.0.0.0") in bind


@pytest.mark.outside
def test_redis_is_not_reached_from_outside(target: Target, settings: Settings) -> None:
    """From this machine to the host's own address, past SSH; but where the settings publish it there."""
    assert target.outside is not None
    address = _resolved(target.outside)
    wanted = address in settings.redis_bind or _covered(address, settings.redis_bind)
    if settings.redis_allow_from:
        wanted = wanted and _is_in(_own_address(address), settings.redis_allow_from)
    assert wanted or not any(listens(address, port.published) for port in settings.ports)


def _own_address(to: str) -> str:
    """By which this machine reaches another."""
    with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM) as unconnected:
        # Nothing is sent.
        unconnected.connect((to, 9))
        return str(unconnected.getsockname()[0])


def _is_in(address: str, networks: tuple[str, ...]) -> bool:
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in networks)


def test_only_the_named_networks_get_past_the_filter(host: Host, settings: Settings) -> None:
    """What the kernel has loaded, now and at the next boot: for this port, all sources but those, and nothing else."""
    table, unit = f"redoubt_{settings.redis_name.replace('-', '_')}", f"{settings.redis_name}-network.service"
    loaded = host.run(f"nft --json list table inet {table}")
    if not (settings.redis_allow_from and settings.redis_bind):
        assert loaded.rc != 0
        assert host.run(f"systemctl cat {unit}").rc != 0
        return
    assert host.check_output(f"systemctl is-enabled {unit}; systemctl is-active {unit}").split() == [
        "enabled",
        "active",
    ]
    everything = json.loads(loaded.stdout)["nftables"]
    (chain,) = [entry["chain"] for entry in everything if "chain" in entry]
    assert (chain["hook"], chain["prio"], chain["policy"]) == ("prerouting", -300, "accept")
    let_in, kept = set(), set()
    for rule in (entry["rule"]["expr"] for entry in everything if "rule" in entry):
        assert rule[-1] == {"drop": None}
        (port,) = [one["match"]["right"] for one in rule[:-1] if _field(one) == "dport"]
        kept.add(port)
        for sources in (one["match"]["right"] for one in rule[:-1] if _field(one) == "saddr"):
            let_in |= {_network(source) for source in _members(sources)}
    whole = {ipaddress.ip_network(network) for network in settings.redis_allow_from}
    given = {network for network in whole if network.prefixlen}
    v4 = ipaddress.collapse_addresses(one for one in given if isinstance(one, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(one for one in given if isinstance(one, ipaddress.IPv6Network))
    assert let_in == {*v4, *v6}
    families = {network.version for network in whole if not network.prefixlen}
    assert sum("rule" in entry for entry in everything) == (2 - len(families)) * len(settings.ports)
    assert kept == ({port.published for port in settings.ports} if len(families) < 2 else set())


def _field(expression: dict[str, Any]) -> str:
    """Which field of a packet an expression of a rule looks at."""
    return str(expression["match"]["left"].get("payload", {}).get("field", ""))


def _members(sources: Any) -> list[Any]:
    """A set of one is listed as that one: an address is a word, a network an object."""
    return list(sources["set"]) if isinstance(sources, dict) and "set" in sources else [sources]


def _network(source: Any) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    if isinstance(source, str):
        return ipaddress.ip_network(source)
    return ipaddress.ip_network(f"{source['prefix']['addr']}/{source['prefix']['len']}")


def _resolved(name: str) -> str:
    return str(socket.getaddrinfo(name, None)[0][4][0])


def test_redis_is_reached_through_the_host(target: Target) -> None:
    """The way of the operator and of applications on the host: a login on the published address."""
    assert target.client("sessions").ping()


def test_redis_is_on_its_own_networks_alone(settings: Settings, container: dict[str, Any]) -> None:
    """Not on the engine's default bridge, where any container would reach it."""
    assert set(container["NetworkSettings"]["Networks"]) == {
        f"{settings.redis_name}_backend",
        f"{settings.redis_name}_edge",
    }


def test_edge_carries_redis_alone(settings: Settings, networks: dict[str, dict[str, Any]]) -> None:
    """It has a bridge to the published port; applications meet Redis on the backend."""
    there = {container["Name"] for container in networks[f"{settings.redis_name}_edge"]["Containers"].values()}
    assert there == {settings.redis_name}


# -- Ways out


def test_backend_leads_nowhere(settings: Settings, networks: dict[str, dict[str, Any]]) -> None:
    """Applications share it with Redis."""
    assert networks[f"{settings.redis_name}_backend"]["Internal"] is True


def test_no_rule_translates_redis_addresses_to_the_outside(host: Host, container: dict[str, Any]) -> None:
    """Without translation no answer from outside finds the way back. Asked of the kernel's rules."""
    own = [ipaddress.ip_address(network["IPAddress"]) for network in container["NetworkSettings"]["Networks"].values()]
    rules = [shlex.split(rule) for rule in host.check_output("iptables -t nat -S POSTROUTING").splitlines()]
    translating = [rule for rule in rules if {"MASQUERADE", "SNAT"} & set(rule)]
    leading_out = [
        " ".join(rule)
        for rule in translating
        for address in own
        if _matches(rule, "-s", address) and not _stays_inside(rule, own)
    ]
    assert translating, "the engine has rules of its own: none at all means that they were not seen"
    assert leading_out == []


def _matches(rule: list[str], option: str, address: Any) -> bool:
    """Whether an address is in the network that a rule names; a rule that names none takes any."""
    if option not in rule:
        return True
    inside = address in ipaddress.ip_network(rule[rule.index(option) + 1])
    return inside != (rule[rule.index(option) - 1] == "!")


def _stays_inside(rule: list[str], own: list[Any]) -> bool:
    """Whether a rule is for connections of the container to itself."""
    return "-d" in rule and any(rule[rule.index("-d") + 1] == f"{address}/32" for address in own)


def test_nothing_outside_answers_redis(host: Host, container: dict[str, Any]) -> None:
    """Tried in Redis's own network: the host's gateway, and who is logged in over SSH. A refusal is an answer, too."""
    peers = host.check_output(
        "ip -4 route show default | awk '{ print $3 }'; ss -4Htnp state established | awk '/\"sshd/ { print $4 }'"
    )
    # A connection of sshd's leads to Redis as well: that of these tests.
    own = {network["IPAddress"] for network in container["NetworkSettings"]["Networks"].values()}
    outside = {peer.partition(":")[0] for peer in peers.split()} - {"127.0.0.1", *own}
    script = """
    for peer in "$@"; do
        for port in 22 53 80 443; do
            { timeout 0.5 bash -c "</dev/tcp/$peer/$port" 2>/dev/null; [ $? = 124 ] || echo "$peer:$port"; } &
        done
    done
    wait
    """
    inside = f"nsenter --target {container['State']['Pid']} --net bash -c {quoted(script)} -"
    assert outside, "the host has a gateway, or somebody is logged in"
    assert host.check_output(f"{inside} {quoted(*sorted(outside))}") == ""
