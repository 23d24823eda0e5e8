"""redisctl: one file on the host that looks after the instance."""

from pyinfra import host
from pyinfra.api import deploy

from redoubt import operations, render
from redoubt.instance import Instance


@deploy("redisctl")
def redisctl(instance: Instance) -> None:
    """Install redisctl, and Python where the host has none."""
    if not instance.facts.has_python:
        operations.packages(name="Install Python", names=["python3"])
    operations.tree(name="Write redisctl", entries=render.redisctl_files(instance.settings))


@deploy("redisctl")
def redisctl_run(instance: Instance) -> None:
    """Run a verb of redisctl on the host and print what it says; a day-2 verb, in day2/. ``run`` is its line."""
    line = str(host.data.get("run") or "health")
    operations.redisctl_run(name=f"Run redisctl {line}", settings=instance.settings, line=line)
