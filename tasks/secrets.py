"""Secrets: passwords and command names, as files that uid 999 alone can read."""

from pyinfra.api import deploy

from redoubt import host_files
from redoubt.instance import Instance
from redoubt.operations.files import files


@deploy("Secrets")
def secrets(instance: Instance) -> None:
    """Put the secrets on the host. Their contents appear in no log and no diff."""
    files(name="Write the secrets", entries=host_files.secret_files(instance.settings, instance.secrets))
