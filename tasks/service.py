"""Service: the Compose project that runs Redis."""

from pyinfra.api import deploy

from redoubt.compose import compose_file
from redoubt.instance import Instance
from redoubt.operations.files import files
from redoubt.operations.service import apply_live_changes, start_service


@deploy("Service")
def service(instance: Instance) -> None:
    """Apply live changes, write the Compose project and start it.

    The start waits until Redis is healthy. Live changes come first: the running container is identified by the Compose
    file it was created from, and live changes must not recreate it.
    """
    settings, acl, deployed = instance.settings, instance.acl, instance.facts.instance.deployed_settings
    apply_live_changes(name="Change the running Redis", settings=settings, acl=acl, deployed=deployed)
    compose = compose_file(settings, selinux=instance.facts.selinux)
    files(name="Write the Compose project", entries=[compose])
    start_service(name="Start Redis and wait until it is healthy", settings=settings, acl=acl, deployed=deployed)
