"""Owner: the user and the group that Redis and its files belong to."""

from pyinfra.api import deploy

from redoubt.instance import Instance
from redoubt.operations.owner import change_owner


@deploy("Owner")
def owner(instance: Instance) -> None:
    """Give the files to another user if redis_uid or redis_gid changed.

    This runs before any file is written: what a deploy writes belongs to the new user, whom the running Redis is not.
    """
    change_owner(name="Give the files to the user of Redis", settings=instance.settings)
