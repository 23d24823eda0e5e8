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
    """What Docker reports of an image; empty if the host has no such image or no Docker."""

    @staticmethod
    def default() -> dict[str, Any]:
        return {}

    def command(self, reference: str) -> str:
        return pinned(f"docker image inspect {shlex.quote(reference)} 2>/dev/null; true")

    def process(self, output: list[str]) -> dict[str, Any]:
        images = json.loads("".join(output))
        return images[0] if images else {}


class ImageBuild(FactBase[Build | None]):
    """The server in an image on the host, by its labels and by its own answer; None if it does not answer."""

    def command(self, reference: str) -> str:
        return script("image-version.sh", IMAGE=reference, OWNER=f"{REDIS_UID}:{REDIS_GID}")

    def process(self, output: list[str]) -> Build | None:
        config, *answer = output
        if not config:
            # Docker prints an empty line for an image that it does not have.
            return None
        return image_config.build_that_runs(json.loads(config), "\n".join(answer))
