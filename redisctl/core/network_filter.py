"""The instance's nftables tables, and Docker's rules for published ports."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redisctl import paths
from redisctl.core import process
from redisctl.core.instance import Instance


def differences(instance: Instance) -> tuple[str, ...]:
    """Return how the host's table differs from its file.

    A private network namespace loads the file and lists it. Raises Failure if a program hangs.
    """
    return _differences(instance.root / paths.NETWORK_FILTER, paths.filter_table(instance.name))


def client_limit_differences(instance: Instance, pid: int) -> tuple[str, ...]:
    """Return how the table in the container's network namespace differs.

    ``pid`` is the container's first process, 0 if it does not run; nothing differs then. Raises Failure if a program
    hangs.
    """
    if not pid:
        return ()
    table = paths.filter_table(instance.name)
    inside = ("nsenter", "--target", str(pid), "--net")
    reasons = _differences(instance.root / paths.CLIENT_LIMITS, table, inside=inside)
    # The container may have stopped.
    return reasons if Path("/proc", str(pid)).exists() else ()


def refused_packets(instance: Instance, pid: int) -> dict[str, int]:
    """Return how many packets each connection limit has refused, by setting.

    Returns none if the container does not run or has no such table. Raises Failure if a program hangs.
    """
    if not pid or shutil.which("nft") is None:
        return {}
    table = paths.filter_table(instance.name)
    listed = process.run(
        ["nsenter", "--target", str(pid), "--net", "nft", "--json", "list", "counters", "table", "inet", table]
    )
    entries = json.loads(listed.stdout)["nftables"] if listed.returncode == 0 and listed.stdout else ()
    counters = [entry["counter"] for entry in entries if "counter" in entry]
    return {counter["name"]: counter["packets"] for counter in counters if counter["table"] == table}


def _differences(rules: Path, table: str, *, inside: Sequence[str] = ()) -> tuple[str, ...]:
    """Return how a loaded table differs from its file.

    ``inside`` is a command that runs its arguments in the table's network namespace.
    """
    if shutil.which("nft") is None:
        return ("nft is not installed",)
    if not rules.exists():
        return (f"{rules} is missing",)
    listing = ["nft", "--stateless", "--terse", "list", "table", "inet", table]
    name = f"the nftables table {table}" + (" in the container's network namespace" if inside else "")
    loaded = process.run([*inside, *listing])
    if loaded.returncode != 0:
        return (f"{name} is not loaded",)
    expected = process.run(
        ["unshare", "--net", "sh", "-c", 'nft -f "$1" && shift && exec "$@"', "-", str(rules), *listing]
    )
    return () if expected.stdout == loaded.stdout else (f"{name} has other rules than {rules}",)


def is_watched(instance: Instance) -> bool:
    """Say whether the units run that load the tables again."""
    units = [paths.unit(instance.name, part) for part in (paths.NETWORK_WATCH_TIMER, paths.NETWORK_WATCH_PATH)]
    # systemctl succeeds if one of several units is active.
    return all(process.run(["systemctl", "is-active", "--quiet", unit]).returncode == 0 for unit in units)


def docker_publishes(container: dict[str, Any]) -> bool:
    """Say whether Docker's rules for the published ports of a container exist.

    They are in the tables of iptables or of nftables. ``container`` is what Docker reports of it. One that does not
    run, or that publishes no port on an IPv4 address, needs none. Raises Failure if a program hangs.
    """
    bindings = (container.get("HostConfig") or {}).get("PortBindings") or {}
    is_published = any(":" not in entry.get("HostIp", "") for entries in bindings.values() for entry in entries or ())
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    addresses = [network["IPAddress"] for network in networks.values() if network and network.get("IPAddress")]
    if not (is_published and addresses and container.get("State", {}).get("Running")):
        return True
    listings = (
        # Unlike --list, it asks no name server for names of addresses.
        ["iptables", "--wait", "--table", "nat", "--list-rules"],
        ["iptables", "--wait", "--table", "filter", "--list-rules"],
        ["nft", "list", "table", "ip", "docker-bridges"],
    )
    nat, forwarding, bridges = (process.run(listing).stdout if shutil.which(listing[0]) else "" for listing in listings)
    return any(has_docker_rules(address, nat, forwarding, bridges) for address in addresses)


def has_docker_rules(address: str, nat: str, forwarding: str, bridges: str) -> bool:
    """Say whether Docker translates and forwards the connections to a container.

    ``nat`` and ``forwarding`` are rules of iptables, ``bridges`` is the table of Docker's nftables backend.
    """
    # Docker writes this table in one step, and a flush removes all of it.
    if f" {address}:" in bridges:
        return True
    # Since Docker 28, FORWARD leads to DOCKER through DOCKER-FORWARD.
    needed = (
        (nat, r"PREROUTING .*-j DOCKER"),
        (nat, rf"DOCKER .*--to-destination {address}:\d+"),
        (forwarding, r"FORWARD .*-j DOCKER(-FORWARD)?"),
        (forwarding, rf"DOCKER .*-d {address}/32 .*-j ACCEPT"),
    )
    return all(re.search(rf"^-A {rule}$", rules, re.MULTILINE) for rules, rule in needed)


def watch(instance: Instance) -> None:
    """Run the watch now, after a container has started.

    It has clients on the host bypass docker-proxy, and loads the connection limits in the container.
    """
    process.run(["systemctl", "start", paths.unit(instance.name, paths.NETWORK_WATCH_SERVICE)])
