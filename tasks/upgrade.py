"""Upgrade: another version of the server is started only with data that was backed up, and that it has read.

Where it is not healthy with it, the service task puts the former version back (files/way-back.sh).
"""

from pyinfra import host, logger
from pyinfra.api import deploy

from redoubt.instance import Instance
from redoubt.operations.packages import install_packages
from redoubt.operations.upgrade import check_upgrade


@deploy("Upgrade")
def upgrade(instance: Instance) -> None:
    """Take a backup and have the new version load it, where another one serves; mostly nothing.

    Before anything of the running one is replaced: where the new version does not read the data, nothing was changed.
    """
    facts = instance.facts
    if facts.runs_configured_image:
        return
    if facts.running_build is None:
        if facts.persistence.rdb or facts.persistence.aof:
            root = instance.settings.root
            logger.warning(
                f"{host.print_prefix}no Redis serves the data in {root}/data: it is not backed up before "
                f"{instance.settings.redis_image} starts with it"
            )
        return
    if not facts.has_python:
        install_packages(name="Install Python", names=["python3"])
    check_upgrade(
        name="Back the data up, and have the new version read it",
        settings=instance.settings,
        serves=facts.running_build,
    )
