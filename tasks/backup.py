"""Backup: when the host takes backups by itself, and what brings their copies elsewhere."""

from pyinfra.api import deploy

from redoubt import backup_units
from redoubt.instance import Instance
from redoubt.operations.backup import backup_timer, remove_backup_timer
from redoubt.operations.files import files
from redoubt.operations.packages import install_packages


@deploy("Backup")
def backup(instance: Instance) -> None:
    """Have systemd take backups by the calendar of the settings; nothing of it where that is empty."""
    settings = instance.settings
    if names := backup_units.packages(settings):
        install_packages(name="Install what copies backups elsewhere", names=names)
    if settings.redis_backup_schedule:
        files(name="Write when backups are taken", entries=backup_units.files(settings))
        backup_timer(name="Have backups taken", settings=settings)
    elif instance.facts.has_unit(backup_units.timer(settings)):
        remove_backup_timer(name="Have no backups taken", settings=settings)
