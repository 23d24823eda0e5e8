"""Network filter: which packets the instance's nftables table refuses."""

import ast
from pathlib import Path
from typing import Any

import pytest

from redisctl.core import network_filter as host_filter
from redoubt import network_filter
from redoubt.settings.load import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("allowed", "rules"),
    [
        (["10.0.0.0/8"], [("ip", "ip saddr != { 10.0.0.0/8 }"), ("ip6", "")]),
        (
            ["10.0.0.7", "10.0.0.0/24", "192.0.2.1"],
            [("ip", "ip saddr != { 10.0.0.0/24, 192.0.2.1/32 }"), ("ip6", "")],
        ),
        (["2001:db8::/32"], [("ip", ""), ("ip6", "ip6 saddr != { 2001:db8::/32 }")]),
        (["0.0.0.0/0"], [("ip6", "")]),
        (["0.0.0.0/0", "::/0"], []),
    ],
)
def test_only_named_sources_are_allowed(allowed: list[str], rules: list[tuple[str, str]]) -> None:
    assert list(network_filter.refused_sources(allowed)) == rules


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        ([], []),
        (["10.0.0.5"], ["ip daddr { 10.0.0.5 } tcp dport { 6379 } ip saddr != { 10.0.0.0/8 }"]),
        (["2001:db8::5"], ["ip6 daddr { 2001:db8::5 } tcp dport { 6379 }"]),
        (
            ["0.0.0.0"],
            ["meta nfproto ipv4 fib daddr type local tcp dport { 6379 } ip saddr != { 10.0.0.0/8 }"],
        ),
        (
            ["::"],
            [
                "meta nfproto ipv4 fib daddr type local tcp dport { 6379 } ip saddr != { 10.0.0.0/8 }",
                "meta nfproto ipv6 fib daddr type local tcp dport { 6379 }",
            ],
        ),
    ],
)
def test_sources_are_refused_only_where_published(bind: list[str], expected: list[str]) -> None:
    """Another instance may publish the same port on another address of the host."""
    settings = load({"redis_bind": bind, "redis_allow_from": ["10.0.0.0/8"]})
    assert list(network_filter.refused_packets(settings)) == expected


def test_no_networks_mean_no_refused_source() -> None:
    assert list(network_filter.refused_packets(load({}))) == []


def rules(**data: Any) -> str:
    return network_filter.files(load(data))[0].content


def test_table_is_always_there() -> None:
    """No settings open connections out of the bridges, or let untranslated ones in."""
    kinds: list[dict[str, Any]] = [{}, {"redis_bind": []}, {"redis_allow_from": ["0.0.0.0/0", "::/0"]}]
    for data in kinds:
        assert 'iifname { "redis-edge", "redis-back" } jump leaving' in rules(**data)
        assert rules(**data).count("\t\tdrop\n") == 2


def test_only_published_ports_are_entered() -> None:
    entered = "ct status dnat meta l4proto tcp ct original ip daddr { 127.0.0.1 } ct original proto-dst"
    assert f"{entered} {{ 7000 }} accept" in rules(redis_port=7000)
    assert f"{entered} {{ 6379, 6380 }} accept" in rules(redis_tls="both")
    assert "ct status dnat" not in rules(redis_bind=[])


@pytest.mark.parametrize(
    ("bind", "expression"),
    [
        (["127.0.0.1"], "ct original ip daddr { 127.0.0.1 } "),
        (["10.0.0.5", "2001:db8::5", "127.0.0.1"], "ct original ip daddr { 10.0.0.5, 127.0.0.1 } "),
        (["0.0.0.0"], ""),
        (["::"], ""),
        (["2001:db8::5"], None),
        ([], None),
    ],
)
def test_only_published_addresses_are_entered(bind: list[str], expression: str | None) -> None:
    """docker-proxy listens on IPv6 addresses, and connects from the host."""
    settings = load({"redis_bind": bind, "redis_allow_from": ["0.0.0.0/0", "::/0"]})
    assert network_filter.accepted_destinations(settings) == expression
    assert ("ct status dnat" in network_filter.files(settings)[0].content) == (expression is not None)


@pytest.mark.parametrize(
    ("bind", "addresses"),
    [
        (["127.0.0.1"], ["127.0.0.1"]),
        (["::1", "127.0.0.7", "10.0.0.5"], ["127.0.0.7"]),
        (["0.0.0.0"], ["127.0.0.1"]),
        (["10.0.0.5"], []),
        ([], []),
    ],
)
def test_clients_on_loopback_bypass_docker_proxy(bind: list[str], addresses: list[str]) -> None:
    """The bridge routes loopback addresses only if one is published."""
    settings = load({"redis_bind": bind, "redis_allow_from": ["0.0.0.0/0", "::/0"]})
    assert network_filter.loopback(settings) == addresses
    watch = next(entry.content for entry in network_filter.files(settings) if entry.path.endswith("watch.sh"))
    assert ("echo 1 >/proc/sys/net/ipv4/conf/redis-edge/route_localnet" in watch) == bool(addresses)
    assert ("dnat ip to" in network_filter.files(settings)[0].content) == bool(addresses)
    # The guard does not depend on the settings.
    assert 'iifname != "lo" ip daddr 127.0.0.0/8 drop' in network_filter.files(settings)[0].content


@pytest.mark.parametrize(("keepalive", "seconds"), [(60, 600), (300, 600), (3600, 7200), (0, 432000)])
def test_silent_connection_is_known_for_two_probes(keepalive: int, seconds: int) -> None:
    """The kernel in the container must not forget a connection that is open."""
    assert network_filter.known_seconds(load({"redis_tcp_keepalive": keepalive})) == seconds
    limits = network_filter.files(load({"redis_tcp_keepalive": keepalive}))[1].content
    assert limits.count(f": {seconds}") == 3


def test_each_instance_has_its_own_names() -> None:
    names = [
        {
            network_filter.table(settings),
            *(entry.path for entry in network_filter.files(settings)),
            settings.edge_bridge,
            settings.backend_bridge,
            str(settings.edge_subnet),
        }
        for name in ("redis", "redis-queue", "redis-queue-of-the-shop", "redis-queue-of-the-forum")
        for settings in [load({"redis_name": name})]
    ]
    assert len(set().union(*names)) == sum(map(len, names))
    assert max(len(word) for word in set().union(*names) if word.endswith(("-edge", "-back"))) <= 15


def test_stop_of_the_unit_opens_nothing() -> None:
    units = [entry.content for entry in network_filter.files(load({})) if entry.path.endswith(".service")]
    assert len(units) == 2
    assert not any(f"\n{line}" in unit for unit in units for line in ("ExecStop=", "PartOf=", "Conflicts="))


def test_network_filter_is_loaded_before_the_start() -> None:
    """Redis's container never runs without its table."""
    module = ast.parse((ROOT / "deploy.py").read_text())
    calls = [
        ast.unparse(node.value.func)
        for node in module.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    assert calls.index("network") < calls.index("service")


NAT = """-P PREROUTING ACCEPT
-N DOCKER
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER -d 127.0.0.1/32 ! -i redis-edge -p tcp -m tcp --dport 6379 -j DNAT --to-destination 198.18.3.2:6379
"""
FORWARDING = """-P FORWARD DROP
-A FORWARD -j DOCKER-USER
-A FORWARD -o redis-edge -j DOCKER
-A DOCKER -d 198.18.3.2/32 ! -i redis-edge -o redis-edge -p tcp -m tcp --dport 6379 -j ACCEPT
"""
FORWARDING_28 = FORWARDING.replace("-o redis-edge -j DOCKER\n", "-j DOCKER-FORWARD\n")
# Docker's nftables backend. It needs no rule of iptables.
BRIDGES = """table ip docker-bridges {
	chain nat-prerouting-and-output {
		iifname != "redis-edge" ip daddr 127.0.0.1 tcp dport 6379 counter packets 0 bytes 0 dnat to 198.18.3.2:6379
	}
}
"""


@pytest.mark.parametrize(
    ("listings", "expected"),
    [
        ((NAT, FORWARDING, ""), True),
        ((NAT, FORWARDING_28, ""), True),
        (("", "", BRIDGES), True),
        (("", "", BRIDGES.replace("3.2", "3.21")), False),
        ((NAT.replace("3.2", "3.21"), FORWARDING, ""), False),
        ((NAT.replace("-j DOCKER\n", "-j OTHER\n"), FORWARDING, ""), False),
        ((NAT, FORWARDING.replace("-o redis-edge -j DOCKER\n", ""), ""), False),
        ((NAT, FORWARDING.replace("-j ACCEPT", "-j DROP"), ""), False),
        ((NAT, "-P FORWARD DROP\n", ""), False),
    ],
)
def test_docker_needs_all_rules_to_publish(listings: tuple[str, str, str], expected: bool) -> None:
    """Docker 26 and 28 write different rules, and Docker 29 can write nftables."""
    assert host_filter.has_docker_rules("198.18.3.2", *listings) is expected
