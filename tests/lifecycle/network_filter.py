"""What the tests of the network filter share."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sandbox.hosts import Host
from tests.deployed_redis import Instance

WATCH = "redis-network-watch.timer redis-network-watch.path redis-network-watch.service"
TABLE = "inet redoubt_redis"
LISTING = f"nft --stateless --terse list table {TABLE}"


@contextmanager
def unfiltered(host: Host) -> Iterator[None]:
    """Remove the table, and have the watch put it back at the end."""
    with _without_table(host):
        yield


@contextmanager
def unlimited(redis: Instance) -> Iterator[None]:
    """Remove the connection limits, and have the watch put them back at the end."""
    with _without_table(redis.host, lambda: inside(redis)):
        yield


@contextmanager
def _without_table(host: Host, within: Callable[[], str] = str) -> Iterator[None]:
    """Remove a table.

    ``within`` returns the command that enters its network namespace.
    """
    try:
        host.run(f"systemctl stop {WATCH} && {within()} nft delete table {TABLE}", check=True)
        yield
    finally:
        host.run(f"systemctl start {WATCH}", check=True)
        host.run(f"{within()} nft list table {TABLE}", check=True)


def inside(redis: Instance, container: str | None = None) -> str:
    """Return a command that runs its arguments in a container's network namespace."""
    return f"nsenter --net --target {redis.inspect(container)['State']['Pid']}"


def is_loaded(host: Host) -> bool:
    """Say whether the loaded table is that of its file."""
    expected = host.run(f"unshare --net sh -c 'nft -f /srv/redis/network.nft && {LISTING}'", check=True).stdout
    return host.run(LISTING).stdout == expected


def is_limited(redis: Instance) -> bool:
    """Say whether the table in the container is that of its file."""
    expected = redis.host.run(f"unshare --net sh -c 'nft -f /srv/redis/clients.nft && {LISTING}'", check=True).stdout
    return redis.host.run(f"{inside(redis)} {LISTING}").stdout == expected


def health(host: Host) -> dict[str, tuple[str, str]]:
    """Return what health observes, by check, with its verdict."""
    checks = json.loads(host.run("redisctl health --json").stdout)["checks"]
    return {check["name"]: (check["verdict"], check["observed"]) for check in checks}


@contextmanager
def counting(host: Host, chains: str) -> Iterator[Callable[[], dict[str, int]]]:
    """Load chains with one counter each.

    Yields a function that returns their packets by chain.
    """
    table = "inet lifecycle_counters"

    def count() -> dict[str, int]:
        entries = json.loads(host.run(f"nft --json list table {table}", check=True).stdout)["nftables"]
        rules = [entry["rule"] for entry in entries if "rule" in entry]
        return {rule["chain"]: rule["expr"][-1]["counter"]["packets"] for rule in rules}

    host.run("nft -f -", input=f"table {table} {{ {chains} }}", check=True)
    try:
        yield count
    finally:
        host.run(f"nft delete table {table}", check=True)


@contextmanager
def docker_rules_removed(host: Host, harm: str) -> Iterator[None]:
    """Do harm to Docker's rules, and put the rules and the watch back at the end."""
    host.run("iptables-save >/run/lifecycle-rules", check=True)
    try:
        host.run(harm, check=True)
        yield
    finally:
        host.run(f"iptables-restore </run/lifecycle-rules; systemctl start {WATCH}", check=True)


# Sends TCP packets in Ethernet frames, which no socket would send: from and to any address.
FRAMES = """
import ipaddress, socket, struct, sys
device, mac, target, source = sys.argv[1:5]
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind((device, 0x0800))
SYN, FIN, ACK = 2, 1, 16
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
def send(source, flags, sequence=1, acknowledged=0, port=40000):
    addresses = ipaddress.ip_address(source).packed + socket.inet_aton(target)
    tcp = struct.pack("!HHIIBBHHH", port, 6379, sequence, acknowledged, 0x50, flags, 1024, 0, 0)
    tcp = tcp[:16] + struct.pack("!H", checksum(addresses + struct.pack("!HH", 6, len(tcp)) + tcp)) + tcp[18:]
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0, 64, 6, 0) + addresses
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    raw.send(bytes.fromhex(mac.replace(":", "")) + raw.getsockname()[4] + b"\\x08\\x00" + head + tcp)
"""


# Docker redirects the name server 127.0.0.11 of a host that is a container by rules in the host's namespace.
_SAVED = "/run/lifecycle-resolver"
_SAVE = f"iptables-save --table nat | grep -E '^[*]|^COMMIT|DOCKER_(OUTPUT|POSTROUTING)' >{_SAVED}"
RESTORE_RESOLVER = f"iptables --table nat --list DOCKER_OUTPUT >/dev/null 2>&1 || iptables-restore --noflush <{_SAVED}"


@contextmanager
def rules_restored(host: Host) -> Iterator[None]:
    """Put back at the end the rules that this host and its Docker need.

    Restarts Docker if its rules are gone.
    """
    host.run(_SAVE, check=True)
    try:
        yield
    finally:
        # systemd limits how often a unit may be restarted.
        docker = "systemctl reset-failed docker.service; systemctl restart docker.service"
        host.run(
            f"{RESTORE_RESOLVER}; iptables --table nat --list DOCKER >/dev/null 2>&1 || {{ {docker}; }}", check=True
        )
