"""Checks that instances on one host do not collide and fit into its memory.

They cover instances that are deployed and those that are not. Pure.
"""

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from redoubt.facts.host import Neighbour
from redoubt.settings.model import Settings
from redoubt.sizes import MIB, format_size

# Settings by which instances can collide.
_READS = frozenset(
    {"redis_name", "redis_root", "redis_port", "redis_tls_port", "redis_tls", "redis_bind", "redis_maxmemory"}
    | {"redis_container_memory", "redis_edge_subnet"}
)


@dataclass(frozen=True)
class Entry:
    """An instance of the inventory, and its host.

    ``machine`` is the host, ``memory`` its RAM in bytes, ``neighbours`` are other instances there. ``invalid`` names
    settings that have an error of their own. If one of them matters here, the instance is left out.
    """

    settings: Settings
    machine: str
    memory: int
    neighbours: tuple[Neighbour, ...]
    invalid: frozenset[str] = frozenset()


def overlap(desired: str, used: str) -> bool:
    """Say whether a socket on ``used`` prevents one on ``desired``.

    A listener on :: also uses IPv4.
    """
    ours, theirs = ipaddress.ip_address(desired), ipaddress.ip_address(used)
    if ours == theirs:
        return True
    if theirs.is_unspecified:
        return theirs.version == 6 or ours.version == 4
    return ours.is_unspecified and (ours.version == 6 or theirs.version == 4)


def problems(entries: Mapping[str, Entry]) -> dict[str, list[str]]:
    """Return the blockers between instances, by the host names of the inventory."""
    by_machine: defaultdict[str, dict[str, Entry]] = defaultdict(dict)
    for name, entry in entries.items():
        if not entry.invalid & _READS:
            by_machine[entry.machine][name] = entry
    blockers: dict[str, list[str]] = {name: [] for name in entries}
    for on_machine in by_machine.values():
        names = {entry.settings.redis_name for entry in on_machine.values()}
        for name, entry in on_machine.items():
            others = [(other_name, other.settings) for other_name, other in on_machine.items() if other_name != name]
            present = [neighbour for neighbour in entry.neighbours if neighbour.name not in names]
            blockers[name] += [
                *_conflicts_in_inventory(entry, others),
                *_conflicts_on_host(entry, present),
                *_memory_overcommit(entry, on_machine, present),
            ]
    return blockers


def _conflicts_in_inventory(entry: Entry, others: Iterable[tuple[str, Settings]]) -> Iterable[str]:
    settings = entry.settings
    for name, other in others:
        owner = f"{name} of this inventory, on the same machine,"
        if settings.redis_name == other.redis_name:
            yield f"redis_name = {settings.redis_name!r}: {owner} has the same name; give each its own"
            continue
        if _nested(settings.root, other.root):
            yield f"redis_root = {settings.root!r}: {owner} has {other.root!r}; give each its own directory"
        if settings.edge_subnet.overlaps(other.edge_subnet):
            yield (
                f"redis_edge_subnet = '{settings.edge_subnet}': {owner} has '{other.edge_subnet}'; give each its own "
                "network"
            )
        published = {(address, port.published) for address in other.redis_bind for port in other.ports}
        for address, port in _shared_ports(settings, published):
            yield f"{address}:{port}: {owner} publishes it, too; set another redis_port or redis_bind"


def _conflicts_on_host(entry: Entry, present: Iterable[Neighbour]) -> Iterable[str]:
    settings = entry.settings
    for neighbour in present:
        if _nested(settings.root, neighbour.root):
            yield f"redis_root = {settings.root!r}: {neighbour.name} on this host has {neighbour.root!r}; set another"
        subnet = neighbour.edge_subnet
        if subnet and settings.edge_subnet.overlaps(ipaddress.IPv4Network(subnet)):
            yield (
                f"redis_edge_subnet = '{settings.edge_subnet}' overlaps {subnet} of {neighbour.name} on this host, "
                "even if it does not run: set another"
            )
        for address, port in _shared_ports(settings, neighbour.published):
            yield (
                f"{address}:{port} belongs to {neighbour.name} on this host, even if it does not run: set another "
                "redis_port or redis_bind"
            )


def _memory_overcommit(entry: Entry, on_machine: Mapping[str, Entry], present: Iterable[Neighbour]) -> Iterable[str]:
    limits = {other.settings.redis_name: other.settings.memory_limit for other in on_machine.values()}
    # One without containers has no limit.
    limits |= {neighbour.name: neighbour.memory for neighbour in present if neighbour.memory}
    # host_checks reports an instance that is too big by itself.
    if len(limits) < 2 or sum(limits.values()) <= entry.memory or entry.settings.memory_limit > entry.memory:
        return
    details = ", ".join(f"{name} {format_size(size)}" for name, size in limits.items())
    yield (
        f"the instances on this host may use {format_size(sum(limits.values()))} together ({details}), but it has "
        f"{entry.memory // MIB} MiB of RAM: lower redis_maxmemory of one, or move it to another host"
    )


def _shared_ports(settings: Settings, published: Iterable[tuple[str, int]]) -> Iterable[tuple[str, int]]:
    used = sorted(published)
    for port in settings.ports:
        for address in settings.redis_bind:
            if any(port.published == number and overlap(address, other) for other, number in used):
                yield address, port.published


def _nested(first: str, second: str) -> bool:
    paths = PurePosixPath(first), PurePosixPath(second)
    return paths[0].is_relative_to(paths[1]) or paths[1].is_relative_to(paths[0])
