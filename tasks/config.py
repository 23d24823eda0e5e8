"""Config: redis.conf, what was found out about the image, and the health check."""

from pyinfra.api import deploy

from redoubt import host_files
from redoubt.filesystem import DesiredFile
from redoubt.instance import Instance
from redoubt.operations.files import files
from redoubt.operations.image import detect_activedefrag


@deploy("Config")
def config(instance: Instance) -> None:
    """Write redis.conf and the health check; find out whether the image can defragment."""
    settings = instance.settings
    files(name="Write redis.conf and the health check", entries=host_files.config_files(settings))
    path = f"{settings.root}/config/activedefrag.conf"
    if settings.redis_activedefrag == "no":
        files(name="Leave active defragmentation off", entries=[DesiredFile(path, "activedefrag no\n")])
    else:
        detect_activedefrag(
            name="Find out whether the image can defragment",
            reference=settings.redis_image,
            path=path,
            required=settings.redis_activedefrag == "yes",
        )
