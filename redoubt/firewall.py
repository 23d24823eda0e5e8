"""The firewall before the published port.

It is an nftables table of the instance, which a systemd unit loads.

Docker forwards packets for a published port past the chains of ufw and similar firewalls. This table sees a packet
before Docker translates its address and before docker-proxy, and neither Docker nor a firewall flushes it.
"""

import ipaddress
from collections.abc import Iterable

from redoubt.filesystem import AbsentPath, DesiredFile
from redoubt.host_files import template
from redoubt.settings.model import Settings


def table(settings: Settings) -> str:
    """Return the name of the table.

    nftables allows no hyphens in names without quotes.
    """
    return f"redoubt_{settings.redis_name.replace('-', '_')}"


def unit(settings: Settings) -> str:
    """Return the name of the unit that loads the table at boot, before Docker starts."""
    return f"{settings.redis_name}-network.service"


def is_filtered(settings: Settings) -> bool:
    """Say whether the settings restrict who may connect to the published port."""
    return bool(settings.redis_bind and settings.redis_allow_from)


def files(settings: Settings) -> list[DesiredFile | AbsentPath]:
    """Return the table and its unit; their removal if nothing is restricted."""
    rules, service = f"{settings.root}/network.nft", f"/etc/systemd/system/{unit(settings)}"
    if not is_filtered(settings):
        return [AbsentPath(rules), AbsentPath(service)]
    text = template(
        "network.nft.j2", s=settings, table=table(settings), refused=list(refused(settings.redis_allow_from))
    )
    loader = template("network.service.j2", s=settings, table=table(settings))
    return [
        DesiredFile(rules, text, mode=0o600, uid=0, gid=0),
        DesiredFile(service, loader, mode=0o644, uid=0, gid=0),
    ]


def refused(allowed: Iterable[str]) -> Iterable[str]:
    """Yield nftables expressions that match the refused sources.

    There is one for each address family that has refused sources.
    """
    networks = [ipaddress.ip_network(network) for network in allowed]
    # Older versions of nftables refuse overlapping networks.
    v4 = ipaddress.collapse_addresses(network for network in networks if isinstance(network, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(network for network in networks if isinstance(network, ipaddress.IPv6Network))
    for family, version, sources in (("ip", 4, [*map(str, v4)]), ("ip6", 6, [*map(str, v6)])):
        if sources in (["0.0.0.0/0"], ["::/0"]):
            continue
        yield f"{family} saddr != {{ {', '.join(sources)} }}" if sources else f"meta nfproto ipv{version}"
