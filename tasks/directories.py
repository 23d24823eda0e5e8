"""Directories below the root: config, data, backups, logs and secrets.

Their owners are set by number.
"""

from pyinfra.api import deploy

from redoubt import host_files
from redoubt.instance import Instance
from redoubt.operations.files import files


@deploy("Directories")
def directories(instance: Instance) -> None:
    """Create the instance's directories, and repair their owners and modes."""
    files(name="Create the directories", entries=host_files.directories(instance.settings))
