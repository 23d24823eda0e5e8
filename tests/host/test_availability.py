"""Availability: one application cannot take Redis from the others.

tests/lifecycle/test_client_limits.py attacks a disposable host, and expects that these limits suffice.
"""

import pytest
from testinfra.host import Host

from redoubt.settings.model import Settings
from redoubt.sizes import MIB
from tests.host.host_under_test import Target, quoted
from tests.host.proc import Kernel

pytestmark = pytest.mark.security("availability")


def test_requests_and_values_have_a_limit(config: dict[str, str], settings: Settings) -> None:
    """Redis closes the connection of a client that sends more."""
    assert int(config["proto-max-bulk-len"]) == settings.max_value
    assert settings.max_value < int(config["client-query-buffer-limit"]) <= settings.client_memory / 2


def test_unread_replies_have_a_limit(config: dict[str, str], settings: Settings) -> None:
    """Clients, subscribers and replicas that do not read are disconnected."""
    words = config["client-output-buffer-limit"].split()
    limits = {words[index]: int(words[index + 1]) for index in range(0, len(words), 4)}
    for kind in ("normal", "pubsub"):
        assert settings.max_value < limits[kind] <= settings.client_memory / 2
    assert settings.max_value < limits["slave"] <= settings.client_memory


@pytest.mark.client_eviction
def test_all_clients_together_have_a_limit(config: dict[str, str], settings: Settings) -> None:
    """Redis disconnects the clients that use most."""
    assert int(config["maxmemory-clients"]) == settings.client_memory


def test_container_has_memory_for_data_and_clients(kernel: Kernel, settings: Settings) -> None:
    """The kernel kills Redis only above the data, the clients and a save."""
    assert kernel.limits.memory is not None
    assert kernel.limits.memory >= 1.25 * settings.redis_maxmemory + 128 * MIB + settings.client_memory


def test_connections_are_reserved(config: dict[str, str], settings: Settings) -> None:
    """Redis accepts 32 connections more than clients may have."""
    assert int(config["maxclients"]) == settings.redis_maxclients + 32


def test_connections_have_limits_in_front_of_redis(host: Host, settings: Settings) -> None:
    """The kernel counts them in the container, for each address and in total."""
    name = settings.redis_name
    pid = f"$(docker inspect --format '{{{{.State.Pid}}}}' {quoted(name)})"
    table = f"redoubt_{name.replace('-', '_')}"
    rules = host.check_output(f'nsenter --net --target "{pid}" nft list table inet {table}').splitlines()
    limits = (
        f'ip saddr ct count over {settings.maxclients_per_source} }} counter name "redis_maxclients_per_source"',
        f'ct count over {settings.redis_maxclients} counter name "redis_maxclients"',
    )
    for limit in limits:
        assert any(f"{limit} reject with tcp reset" in rule for rule in rules), limit
    # Packets from false addresses, which open nothing, are not tracked.
    assert any("& (syn | ack) == syn notrack" in rule for rule in rules)


@pytest.mark.parametrize(
    "command", ["SCRIPT KILL", "SCRIPT FLUSH", "FUNCTION KILL", "FUNCTION DELETE x", "CLIENT KILL ID 1", "CLIENT LIST"]
)
def test_admin_may_stop_scripts_and_clients(target: Target, command: str) -> None:
    """An operator can stop an endless script, and free the memory of scripts."""
    assert target.admin.execute_command("ACL", "DRYRUN", "admin", *command.split()) in ("OK", b"OK")


def test_scripts_have_a_time_limit(config: dict[str, str]) -> None:
    """After it Redis accepts SCRIPT KILL. 0 would be no limit."""
    assert 0 < int(config["lua-time-limit"]) <= 5000
