"""What was built: images saved as files, for hosts that reach no registry.

Reads what image_build.py wrote and asks no engine: an inventory imports this at every run.
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
    """What the image is called once the file is loaded, such as redoubt/redis:8.0.2."""
    package: str
    """The Debian package in it, such as redis-server=5:8.0.2-3+deb13u3."""
    file: str
    """The name of the file; `path` is where it lies."""
    image_id: str

    @property
    def path(self) -> Path:
        """The file that `docker load` reads."""
        return BUILT / self.file


def load(name: str) -> Archive:
    """The archive of this name as it was last built."""
    record = BUILT / f"{name}.json"
    if not record.exists():
        raise SandboxError(f"the image `{name}` is not built yet: `make deploy` or `python -m sandbox up` does it")
    return Archive(**json.loads(record.read_text()))


def save(name: str, archive: Archive) -> None:
    """Record an archive, once its file is complete."""
    (BUILT / f"{name}.json").write_text(json.dumps(asdict(archive), indent=2) + "\n")


def redis_archive() -> Path:
    """The Redis image, as a file that `docker load` reads."""
    return load("redis").path


def redis_reference() -> str:
    """The name that the Redis image has once it is loaded."""
    return load("redis").reference
