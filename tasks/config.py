"""Config: redis.conf, what was found out about the image, and the health check."""

from pyinfra.api import deploy

from redoubt import operations, render
from redoubt.instance import Instance
from redoubt.tree import File


@deploy("Config")
def config(instance: Instance) -> None:
    """Write redis.conf and the health check; find out whether the image can defragment."""
    settings = instance.settings
    operations.tree(name="Write redis.conf and the health check", entries=render.config_files(settings))
    path = f"{settings.root}/config/activedefrag.conf"
    if settings.redis_activedefrag == "no":
        operations.tree(name="Leave active defragmentation off", entries=[File(path, "activedefrag no\n")])
    else:
        operations.activedefrag_detected(
            name="Find out whether the image can defragment",
            reference=settings.redis_image,
            path=path,
            required=settings.redis_activedefrag == "yes",
        )
