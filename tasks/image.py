"""Image: have it on the host, and fit to run, before anything is stopped or started."""

from pyinfra.api import deploy

from redoubt.instance import Instance
from redoubt.operations.image import check_version, load_image, pull_image


@deploy("Image")
def image(instance: Instance) -> None:
    """Pull the image from its registry, or push an archive over SSH and load it.

    An image whose version nobody knew before is asked for it once it is there.
    """
    settings = instance.settings
    if settings.redis_image_source == "archive":
        load_image(
            name="Load the image from its archive",
            reference=settings.redis_image,
            archive=str(settings.redis_image_archive),
            upload_dir=settings.root,
        )
    else:
        pull_image(name="Pull the image", reference=settings.redis_image)
    if not instance.version_checked:
        check_version(name="Judge the version in the image", settings=settings)
