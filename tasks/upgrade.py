"""Upgrade: another version starts only after a backup that it has read.

If it does not become healthy, redisctl rolls back to the previous version (redisctl/deploy/upgrade.py).
"""

from pyinfra import host, logger
from pyinfra.api import deploy

from redisctl import paths
from redoubt.instance import Instance
from redoubt.operations.upgrade import check_upgrade


@deploy("Upgrade")
def upgrade(instance: Instance) -> None:
    """Take a backup and have the new version load it, if another version runs.

    This runs before any file of the running Redis is replaced: if the new version does not read the data, nothing has
    changed.
    """
    facts, settings = instance.facts, instance.settings
    if facts.runs_configured_image(settings.redis_name):
        return
    if facts.running_build is None:
        if facts.persistence.rdb or facts.persistence.aof:
            logger.warning(
                f"{host.print_prefix}no Redis serves the data in {settings.root}/{paths.LIVE}: there is no backup of "
                f"it before {settings.redis_image} starts with it"
            )
        return
    check_upgrade(
        name="Back the data up, and have the new version read it", settings=settings, running=facts.running_build
    )
