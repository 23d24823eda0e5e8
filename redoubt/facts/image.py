"""The facts about images."""

import json
import shlex
from typing import Any

from pyinfra.api import FactBase

from redoubt import image_config
from redoubt.facts.host import Build
from redoubt.facts.script import pinned, script
from redoubt.settings.types import REDIS_GID, REDIS_UID


class Image(FactBase[dict[str, Any]]):
    """What the host's engine knows of an image; empty when it does not have it, or when there is no engine."""

    @staticmethod
    def default() -> dict[str, Any]:
        return {}

    def command(self, reference: str) -> str:
        return pinned(f"docker image inspect {shlex.quote(reference)} 2>/dev/null; true")

    def process(self, output: list[str]) -> dict[str, Any]:
        found = json.loads("".join(output))
        return found[0] if found else {}


class ImageBuild(FactBase[Build | None]):
    """The server in an image that the host has, by its labels and its own word; None when it does not answer."""

    def command(self, reference: str) -> str:
        return script("image-version.sh", IMAGE=reference, OWNER=f"{REDIS_UID}:{REDIS_GID}")

    def process(self, output: list[str]) -> Build | None:
        config, *said = output
        if not config:
            # What the engine prints for an image that it does not have.
            return None
        return image_config.build_that_runs(json.loads(config), "\n".join(said))
