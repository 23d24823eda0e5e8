"""Stopping, starting and removing an instance: what there is of it on a host, and what is to be done. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from redisctl.__main__ import kept_at
from redoubt import network, render, schedule, service
from redoubt.settings import Settings

# Below the root. What Redis and its backups hold is removed only when that is asked for.
DATA = ("data", "backups")
_OWN = (
    *("compose.yml", render.MADE_WITH, "network.nft", "ca.crt", ".incoming", "config", "logs", "secrets", "socket"),
    *(render.DEPLOYED, "redisctl.json", "replace.json", "redisctl.lock", "redisctl", "upgrade", service.START),
)


@dataclass(frozen=True)
class Present:
    """What there is of an instance. ``paths`` have their sizes in KiB, ``containers`` their state, such as exited.

    ``healthy`` are those whose health check passes. ``held`` is the verb of redisctl that works on the data, and
    ``replacing`` what was broken off while it put other data in its place; ``upgrading`` says that an upgrade was.
    """

    active: frozenset[str] = frozenset()
    enabled: frozenset[str] = frozenset()
    containers: tuple[tuple[str, str], ...] = ()
    healthy: frozenset[str] = frozenset()
    networks: tuple[str, ...] = ()
    paths: tuple[tuple[str, int], ...] = ()
    held: str = ""
    replacing: str = ""
    upgrading: bool = False

    @property
    def running(self) -> list[str]:
        """The names of containers that are not stopped."""
        return [name for name, status in self.containers if status not in ("exited", "created", "dead")]


def read(lines: Iterable[str]) -> Present:
    """What ``files/instance-state.sh`` prints."""
    words = [line.split() for line in lines]
    containers = [line[1:] for line in words if line[0] == "container"]
    rest = {line[0]: " ".join(line[1:]) for line in words if line[0] in ("held", "replacing")}
    return Present(
        active=frozenset(line[1] for line in words if line[0] == "active"),
        enabled=frozenset(line[1] for line in words if line[0] == "enabled"),
        containers=tuple((one[0].removeprefix("/"), one[1]) for one in containers),
        healthy=frozenset(one[0].removeprefix("/") for one in containers if one[2:] == ["healthy"]),
        networks=tuple(line[1] for line in words if line[0] == "network"),
        paths=tuple((line[2], int(line[1])) for line in words if line[0] == "path"),
        held=rest.get("held", ""),
        replacing=rest.get("replacing", ""),
        upgrading=["upgrading", "yes"] in words,
    )


def units(settings: Settings) -> list[str]:
    """The units that an instance may have, what starts another first."""
    return [schedule.timer(settings), schedule.job(settings), network.unit(settings), service.unit(settings)]


def paths(settings: Settings, *, data: bool) -> list[str]:
    """All that is an instance's own on a host, without its data or with it; the command to look after it at the end."""
    return [
        *(f"/etc/systemd/system/{unit}" for unit in units(settings)),
        render.logrotate_file(settings).path,
        *(f"{settings.root}/{name}" for name in ((*DATA, *_OWN) if data else _OWN)),
        kept_at(settings.root),
        render.redisctl_path(settings),
    ]


def sentence(settings: Settings) -> str:
    """What an operator has to say for the data to be removed as well."""
    return f"delete the data of {settings.redis_name}"


def held(settings: Settings, present: Present) -> str:
    """Which verb of redisctl works on the data, in words."""
    return f"redisctl {present.held} works on the data of {settings.redis_name}: wait until it ends"


def refusals(settings: Settings, present: Present, asked: str) -> list[str]:
    """What stands against a removal, in words; ``asked`` is what was said of the data."""
    found = []
    if asked and asked != sentence(settings):
        found.append(f'remove_data = {asked!r} removes nothing: say --data remove_data="{sentence(settings)}"')
    if present.held:
        found.append(held(settings, present))
    if present.replacing:
        found.append(
            f"{present.replacing} was broken off, and what is in {settings.root}/data is in part another's: run "
            f"{render.redisctl_path(settings)} restore --recover on the host first"
        )
    if present.upgrading:
        found.append(
            f"an upgrade of {settings.redis_name} was not ended, and the data of the former version is aside: "
            "deploy first, which ends it"
        )
    return found


def left(settings: Settings, present: Present, *, data: bool) -> list[str]:
    """What of an instance is there to be removed, in words; empty when nothing is."""
    own = set(paths(settings, data=data))
    return [
        *(f"container {name}" for name, _ in present.containers),
        *(f"network {name}" for name in present.networks),
        *(f"unit {name}" for name in sorted(present.active | present.enabled)),
        *(path for path, _ in present.paths if path in own),
    ]


def kept(settings: Settings, present: Present) -> list[str]:
    """The directories of data that a removal leaves, with their sizes."""
    places = {f"{settings.root}/{name}" for name in DATA}
    return [f"{path} ({size / 1024:.1f} MiB)" for path, size in present.paths if path in places]
