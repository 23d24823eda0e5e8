"""Who reaches the published port from outside: a table of nftables of the instance's own, and the unit that loads it.

Docker forwards what comes to a published port past the chains in which ufw and its like have their rules. This table
looks at a packet before Docker translates its address, and before the engine's own proxy, in a place that neither the
engine nor a firewall clears.
"""

import ipaddress
from collections.abc import Iterable

from redoubt.filesystem import AbsentPath, DesiredFile
from redoubt.host_files import template
from redoubt.settings.model import Settings


def table(settings: Settings) -> str:
    """The name of the table. nftables knows no hyphens in names without quotes."""
    return f"redoubt_{settings.redis_name.replace('-', '_')}"


def unit(settings: Settings) -> str:
    """The name of the unit that loads the table at boot, before the engine starts."""
    return f"{settings.redis_name}-network.service"


def is_filtered(settings: Settings) -> bool:
    """Whether somebody outside is kept from the published port."""
    return bool(settings.redis_bind and settings.redis_allow_from)


def files(settings: Settings) -> list[DesiredFile | AbsentPath]:
    """The table and its unit; none of them where nobody is kept out."""
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
    """What nftables says of the sources that may not come, a rule for each family of addresses."""
    networks = [ipaddress.ip_network(network) for network in allowed]
    # One that lies in another would be a conflict to older versions of nftables.
    v4 = ipaddress.collapse_addresses(one for one in networks if isinstance(one, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(one for one in networks if isinstance(one, ipaddress.IPv6Network))
    for family, version, own in (("ip", 4, [str(one) for one in v4]), ("ip6", 6, [str(one) for one in v6])):
        if own in (["0.0.0.0/0"], ["::/0"]):
            continue
        yield f"{family} saddr != {{ {', '.join(own)} }}" if own else f"meta nfproto ipv{version}"
