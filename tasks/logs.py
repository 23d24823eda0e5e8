"""Logs: rotation of Redis's log file by the host's logrotate."""

from pyinfra.api import deploy

from redoubt import host_files
from redoubt.instance import Instance
from redoubt.operations.files import files
from redoubt.operations.packages import install_packages


@deploy("Logs")
def logs(instance: Instance) -> None:
    """Install logrotate if it is missing, and configure it for the log file."""
    if not instance.facts.has_logrotate:
        install_packages(name="Install logrotate", names=["logrotate"])
    files(name="Rotate the log file", entries=[host_files.logrotate_file(instance.settings)])
