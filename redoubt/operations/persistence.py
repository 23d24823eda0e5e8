"""The operation that switches between AOF and RDB snapshots."""

from typing import Literal

from pyinfra.api import operation

from redisctl.schema import PersistenceRequest
from redoubt.operations.common import Commands, RedisctlCall, note_change
from redoubt.settings.model import Settings


@operation()
def switch_persistence(settings: Settings, target: Literal["aof", "rdb"]) -> Commands:
    """Have the running Redis write its data as AOF or RDB snapshot.

    ``target`` is what the new configuration reads. With the AOF on Redis reads nothing else: it would start empty from
    an RDB snapshot alone.
    """
    note_change("turns the AOF on and waits until all data is in it" if target == "aof" else "turns RDB snapshots on")
    request = PersistenceRequest(target, settings.redis_save, settings.stop_grace_period)
    yield RedisctlCall(settings, "deploy", "persistence", request=request)
