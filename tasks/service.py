"""Service: the Compose project that runs Redis."""

from pyinfra.api import deploy

from redoubt import operations, render
from redoubt.instance import Instance


@deploy("Service")
def service(instance: Instance) -> None:
    """Write the Compose project and bring it up, healthy."""
    compose = render.compose_file(instance.settings, selinux=instance.facts.selinux)
    operations.tree(name="Write the Compose project", entries=[compose])
    operations.compose_up(name="Start Redis and wait until it is healthy", settings=instance.settings, acl=instance.acl)
