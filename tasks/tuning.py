"""Tuning: sets up the host's kernel for Redis, now and at every boot."""

from pyinfra.api import deploy

from redoubt import kernel_tuning
from redoubt.instance import Instance
from redoubt.operations.files import files
from redoubt.operations.tuning import kernel_settings


@deploy("Tuning")
def tuning(instance: Instance) -> None:
    """Set the kernel up for Redis, unless the settings leave it alone."""
    if not instance.settings.redis_host_tuning:
        return
    files(name="Write the kernel's settings for the next boot", entries=kernel_tuning.files())
    kernel_settings(name="Set the kernel up for Redis", kernel=instance.facts.kernel)
