"""redisctl: one file on the host that looks after the instance."""

from pyinfra.api import deploy

from redoubt import operations, render
from redoubt.instance import Instance


@deploy("redisctl")
def redisctl(instance: Instance) -> None:
    """Install redisctl, and Python where the host has none."""
    if not instance.facts.has_python:
        operations.packages(name="Install Python", names=["python3"])
    operations.tree(name="Write redisctl", entries=render.redisctl_files(instance.settings))
