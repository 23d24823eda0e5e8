"""Backup: the schedule of backups, and the packages that copy them off the host."""

from pyinfra.api import deploy

from redoubt import backup_units
from redoubt.instance import Instance
from redoubt.operations.backup import remove_backup_timer
from redoubt.operations.files import files
from redoubt.operations.packages import install_packages
from redoubt.operations.units import enable_timer


@deploy("Backup")
def backup(instance: Instance) -> None:
    """Install the systemd units that take backups, or remove them.

    They run by redis_backup_schedule. If it is empty, they are removed.
    """
    settings = instance.settings
    if names := backup_units.packages(settings):
        install_packages(name="Install what copies backups off the host", names=names)
    if settings.redis_backup_schedule:
        files(name="Write the units that take backups", entries=backup_units.files(settings))
        # A changed schedule that has an elapsed time since the last backup takes one soon.
        timer, job = backup_units.timer(settings), backup_units.job(settings)
        enable_timer(name="Schedule backups", settings=settings, timer=timer, service=job)
    elif instance.facts.has_unit(backup_units.timer(settings)):
        remove_backup_timer(name="Remove the backup schedule", settings=settings)
