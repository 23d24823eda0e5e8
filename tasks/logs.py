"""Logs: rotation of Redis's log file by the host's logrotate."""

from pyinfra.api import deploy

from redoubt import operations, render
from redoubt.instance import Instance


@deploy("Logs")
def logs(instance: Instance) -> None:
    """Install logrotate where it is missing, and tell it about the log file."""
    if not instance.facts.has_logrotate:
        operations.packages(name="Install logrotate", names=["logrotate"])
    operations.tree(name="Rotate the log file", entries=[render.logrotate_file(instance.settings)])
