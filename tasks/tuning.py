"""Tuning: the host's kernel, set up for Redis now and at every boot."""

from pyinfra.api import deploy

from redoubt import operations
from redoubt import tuning as wanted
from redoubt.instance import Instance


@deploy("Tuning")
def tuning(instance: Instance) -> None:
    """Set the kernel up for Redis, unless the settings leave it alone."""
    if not instance.settings.redis_host_tuning:
        return
    operations.tree(name="Write what the kernel is set to at boot", entries=wanted.files())
    operations.kernel_tuned(name="Set the kernel up for Redis", kernel=instance.facts.kernel)
