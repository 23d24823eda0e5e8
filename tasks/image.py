"""Image: have it on the host and check its version.

This comes before anything is stopped or started.
"""

from pyinfra.api import deploy

from redoubt.instance import Instance
from redoubt.operations.image import check_version, load_image, pull_image


@deploy("Image")
def image(instance: Instance) -> None:
    """Pull the image from its registry, or push an archive over SSH and load it.

    An image whose name and archive do not show its version is run to ask for it.
    """
    settings = instance.settings
    if settings.redis_image_source == "archive":
        load_image(name="Load the image from its archive", settings=settings)
    else:
        pull_image(name="Pull the image", settings=settings)
    if not instance.version_checked:
        check_version(name="Check the version in the image", settings=settings)
