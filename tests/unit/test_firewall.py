"""Firewall: which sources the filter before the published port refuses."""

import ast
from pathlib import Path

import pytest

from redoubt import firewall
from redoubt.filesystem import AbsentPath, DesiredFile
from redoubt.settings.load import load


@pytest.mark.parametrize(
    ("allowed", "rules"),
    [
        (["10.0.0.0/8"], ["ip saddr != { 10.0.0.0/8 }", "meta nfproto ipv6"]),
        (["10.0.0.7", "10.0.0.0/24", "192.0.2.1"], ["ip saddr != { 10.0.0.0/24, 192.0.2.1/32 }", "meta nfproto ipv6"]),
        (["2001:db8::/32"], ["meta nfproto ipv4", "ip6 saddr != { 2001:db8::/32 }"]),
        (["0.0.0.0/0"], ["meta nfproto ipv6"]),
        (["0.0.0.0/0", "::/0"], []),
    ],
)
def test_only_named_sources_are_allowed(allowed: list[str], rules: list[str]) -> None:
    assert list(firewall.refused(allowed)) == rules


def test_no_networks_or_no_port_means_no_filter() -> None:
    for data in ({}, {"redis_allow_from": ["10.0.0.0/8"], "redis_bind": []}):
        removed = [AbsentPath("/srv/redis/network.nft"), AbsentPath("/etc/systemd/system/redis-network.service")]
        assert firewall.files(load(data)) == removed


def test_each_instance_has_its_own_table_and_unit() -> None:
    names = [
        (firewall.table(settings), firewall.unit(settings), *(entry.path for entry in firewall.files(settings)))
        for name in ("redis", "redis-queue")
        for settings in [load({"redis_name": name, "redis_allow_from": ["10.0.0.0/8"]})]
    ]
    assert not set(names[0]) & set(names[1])
    (rules, _) = firewall.files(load({"redis_name": "q", "redis_port": 6380, "redis_allow_from": ["10.0.0.0/8"]}))
    assert isinstance(rules, DesiredFile)
    assert "tcp dport 6380 ip saddr != { 10.0.0.0/8 } drop" in rules.content


def test_firewall_is_removed_after_the_start() -> None:
    """The deploy keeps the firewall until Redis has started with new settings.

    Until then, its container may publish the port to all networks.
    """
    module = ast.parse((Path(__file__).resolve().parents[2] / "deploy.py").read_text())
    calls = [
        ast.unparse(node.value.func)
        for node in module.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    assert calls.index("network") < calls.index("service") < calls.index("previous_firewall")
