"""Backup: when the host takes backups by itself, and what brings their copies elsewhere."""

from pyinfra.api import deploy

from redoubt import operations
from redoubt import schedule as wanted
from redoubt.instance import Instance


@deploy("Backup")
def backup(instance: Instance) -> None:
    """Have systemd take backups by the calendar of the settings; nothing of it where that is empty."""
    settings = instance.settings
    if names := wanted.packages(settings):
        operations.packages(name="Install what copies backups elsewhere", names=names)
    if settings.redis_backup_calendar:
        operations.tree(name="Write when backups are taken", entries=wanted.files(settings))
        operations.schedule_started(name="Have backups taken", settings=settings)
    elif instance.facts.backup_scheduled:
        operations.schedule_removed(name="Have no backups taken", settings=settings)
