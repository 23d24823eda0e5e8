"""Rollback: a running Redis's configuration, saved before it is replaced."""

from pyinfra.api import deploy

from redoubt.instance import Instance
from redoubt.operations.rollback import save_configuration


@deploy("Rollback")
def rollback(instance: Instance) -> None:
    """Save the present configuration, if the deploy restarts Redis.

    This runs before any file that Redis reads is replaced. If the deploy is interrupted, Docker never starts the
    running container with half of the new files, or with those of another version.
    """
    save_configuration(name="Save the configuration of the running Redis", settings=instance.settings, acl=instance.acl)
