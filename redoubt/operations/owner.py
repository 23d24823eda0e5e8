"""The operation that gives Redis and its files another user."""

from pyinfra import host
from pyinfra.api import operation

from redisctl.schema import OwnerRequest
from redoubt.operations.common import Commands, RedisctlCall, instance_state, note_change
from redoubt.settings.model import Settings


@operation()
def change_owner(settings: Settings) -> Commands:
    """Give Redis and all its files the user and the group of the settings.

    Stops Redis for as long as that takes. Fails if Redis does not start as the new user; then it runs as the old one,
    with its files. An interruption is finished at boot or by systemd.
    """
    owner = instance_state(settings).owner
    if owner in ("", settings.owner):
        host.noop("up to date")
        return
    note_change(
        f"the files of {settings.redis_name} belong to {owner}, and redis_uid and redis_gid are {settings.owner}: "
        "Redis stops until they have changed"
    )
    yield RedisctlCall(settings, "deploy", "change-owner", request=OwnerRequest(owner, settings.owner))
