"""The image of an archive made by ``docker save``, told apart without loading it.

An engine names an image by the digest of its configuration or of its manifest, depending on its image store.
What both agree on is inside the configuration: when the image was made, and the digests of its layers.
"""

import json
import tarfile
from dataclasses import dataclass
from typing import Any


class ArchiveError(ValueError):
    """An archive that cannot be used; the message names the file and why."""


@dataclass(frozen=True)
class Identity:
    """What makes an image the same image in every engine."""

    created: str
    layers: tuple[str, ...]


def in_archive(path: str, reference: str) -> Identity:
    """The identity of an image in an archive of ``docker save``. Raises ArchiveError."""
    try:
        with tarfile.open(path) as archive:
            manifest = json.load(_member(archive, "manifest.json"))
            for image in manifest:
                if any(_same(reference, tag) for tag in image["RepoTags"] or ()):
                    return of_config(json.load(_member(archive, image["Config"])))
    except (OSError, KeyError, ValueError, tarfile.TarError) as error:
        raise ArchiveError(f"{path}: not an archive of docker save ({error})") from error
    tags = ", ".join(tag for image in manifest for tag in image["RepoTags"] or ()) or "none"
    raise ArchiveError(f"{path}: holds no image {reference}; it holds: {tags}. Set redis_image to one of them")


def of_config(config: dict[str, Any]) -> Identity:
    """The identity in an image configuration as archives hold it."""
    return Identity(config["created"], tuple(config["rootfs"]["diff_ids"]))


def of_inspect(inspected: dict[str, Any]) -> Identity:
    """The identity in what ``docker image inspect`` prints."""
    return Identity(inspected["Created"], tuple(inspected["RootFS"]["Layers"]))


def _member(archive: tarfile.TarFile, name: str) -> Any:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is not a file")
    return file


def _same(reference: str, tag: str) -> bool:
    return _short(reference) == _short(tag)


def _short(reference: str) -> str:
    """A reference without the parts that Docker adds by itself."""
    return reference.removeprefix("docker.io/").removeprefix("library/")
