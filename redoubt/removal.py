"""Stopping, starting and removing an instance: what there is of it on a host, and what is to be done. Pure."""

from redisctl.__main__ import kept_at
from redoubt import backup_units, compose, firewall, host_files, service_drift
from redoubt.facts.units import InstancePresence
from redoubt.settings.model import Settings

# Below the root. What Redis and its backups hold is removed only when that is asked for.
DATA = ("data", "backups")
_OWN = (
    *(
        "compose.yml",
        compose.COMPOSE_OVERRIDE,
        "network.nft",
        "ca.crt",
        ".incoming",
        "config",
        "logs",
        "secrets",
        "socket",
    ),
    *(
        host_files.DEPLOYED,
        "redisctl.json",
        "replace.json",
        "redisctl.lock",
        "redisctl",
        "upgrade",
        service_drift.RESUME_SCRIPT,
    ),
)


def units(settings: Settings) -> list[str]:
    """The units that an instance may have, what starts another first."""
    return [
        backup_units.timer(settings),
        backup_units.job(settings),
        firewall.unit(settings),
        service_drift.unit(settings),
    ]


def paths(settings: Settings, *, data: bool) -> list[str]:
    """All that is an instance's own on a host, without its data or with it; the command to look after it at the end."""
    return [
        *(f"/etc/systemd/system/{unit}" for unit in units(settings)),
        host_files.logrotate_file(settings).path,
        *(f"{settings.root}/{name}" for name in ((*DATA, *_OWN) if data else _OWN)),
        kept_at(settings.root),
        host_files.redisctl_path(settings),
    ]


def sentence(settings: Settings) -> str:
    """What an operator has to say for the data to be removed as well."""
    return f"delete the data of {settings.redis_name}"


def busy_message(settings: Settings, present: InstancePresence) -> str:
    """Which verb of redisctl works on the data, in words."""
    return f"redisctl {present.running_verb} works on the data of {settings.redis_name}: wait until it ends"


def refusals(settings: Settings, present: InstancePresence, asked: str) -> list[str]:
    """What stands against a removal, in words; ``asked`` is what was said of the data."""
    found = []
    if asked and asked != sentence(settings):
        found.append(
            f'redis_remove_data = {asked!r} removes nothing: say --data redis_remove_data="{sentence(settings)}"'
        )
    if present.running_verb:
        found.append(busy_message(settings, present))
    if present.interrupted_restore:
        found.append(
            f"{present.interrupted_restore} was broken off, and what is in {settings.root}/data is in part another's: "
            f"run {host_files.redisctl_path(settings)} recover on the host first"
        )
    if present.upgrading:
        found.append(
            f"an upgrade of {settings.redis_name} was not ended, and the data of the former version is aside: "
            "deploy first, which ends it"
        )
    return found


def left(settings: Settings, present: InstancePresence, *, data: bool) -> list[str]:
    """What of an instance is there to be removed, in words; empty when nothing is."""
    own = set(paths(settings, data=data))
    return [
        *(f"container {name}" for name, _ in present.containers),
        *(f"network {name}" for name in present.networks),
        *(f"unit {name}" for name in sorted(present.active | present.enabled)),
        *(path for path, _ in present.paths if path in own),
    ]


def kept(settings: Settings, present: InstancePresence) -> list[str]:
    """The directories of data that a removal leaves, with their sizes."""
    places = {f"{settings.root}/{name}" for name in DATA}
    return [f"{path} ({size / 1024:.1f} MiB)" for path, size in present.paths if path in places]
