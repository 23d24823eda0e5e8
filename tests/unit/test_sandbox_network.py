"""Addresses, routes and firewall tables of the sandbox's network."""

import json
from ipaddress import IPv4Network
from typing import Any

import pytest

from sandbox import network
from sandbox.util import SandboxError

# /proc/net/route of a machine with one network card: a default route, then the card's own subnet.
ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


def test_routes_are_parsed_with_their_devices() -> None:
    assert network.parse_routes(ROUTES) == [
        ("eth0", IPv4Network("0.0.0.0/0")),
        ("eth0", IPv4Network("192.0.2.0/24")),
    ]


def test_free_subnet_overlaps_nothing() -> None:
    used = [IPv4Network("10.201.7.0/24"), IPv4Network("10.201.8.0/23")]
    assert network.free_subnet(used, start=7) == IPv4Network("10.201.10.0/24")


def test_search_for_a_subnet_wraps_around() -> None:
    used = [IPv4Network("10.201.255.0/24")]
    assert network.free_subnet(used, start=255) == IPv4Network("10.201.0.0/24")


def test_used_up_pool_is_an_error() -> None:
    with pytest.raises(SandboxError, match=r"10\.201\.0\.0/16"):
        network.free_subnet([IPv4Network("10.0.0.0/8")], start=0)


@pytest.mark.parametrize("inner", ["172.17.0.0/16", "172.31.0.0/16", "192.168.0.0/16"])
def test_pool_does_not_overlap_networks_inside_hosts(inner: str) -> None:
    assert not network.free_subnet([], start=0).supernet(new_prefix=16).overlaps(IPv4Network(inner))


def test_hosts_do_not_share_an_address() -> None:
    subnet = IPv4Network("10.201.3.0/24")
    assert network.free_address(subnet, []) == "10.201.3.10"
    assert network.free_address(subnet, ["10.201.3.10", None, "10.201.3.12"]) == "10.201.3.11"


@pytest.mark.parametrize(
    ("contents", "is_unused"),
    [
        ([], True),
        ([{"chain": {"name": "FORWARD", "type": "filter", "hook": "forward", "policy": "accept"}}], True),
        ([{"chain": {"name": "by-hand"}}], False),
        ([{"chain": {"name": "FORWARD", "hook": "forward"}}, {"rule": {"chain": "FORWARD"}}], False),
        ([{"set": {"name": "blocked"}}], False),
    ],
)
def test_table_with_foreign_entries_is_not_unused(contents: list[dict[str, Any]], is_unused: bool) -> None:
    header = [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "ip", "name": "filter"}}]
    assert network.is_unused(json.dumps({"nftables": [*header, *contents]})) == is_unused


def test_kernel_accepts_the_name_of_the_bridge() -> None:
    assert len(network.BRIDGE) <= 15
