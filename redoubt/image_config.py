"""The identity of an image and its server, found without running it.

Docker identifies an image by the digest of its configuration or of its manifest, depending on its image store. The
configuration itself is the same in both: when the image was created, and the digests of its layers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redoubt.facts.host import Build
from redoubt.settings.types import Engine

# Names the package or the upstream release of the server: redis-server=5:8.0.2-3+deb13u3, or redis=8.0.2. The common
# org.opencontainers.image.version does not: a distribution patches releases under their old number, and an image that
# does not set the label inherits that of its base (24.04 for Ubuntu).
PACKAGE_LABEL = "redoubt.package"

# The official images. Their tags are upstream releases.
_OFFICIAL: Mapping[str, Engine] = {"redis": "redis", "valkey/valkey": "valkey"}
# Set by them, and inherited by images built on them.
_VERSION_VARIABLES: Mapping[str, Engine] = {"REDIS_VERSION": "redis", "VALKEY_VERSION": "valkey"}


@dataclass(frozen=True)
class Identity:
    """What identifies an image with every image store."""

    created: str
    layers: tuple[str, ...]


def of_config(config: dict[str, Any]) -> Identity:
    """Return the identity in an image configuration of an archive."""
    return Identity(config["created"], tuple(config["rootfs"]["diff_ids"]))


def of_inspect(inspected: dict[str, Any]) -> Identity:
    """Return the identity in the output of ``docker image inspect``."""
    return Identity(inspected["Created"], tuple(inspected["RootFS"]["Layers"]))


def build_in(config: Mapping[str, Any]) -> Build | None:
    """Return the server that an image's labels and variables name, else None.

    ``config`` is the part ``config`` of an image configuration, ``Config`` in the output of ``docker image inspect``.
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
    """Return the server that the tag of an official image names.

    None if the tag is not a full version. None for other images as well: their package may be patched under an old
    number.
    """
    name, tag = _split(reference)
    match = re.match(r"\d+\.\d+\.\d+(?=-|$)", tag)
    return Build(_OFFICIAL[name], match[0]) if match and name in _OFFICIAL else None


def build_that_runs(config: Mapping[str, Any], output: str) -> Build | None:
    """Return the server by the output of ``redis-server --version``.

    It has the package of the image's label if both agree. A label that was copied or inherited from another image names
    another version. None if the server does not answer.
    """
    match = re.search(r"\b(Redis|Valkey) server v=(\S+)", output)
    if match is None:
        return None
    running = Build("redis" if match[1] == "Redis" else "valkey", match[2])
    labelled = build_in(config)
    agree = labelled and (labelled.engine, labelled.numbers) == (running.engine, running.numbers)
    return labelled if agree else running


def engine_named(reference: str) -> Engine | None:
    """Return the engine of an official image with any tag; None for other images."""
    return _OFFICIAL.get(_split(reference)[0])


def _engine(name: str) -> Engine | None:
    return "redis" if name == "redis" else "valkey" if name == "valkey" else None


def _split(reference: str) -> tuple[str, str]:
    """Return name and tag, without the digest and the prefixes that Docker adds."""
    path, slash, last = short_reference(reference.partition("@")[0]).rpartition("/")
    name, _, tag = last.partition(":")
    return f"{path}{slash}{name}", tag


def short_reference(reference: str) -> str:
    """Return a reference without the prefixes that Docker adds."""
    return reference.removeprefix("docker.io/").removeprefix("library/")
