"""Config: redis.conf, the health check and active defragmentation."""

from pyinfra.api import deploy

from redoubt import host_files
from redoubt.instance import Instance
from redoubt.operations.files import files
from redoubt.operations.image import probe_activedefrag


@deploy("Config")
def config(instance: Instance) -> None:
    """Write redis.conf and the health check.

    Also find out whether the image can defragment memory.
    """
    settings = instance.settings
    files(name="Write redis.conf and the health check", entries=host_files.config_files(settings))
    if settings.redis_activedefrag == "no":
        entries = [host_files.activedefrag_file(settings)]
        files(name="Turn active defragmentation off", entries=entries)
    else:
        probe_activedefrag(name="Find out whether the image can defragment memory", settings=settings)
