"""The instance's nftables table: who reaches its containers, and what they reach.

Docker forwards packets for a published port past the chains of ufw and similar firewalls, and a neighbour with a route
to the container's network needs no published port. This table sees packets before Docker translates their addresses,
and again before they enter or leave one of the instance's bridges. A systemd unit loads it before Docker starts. A
timer loads it again if someone removes or changes it.
"""

import ipaddress
from collections.abc import Iterable

from redisctl import paths
from redoubt.filesystem import DesiredFile
from redoubt.host_files import template
from redoubt.settings.model import Settings

# Seconds between two looks of the watch. Docs promise that the table is back within 30 s.
WATCH_SECONDS = 15
# Docker creates a file here for each network namespace, before the container's first process starts.
NAMESPACES = "/run/docker/netns"

# Source address of clients on 127.0.0.1 in the container, which RFC 7600 reserves for such uses. docker-proxy has the
# address of the bridge, so the container can tell them from clients over IPv6.
LOCAL_CLIENTS = "192.0.0.8"
# Seconds for which the kernel knows a silent connection, at least.
_KNOWN_SECONDS = 600
# Without keepalive probes: the kernel's own default for established connections.
_KNOWN_SECONDS_WITHOUT_PROBES = 432000

_PROTOCOLS = {"ip": "ipv4", "ip6": "ipv6"}


def table(settings: Settings) -> str:
    """Return the name of the table."""
    return paths.filter_table(settings.redis_name)


def unit(settings: Settings) -> str:
    """Return the name of the unit that loads the table at boot, before Docker starts."""
    return paths.unit(settings.redis_name, paths.NETWORK_SERVICE)


def watch(settings: Settings) -> tuple[str, str, str]:
    """Return the timer, the path unit and the service of the watch."""
    return (
        paths.unit(settings.redis_name, paths.NETWORK_WATCH_TIMER),
        paths.unit(settings.redis_name, paths.NETWORK_WATCH_PATH),
        paths.unit(settings.redis_name, paths.NETWORK_WATCH_SERVICE),
    )


def files(settings: Settings) -> list[DesiredFile]:
    """Return the tables, their units, and the script of the watch."""
    timer, path, service = watch(settings)
    rules, limits, script = (
        f"{settings.root}/{name}" for name in (paths.NETWORK_FILTER, paths.CLIENT_LIMITS, paths.NETWORK_WATCH_SCRIPT)
    )
    values = {
        "s": settings,
        "table": table(settings),
        "unit": unit(settings),
        "rules": rules,
        "limits": limits,
        "limits_snapshot": paths.client_limits_snapshot(settings.redis_name),
        "script": script,
        "snapshot": paths.filter_snapshot(settings.redis_name),
        "watch": service,
        "namespaces": NAMESPACES,
        "loopback": loopback(settings),
        "local_clients": LOCAL_CLIENTS,
        "known_seconds": known_seconds(settings),
        "loaded": paths.unit(settings.redis_name, paths.LOADED_SERVICE),
        "start_record": paths.start_record(settings.redis_name),
        "journal": f"{settings.root}/{paths.JOURNAL}",
        "sysctl": f"/proc/sys/net/ipv4/conf/{settings.edge_bridge}/route_localnet",
        "events": " ".join(paths.NETWORK_EVENTS),
        "seconds": WATCH_SECONDS,
    }
    content = template(
        "network.nft.j2",
        refused=list(refused_packets(settings)),
        accepted=accepted_destinations(settings),
        **values,
    )
    units = {
        unit(settings): "network.service.j2",
        service: "network-watch.service.j2",
        timer: "network-watch.timer.j2",
        path: "network-watch.path.j2",
    }
    return [
        DesiredFile(rules, content, mode=0o600, uid=0, gid=0),
        DesiredFile(limits, template("clients.nft.j2", **values), mode=0o600, uid=0, gid=0),
        DesiredFile(script, template("network-watch.sh.j2", **values), mode=0o700, uid=0, gid=0),
        *(
            DesiredFile(f"{paths.SYSTEMD_UNITS}/{name}", template(source, **values), mode=0o644, uid=0, gid=0)
            for name, source in units.items()
        ),
    ]


def known_seconds(settings: Settings) -> int:
    """Return for how long the kernel in the container knows a silent connection.

    Probes keep a connection known that is open. One that ended unnoticed must not be counted for long.
    """
    if not settings.redis_tcp_keepalive:
        return _KNOWN_SECONDS_WITHOUT_PROBES
    return max(2 * settings.redis_tcp_keepalive, _KNOWN_SECONDS)


def loopback(settings: Settings) -> list[str]:
    """Return the published IPv4 loopback addresses.

    The kernel routes those of IPv6 to no interface.
    """
    if {"0.0.0.0", "::"} & set(settings.redis_bind):
        return ["127.0.0.1"]
    addresses = map(ipaddress.ip_address, settings.redis_bind)
    return [str(address) for address in addresses if address.version == 4 and address.is_loopback]


def accepted_destinations(settings: Settings) -> str | None:
    """Return an expression for the addresses that Docker may translate.

    None if it has no reason to translate any: docker-proxy accepts those to IPv6 addresses. Empty if all addresses of
    the host are published. A container that is published more widely than redis_bind gains nothing by it.
    """
    if {"0.0.0.0", "::"} & set(settings.redis_bind):
        return ""
    addresses = [address for address in settings.redis_bind if ":" not in address]
    return f"ct original ip daddr {_set(addresses)} " if addresses else None


def refused_packets(settings: Settings) -> Iterable[str]:
    """Yield nftables expressions that match refused packets to a published port.

    They match only the addresses of redis_bind: another instance may have the same port on another address.
    """
    if not settings.redis_allow_from:
        return
    ports = f"tcp dport {_set(str(port.published) for port in settings.ports)}"
    # A listener on :: also accepts IPv4.
    unspecified = {"ip": {"0.0.0.0", "::"}, "ip6": {"::"}}
    for family, sources in refused_sources(settings.redis_allow_from):
        bound = [address for address in settings.redis_bind if (":" in address) == (family == "ip6")]
        if unspecified[family] & set(settings.redis_bind):
            yield " ".join((f"meta nfproto {_PROTOCOLS[family]} fib daddr type local", ports, sources)).strip()
        elif bound:
            yield " ".join((f"{family} daddr {_set(bound)}", ports, sources)).strip()


def refused_sources(allowed: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Yield each address family that has refused sources, and an expression for them.

    The expression is empty if all sources of the family are refused.
    """
    networks = [ipaddress.ip_network(network) for network in allowed]
    # Older versions of nftables refuse overlapping networks.
    v4 = ipaddress.collapse_addresses(network for network in networks if isinstance(network, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(network for network in networks if isinstance(network, ipaddress.IPv6Network))
    for family, sources in (("ip", [*map(str, v4)]), ("ip6", [*map(str, v6)])):
        if sources in (["0.0.0.0/0"], ["::/0"]):
            continue
        yield family, f"{family} saddr != {_set(sources)}" if sources else ""


def _set(members: Iterable[str]) -> str:
    return f"{{ {', '.join(members)} }}"
