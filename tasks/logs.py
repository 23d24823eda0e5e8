"""Logs: rotation of Redis's log file by the host's logrotate, every hour."""

from pyinfra.api import deploy

from redoubt import host_files
from redoubt.instance import Instance
from redoubt.operations.files import files
from redoubt.operations.packages import install_packages
from redoubt.operations.units import enable_timer


@deploy("Logs")
def logs(instance: Instance) -> None:
    """Install logrotate if it is missing, and have it rotate the log file.

    A Redis that was taken over fills the log faster than a rotation once a day removes it.
    """
    settings = instance.settings
    if not instance.facts.has_logrotate:
        install_packages(name="Install logrotate", names=["logrotate"])
    files(name="Write what rotates the log file", entries=host_files.log_rotation(settings))
    timer, service = host_files.log_units(settings)
    enable_timer(name="Rotate the log file every hour", settings=settings, timer=timer, service=service)
