"""Directories: the root, and config, data, backups, logs and secrets below it.

Their owners are set by number.
"""

from pyinfra.api import deploy

from redoubt import host_files
from redoubt.instance import Instance
from redoubt.operations.files import files


@deploy("Directories")
def root(instance: Instance) -> None:
    """Create the root directory with its marker, and repair their owners and modes."""
    files(name="Create the root directory", entries=host_files.root(instance.settings))


@deploy("Directories")
def directories(instance: Instance) -> None:
    """Create the directories below the root, and repair their owners and modes.

    They belong to Redis, so this comes after a change of its user.
    """
    files(name="Create the directories", entries=host_files.directories(instance.settings))
