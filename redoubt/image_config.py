"""What an image is, told without running it: the one in an archive of ``docker save``, and which server is in it.

An engine names an image by the digest of its configuration or of its manifest, depending on its image store.
What both agree on is inside the configuration: when the image was made, and the digests of its layers.
"""

import json
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redoubt.facts.host import Build
from redoubt.settings.types import Engine

# Says which package, or which release of upstream's, the server was built from: redis-server=5:8.0.2-3+deb13u3, or
# redis=8.0.2. The common org.opencontainers.image.version says neither: a distribution's number is upstream's, patched
# or not, and an image that does not set it has that of its base (Ubuntu's is 24.04).
PACKAGE_LABEL = "redoubt.package"

# The official images, whose tags are releases of upstream's.
_OFFICIAL: Mapping[str, Engine] = {"redis": "redis", "valkey/valkey": "valkey"}
# What they and those built on them say of themselves.
_VERSION_VARIABLES: Mapping[str, Engine] = {"REDIS_VERSION": "redis", "VALKEY_VERSION": "valkey"}


class ArchiveError(ValueError):
    """An archive that cannot be used; the message names the file and why."""


@dataclass(frozen=True)
class Identity:
    """What makes an image the same image in every engine."""

    created: str
    layers: tuple[str, ...]


def in_archive(path: str, reference: str) -> Identity:
    """The identity of an image in an archive of ``docker save``. Raises ArchiveError."""
    return of_config(config_in_archive(path, reference))


def config_in_archive(path: str, reference: str) -> dict[str, Any]:
    """The configuration of an image in an archive of ``docker save``. Raises ArchiveError."""
    try:
        with tarfile.open(path) as archive:
            manifest = json.load(_member(archive, "manifest.json"))
            for image in manifest:
                if any(_same(reference, tag) for tag in image["RepoTags"] or ()):
                    config: dict[str, Any] = json.load(_member(archive, image["Config"]))
                    # What every image has; so others are found out here.
                    of_config(config)
                    return config
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


def build_in(config: Mapping[str, Any]) -> Build | None:
    """The server in an image by the labels and variables that the image was given; None when they do not tell.

    ``config`` is the part of that name of an image's configuration, ``Config`` in what ``docker image inspect`` prints.
    """
    name, _, version = (config.get("Labels") or {}).get(PACKAGE_LABEL, "").partition("=")
    engine = _engine(name.removesuffix("-server"))
    if engine and version:
        return Build(engine, version, package=name if name != engine else "")
    for variable in config.get("Env") or ():
        name, _, version = variable.partition("=")
        if name in _VERSION_VARIABLES and version:
            return Build(_VERSION_VARIABLES[name], version)
    return None


def build_named(reference: str) -> Build | None:
    """The server that the tag of an official image promises; None for others, and for a tag that is no whole version.

    A name of somebody's own promises nothing: the package in it may be patched under an old number.
    """
    name, tag = _split(reference)
    match = re.match(r"\d+\.\d+\.\d+(?=-|$)", tag)
    return Build(_OFFICIAL[name], match[0]) if match and name in _OFFICIAL else None


def build_that_runs(config: Mapping[str, Any], said: str) -> Build | None:
    """The server by its own word (``redis-server --version``), or as labelled where it does not say otherwise.

    A label that was copied or inherited from another image names another version. None when it says nothing.
    """
    match = re.search(r"\b(Redis|Valkey) server v=(\S+)", said)
    if match is None:
        return None
    own = Build("redis" if match[1] == "Redis" else "valkey", match[2])
    labelled = build_in(config)
    same = labelled and (labelled.engine, labelled.numbers) == (own.engine, own.numbers)
    return labelled if same else own


def engine_named(reference: str) -> Engine | None:
    """The engine of an official image, whatever its tag; None for others."""
    return _OFFICIAL.get(_split(reference)[0])


def _engine(name: str) -> Engine | None:
    return "redis" if name == "redis" else "valkey" if name == "valkey" else None


def _split(reference: str) -> tuple[str, str]:
    """Name and tag, without a digest and what Docker adds by itself."""
    path, slash, last = _short(reference.partition("@")[0]).rpartition("/")
    name, _, tag = last.partition(":")
    return f"{path}{slash}{name}", tag


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
