"""Several instances on one host, of a deploy or there already: they must not meet, and must fit. Pure."""

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from redoubt.facts.host import Neighbour
from redoubt.settings.model import Settings
from redoubt.sizes import MIB, format_size

# Settings by which instances meet.
_READS = frozenset(
    {"redis_name", "redis_root", "redis_port", "redis_tls_port", "redis_tls", "redis_bind", "redis_maxmemory"}
    | {"redis_container_memory"}
)


@dataclass(frozen=True)
class Entry:
    """An instance of the inventory, with the host that it goes to: which machine, its RAM, and who is there.

    ``invalid`` names settings that are known to be bad by themselves: an instance with one that matters here is left
    out.
    """

    settings: Settings
    machine: str
    memory: int
    neighbours: tuple[Neighbour, ...]
    invalid: frozenset[str] = frozenset()


def overlap(wanted: str, taken: str) -> bool:
    """Whether a socket on ``taken`` keeps one from ``wanted``. A listener on :: takes IPv4 as well."""
    ours, theirs = ipaddress.ip_address(wanted), ipaddress.ip_address(taken)
    if ours == theirs:
        return True
    if theirs.is_unspecified:
        return theirs.version == 6 or ours.version == 4
    return ours.is_unspecified and (ours.version == 6 or theirs.version == 4)


def problems(entries: Mapping[str, Entry]) -> dict[str, list[str]]:
    """What stands against instances beside each other, by the names of the inventory's hosts, in words."""
    by_machine: defaultdict[str, dict[str, Entry]] = defaultdict(dict)
    for name, entry in entries.items():
        if not entry.invalid & _READS:
            by_machine[entry.machine][name] = entry
    found: dict[str, list[str]] = {name: [] for name in entries}
    for together in by_machine.values():
        names = {entry.settings.redis_name for entry in together.values()}
        for name, entry in together.items():
            others = [(other, one.settings) for other, one in together.items() if other != name]
            there = [one for one in entry.neighbours if one.name not in names]
            found[name] += [
                *_conflicts_in_inventory(entry, others),
                *_conflicts_on_host(entry, there),
                *_memory_overcommit(entry, together, there),
            ]
    return found


def _conflicts_in_inventory(entry: Entry, others: Iterable[tuple[str, Settings]]) -> Iterable[str]:
    mine = entry.settings
    for other, theirs in others:
        where = f"{other} of this inventory, on the same machine,"
        if mine.redis_name == theirs.redis_name:
            yield f"redis_name = {mine.redis_name!r}: {where} has it as well; give each a name of its own"
            continue
        if _nested(mine.root, theirs.root):
            yield f"redis_root = {mine.root!r}: {where} has {theirs.root!r}; give each a directory of its own"
        theirs_published = {(address, port.published) for address in theirs.redis_bind for port in theirs.ports}
        for address, port in _shared_ports(mine, theirs_published):
            yield f"{address}:{port}: {where} publishes it as well; choose another redis_port or redis_bind"


def _conflicts_on_host(entry: Entry, there: Iterable[Neighbour]) -> Iterable[str]:
    for one in there:
        if _nested(entry.settings.root, one.root):
            yield f"redis_root = {entry.settings.root!r}: {one.name} on this host has {one.root!r}; choose another"
        for address, port in _shared_ports(entry.settings, one.published):
            yield (
                f"{address}:{port} is {one.name}'s on this host, whether it runs or not: choose another redis_port or "
                "redis_bind"
            )


def _memory_overcommit(entry: Entry, together: Mapping[str, Entry], there: Iterable[Neighbour]) -> Iterable[str]:
    takes = {one.settings.redis_name: one.settings.memory_limit for one in together.values()}
    takes |= {one.name: one.memory for one in there}
    # One that is too big by itself is told as such.
    if len(takes) < 2 or sum(takes.values()) <= entry.memory or entry.settings.memory_limit > entry.memory:
        return
    each = ", ".join(f"{name} {format_size(size)}" for name, size in takes.items())
    yield (
        f"the instances on this host may use {format_size(sum(takes.values()))} together ({each}), and it has "
        f"{entry.memory // MIB} MiB of RAM: lower redis_maxmemory of one, or take it elsewhere"
    )


def _shared_ports(mine: Settings, theirs: Iterable[tuple[str, int]]) -> Iterable[tuple[str, int]]:
    taken = sorted(theirs)
    for port in mine.ports:
        for address in mine.redis_bind:
            if any(port.published == number and overlap(address, other) for other, number in taken):
                yield address, port.published


def _nested(one: str, other: str) -> bool:
    first, second = PurePosixPath(one), PurePosixPath(other)
    return first.is_relative_to(second) or second.is_relative_to(first)
