"""Service: the Compose project that runs Redis."""

from pyinfra.api import deploy

from redoubt.compose import compose_file
from redoubt.instance import Instance
from redoubt.operations.files import files
from redoubt.operations.service import apply_live_changes, compose_up


@deploy("Service")
def service(instance: Instance) -> None:
    """Change the running Redis where it can be, write the Compose project and bring it up, healthy.

    The running one first: it is told by the project that it was made from, and what is changed live makes no new one.
    """
    settings, acl, deployed = instance.settings, instance.acl, instance.facts.deployed
    apply_live_changes(name="Change the running Redis", settings=settings, acl=acl, deployed=deployed)
    compose = compose_file(settings, selinux=instance.facts.selinux)
    files(name="Write the Compose project", entries=[compose])
    compose_up(name="Start Redis and wait until it is healthy", settings=settings, acl=acl, deployed=deployed)
