"""Directories: config, data, backups, logs and secrets below the root, owned 999:999 by number."""

from pyinfra.api import deploy

from redoubt import host_files
from redoubt.instance import Instance
from redoubt.operations.files import files


@deploy("Directories")
def directories(instance: Instance) -> None:
    """Make the instance's directories, and mend their owners and modes."""
    files(name="Make the directories", entries=host_files.directories(instance.settings))
