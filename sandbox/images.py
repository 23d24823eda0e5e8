"""The archives of built images, for hosts without a registry.

Reads the records of image_build.py without Docker, because every run of the inventory imports this module.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sandbox.util import STATE, SandboxError

BUILT = STATE / "images"


@dataclass(frozen=True)
class Archive:
    """An image saved as a file."""

    reference: str
    """The image's name after docker load, such as redoubt/redis:8.0.2."""
    package: str
    """The Debian package in it, such as redis-server=5:8.0.2-3+deb13u3."""
    file: str
    """The name of the file in `BUILT`."""
    image_id: str

    @property
    def path(self) -> Path:
        """The path of the file."""
        return BUILT / self.file


def load(name: str) -> Archive:
    """Return the archive that was last built under this name."""
    record = BUILT / f"{name}.json"
    if not record.exists():
        raise SandboxError(f"the image `{name}` is not built yet: run `make deploy` or `python -m sandbox up`")
    return Archive(**json.loads(record.read_text()))


def save(name: str, archive: Archive) -> None:
    """Record an archive whose file is complete."""
    (BUILT / f"{name}.json").write_text(json.dumps(asdict(archive), indent=2) + "\n")


def redis_archive() -> Path:
    """Return the archive of the Redis image, for `docker load`."""
    return load("redis").path


def redis_reference() -> str:
    """Return the name of the Redis image after `docker load`."""
    return load("redis").reference
