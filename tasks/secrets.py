"""Secrets: passwords and command names in files for uid 999 and root only."""

from pyinfra.api import deploy

from redoubt import host_files
from redoubt.instance import Instance
from redoubt.operations.files import files


@deploy("Secrets")
def secrets(instance: Instance) -> None:
    """Write the secrets to the host. Their contents appear in no log and no diff."""
    files(name="Write the secrets", entries=host_files.secret_files(instance.settings, instance.secrets))
