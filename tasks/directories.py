"""Directories: config, data, backups, logs and secrets below the root, owned 999:999 by number."""

from pyinfra.api import deploy

from redoubt import operations, render
from redoubt.instance import Instance


@deploy("Directories")
def directories(instance: Instance) -> None:
    """Make the instance's directories, and mend their owners and modes."""
    operations.tree(name="Make the directories", entries=render.directories(instance.settings))
