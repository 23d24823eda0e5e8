"""Decides what a removal removes, keeps and refuses. Pure."""

from pathlib import Path

from redisctl import paths
from redisctl.schema import InstanceState
from redoubt.settings.model import Settings

_STOPPED = ("exited", "created", "dead")


def running(present: InstanceState) -> list[str]:
    """Return the names of containers that are not stopped."""
    return [container.name for container in present.containers if container.status not in _STOPPED]


def sentence(settings: Settings) -> str:
    """Return the sentence that an operator must write to remove the data as well."""
    return f"delete the data of {settings.redis_name}"


def blockers(settings: Settings, present: InstanceState, confirmation: str) -> list[str]:
    """Return why the instance cannot be removed.

    ``confirmation`` is what the operator wrote about the data.
    """
    reasons = []
    if confirmation and confirmation != sentence(settings):
        reasons.append(
            f'redis_remove_data = {confirmation!r} removes nothing: use --data redis_remove_data="{sentence(settings)}"'
        )
    if present.interrupted:
        reasons.append(
            f"{present.interrupted.operation} was interrupted: run {paths.command(settings.redis_name)} recover on the "
            "host first"
        )
    return reasons


def removable(settings: Settings, present: InstanceState, *, data: bool) -> list[str]:
    """Return what a removal would remove; empty when nothing is left."""
    own = set(map(str, paths.removable(settings.redis_name, Path(settings.root), data=data)))
    return [
        *(f"container {container.name}" for container in present.containers),
        *(f"network {name}" for name in sorted(present.networks)),
        *(f"unit {name}" for name, unit in sorted(present.units.items()) if unit.active or unit.enabled),
        *(path for path in present.sizes if path in own),
    ]


def kept(settings: Settings, present: InstanceState) -> list[str]:
    """Return the directories of data that a removal keeps, with their sizes."""
    directories = [f"{settings.root}/{name}" for name in paths.KEPT]
    return [f"{path} ({present.sizes[path] / 1024:.1f} MiB)" for path in directories if path in present.sizes]
