"""The network of the hosts, on which they reach each other and the archives.

Its subnet overlaps neither networks of this machine nor the pools of the Docker inside the hosts (172.16.0.0/12 and
192.168.0.0/16).
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import socket
import struct
import subprocess
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import docker
from docker.models.networks import Network

from sandbox import tools
from sandbox.util import ID, LABELS, PREFIX, STATE, SandboxError, say

# A linux interface name has at most 15 characters.
BRIDGE = f"rd-{ID}"
# linux/sockios.h
_SIOCSIFFLAGS, _SIOCBRDELBR = 0x8914, 0x89A1
_POOL = IPv4Network("10.201.0.0/16")
_RULES = STATE / "engine" / "rules.json"
# The tables of the rules. iptables creates a table at its first use and never removes it.
_TABLES = ("nat", "filter")


def ensure(client: docker.DockerClient, *, own_engine: bool) -> Network:
    """Create the network if there is none, and return it.

    With the sandbox's Docker, also route it to the outside.
    """
    networks = client.networks.list(names=[PREFIX])
    network = networks[0] if networks else _create(client)
    if own_engine:
        _route(subnet_of(network))
    return network


def subnet_of(network: Network) -> IPv4Network:
    """Return the network's IPv4 subnet."""
    return ipaddress.IPv4Network(network.attrs["IPAM"]["Config"][0]["Subnet"])


def free_subnet(used: Iterable[IPv4Network], start: int) -> IPv4Network:
    """Return the first free /24 of the pool.

    The search begins at number `start` and wraps around. Raises SandboxError if none is free.
    """
    used_subnets = list(used)
    subnets: list[IPv4Network] = list(_POOL.subnets(new_prefix=24))
    for number in range(len(subnets)):
        subnet = subnets[(start + number) % len(subnets)]
        if not any(subnet.overlaps(other) for other in used_subnets):
            return subnet
    raise SandboxError(f"this machine uses all of {_POOL}: free a /24 of it for the network of the hosts")


def free_address(subnet: IPv4Network, taken: Iterable[str | None]) -> str:
    """Return the first free address from .10 on.

    Docker uses lower ones; .1 is the bridge.
    """
    used = set(taken)
    for address in list(subnet.hosts())[9:]:
        if str(address) not in used:
            return str(address)
    raise SandboxError(f"{subnet} has no free address: remove hosts with `make clean`")


def parse_routes(table: str) -> list[tuple[str, IPv4Network]]:
    """Return device and destination of each route of /proc/net/route."""
    routes = []
    for line in table.splitlines()[1:]:
        device, destination, _, _, _, _, _, mask = line.split()[:8]
        address, bits = (IPv4Address(int.from_bytes(bytes.fromhex(field), "little")) for field in (destination, mask))
        routes.append((device, IPv4Network(f"{address}/{bits}")))
    return routes


def _routes() -> list[tuple[str, IPv4Network]]:
    table = Path("/proc/net/route")
    return parse_routes(table.read_text()) if table.exists() else []


def _mtu() -> str | None:
    """Return the MTU of the default route, or None without such a route.

    With a larger MTU, the bridge would lose big packets.
    """
    for device, destination in _routes():
        if destination.prefixlen == 0:
            return Path(f"/sys/class/net/{device}/mtu").read_text().strip()
    return None


def _create(client: docker.DockerClient) -> Network:
    used = [network for _, network in _routes() if network.prefixlen > 0]
    for other in client.networks.list():
        for config in (other.attrs["IPAM"] or {}).get("Config") or []:
            subnet = ipaddress.ip_network(config["Subnet"])
            if isinstance(subnet, IPv4Network):
                used.append(subnet)
    subnet = free_subnet(used, start=int(ID, 16) % 256)
    options = {"com.docker.network.bridge.name": BRIDGE}
    mtu = _mtu()
    if mtu:
        options["com.docker.network.driver.mtu"] = mtu
    say("network", f"creating {subnet} on {BRIDGE}, MTU {mtu or 'of Docker'}")
    try:
        network = client.networks.create(
            PREFIX,
            driver="bridge",
            options=options,
            labels=LABELS,
            ipam=docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=str(subnet))]),
        )
    except docker.errors.APIError as error:
        raise SandboxError(f"Docker cannot create the network {PREFIX}: {error.explanation or error}") from error
    network.reload()
    return network


def _route(subnet: IPv4Network) -> None:
    """Route the hosts through this machine.

    This adds firewall rules, because the sandbox's Docker runs without its own.
    """
    rules = [
        ["nat", "POSTROUTING", "-s", str(subnet), "!", "-o", BRIDGE, "-j", "MASQUERADE"],
        ["filter", "FORWARD", "-i", BRIDGE, "-j", "ACCEPT"],
        ["filter", "FORWARD", "-o", BRIDGE, "-j", "ACCEPT"],
    ]
    before = json.loads(_RULES.read_text())["absent"] if _RULES.exists() else sorted(set(_TABLES) - _tables())
    _RULES.write_text(json.dumps({"rules": rules, "absent": before}))
    for table, chain, *match in rules:
        is_present = _iptables("-t", table, "-C", chain, *match) == 0
        # In front of the rules of this machine's firewall.
        if not is_present and _iptables("-t", table, "-I", chain, *match) != 0:
            raise SandboxError(f"iptables refuses the rule: {table} {chain} {' '.join(match)}")


def unplug() -> None:
    """Remove the firewall rules and the bridge of the sandbox's stopped Docker.

    The start of this Docker creates them again.
    """
    if Path("/sys/class/net", BRIDGE).exists():
        with socket.socket() as control:
            # By system calls, because the machine may not have iproute2.
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", BRIDGE.encode(), 0))
            fcntl.ioctl(control, _SIOCBRDELBR, BRIDGE.encode() + b"\0")
    if _RULES.exists():
        record = json.loads(_RULES.read_text())
        for table, chain, *match in record["rules"]:
            _iptables("-t", table, "-D", chain, *match)
        for table in set(record["absent"]) & _tables():
            listing = _run("nft", "--json", "list", "table", "ip", table)
            if listing.returncode == 0 and is_unused(listing.stdout):
                _run("nft", "delete", "table", "ip", table)
        _RULES.unlink()


def is_unused(table: str) -> bool:
    """Return whether a table has only the chains that iptables creates by itself.

    `table` is nft's JSON.
    """
    entries = [(kind, entry) for item in json.loads(table)["nftables"] for kind, entry in item.items()]
    headers = {"metainfo", "table"}
    return all(kind in headers or (kind == "chain" and "hook" in entry) for kind, entry in entries)


def _tables() -> set[str]:
    """Return which of the tables this machine has; none with the legacy iptables."""
    listing = _run("nft", "--json", "list", "tables", "ip")
    items = json.loads(listing.stdout)["nftables"] if listing.returncode == 0 else []
    return {item["table"]["name"] for item in items if "table" in item} & set(_TABLES)


def _iptables(*arguments: str) -> int:
    return _run("iptables", "-w", "10", *arguments).returncode


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an unpacked program and return its result.

    The exit code is 127 if there is no such program.
    """
    path = tools.find(program)
    if path is None:
        return subprocess.CompletedProcess(arguments, 127, "", f"{program}: not found")
    return subprocess.run([path, *arguments], env=tools.environment(), capture_output=True, text=True, check=False)
