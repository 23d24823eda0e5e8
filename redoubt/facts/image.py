"""The fact about an image's server."""

import json

from pyinfra.api import FactBase

from redoubt import image_config
from redoubt.facts.host import Build
from redoubt.facts.script import script


class ImageBuild(FactBase[Build | None]):
    """The server in an image on the host; None if it does not answer.

    It is identified by the image's labels and by its own answer.
    """

    def command(self, reference: str, owner: str) -> str:
        return script("image-version.sh", IMAGE=reference, OWNER=owner)

    def process(self, output: list[str]) -> Build | None:
        config, *answer = output
        if not config:
            # Docker prints an empty line for an image that it does not have.
            return None
        return image_config.build_that_runs(json.loads(config), "\n".join(answer))
