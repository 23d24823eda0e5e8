"""Secrets: passwords and command names, as files that uid 999 alone can read."""

from pyinfra.api import deploy

from redoubt import operations, render
from redoubt.instance import Instance


@deploy("Secrets")
def secrets(instance: Instance) -> None:
    """Put the secrets on the host. Their contents appear in no log and no diff."""
    operations.tree(name="Write the secrets", entries=render.secret_files(instance.settings, instance.secrets))
