"""The fleet network: where hosts see each other, and reach the archives.

Its subnet collides neither with the machine's own networks nor with the pools from which
the engines *inside* the hosts take theirs (172.16.0.0/12 and 192.168.0.0/16).
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
# Those that the rules are in. iptables makes a table when it is first asked for and keeps it for ever.
_TABLES = ("nat", "filter")


def ensure(client: docker.DockerClient, *, own_engine: bool) -> Network:
    """Make the fleet network if there is none. For our own engine, route it to the outside."""
    found = client.networks.list(names=[PREFIX])
    network = found[0] if found else _create(client)
    if own_engine:
        _route(subnet_of(network))
    return network


def subnet_of(network: Network) -> IPv4Network:
    """The network's IPv4 subnet."""
    return ipaddress.IPv4Network(network.attrs["IPAM"]["Config"][0]["Subnet"])


def free_subnet(used: Iterable[IPv4Network], start: int) -> IPv4Network:
    """The first /24 of the pool, counted from number `start`, that overlaps nothing in use."""
    taken = list(used)
    subnets: list[IPv4Network] = list(_POOL.subnets(new_prefix=24))
    for number in range(len(subnets)):
        subnet = subnets[(start + number) % len(subnets)]
        if not any(subnet.overlaps(other) for other in taken):
            return subnet
    raise SandboxError(f"no /24 of {_POOL} is free for the fleet network: this machine uses it all")


def free_address(subnet: IPv4Network, taken: Iterable[str | None]) -> str:
    """The first address for a host; .1 is the bridge, and below .10 is left to the engine."""
    used = set(taken)
    for address in list(subnet.hosts())[9:]:
        if str(address) not in used:
            return str(address)
    raise SandboxError(f"no address left in {subnet}: remove hosts with `make clean`")


def parse_routes(table: str) -> list[tuple[str, IPv4Network]]:
    """Device and destination of every route in the format of /proc/net/route."""
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
    """The mtu towards the outside: a larger one on the bridge would lose big packets."""
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
    say("network", f"making {subnet} on {BRIDGE}, mtu {mtu or 'as the engine has it'}")
    try:
        network = client.networks.create(
            PREFIX,
            driver="bridge",
            options=options,
            labels=LABELS,
            ipam=docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=str(subnet))]),
        )
    except docker.errors.APIError as error:
        raise SandboxError(f"the engine cannot make the network {PREFIX}: {error.explanation or error}") from error
    network.reload()
    return network


def _route(subnet: IPv4Network) -> None:
    """Let the hosts out through the machine. Our engine is told to leave the firewall alone."""
    rules = [
        ["nat", "POSTROUTING", "-s", str(subnet), "!", "-o", BRIDGE, "-j", "MASQUERADE"],
        ["filter", "FORWARD", "-i", BRIDGE, "-j", "ACCEPT"],
        ["filter", "FORWARD", "-o", BRIDGE, "-j", "ACCEPT"],
    ]
    before = json.loads(_RULES.read_text())["absent"] if _RULES.exists() else sorted(set(_TABLES) - _tables())
    _RULES.write_text(json.dumps({"rules": rules, "absent": before}))
    for table, chain, *match in rules:
        there = _iptables("-t", table, "-C", chain, *match) == 0
        # First, not last: a rule of the machine's own firewall must not come before it.
        if not there and _iptables("-t", table, "-I", chain, *match) != 0:
            raise SandboxError(f"iptables refuses the rule: {table} {chain} {' '.join(match)}")


def unplug() -> None:
    """Take the network's firewall rules and its bridge off the machine.

    For when our own engine is down: it makes the bridge anew when it starts.
    """
    if Path("/sys/class/net", BRIDGE).exists():
        with socket.socket() as control:
            # Bring it down, then delete it: a machine without iproute2 has no command for that.
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", BRIDGE.encode(), 0))
            fcntl.ioctl(control, _SIOCBRDELBR, BRIDGE.encode() + b"\0")
    if _RULES.exists():
        remembered = json.loads(_RULES.read_text())
        for table, chain, *match in remembered["rules"]:
            _iptables("-t", table, "-D", chain, *match)
        for table in set(remembered["absent"]) & _tables():
            listing = _run("nft", "--json", "list", "table", "ip", table)
            if listing.returncode == 0 and is_unused(listing.stdout):
                _run("nft", "delete", "table", "ip", table)
        _RULES.unlink()


def is_unused(table: str) -> bool:
    """Whether a table, as nft prints it in JSON, has nothing in it that iptables did not make by itself."""
    kinds = [(kind, what) for item in json.loads(table)["nftables"] for kind, what in item.items()]
    own = {"metainfo", "table"}
    return all(kind in own or (kind == "chain" and "hook" in what) for kind, what in kinds)


def _tables() -> set[str]:
    """Those of the tables that the machine has; none where iptables keeps them in its old way."""
    listing = _run("nft", "--json", "list", "tables", "ip")
    found = json.loads(listing.stdout)["nftables"] if listing.returncode == 0 else []
    return {item["table"]["name"] for item in found if "table" in item} & set(_TABLES)


def _iptables(*arguments: str) -> int:
    return _run("iptables", "-w", "10", *arguments).returncode


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the toolbox, whatever comes of it; one that is not there fails as a shell would have it."""
    path = tools.find(program)
    if path is None:
        return subprocess.CompletedProcess(arguments, 127, "", f"{program}: not found")
    return subprocess.run([path, *arguments], env=tools.environment(), capture_output=True, text=True, check=False)
