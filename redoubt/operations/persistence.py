"""The operation that switches between AOF and RDB snapshots."""

from typing import Literal

from pyinfra.api import operation

from redisctl.schema import PersistenceRequest
from redoubt.operations.common import Commands, RedisctlCall, instance_state, note_change
from redoubt.settings.model import Settings


@operation()
def switch_persistence(settings: Settings, target: Literal["aof", "rdb"]) -> Commands:
    """Have the running Redis write its data as AOF or RDB snapshot.

    ``target`` is what the new configuration reads. With the AOF on Redis reads nothing else: it would start empty from
    an RDB snapshot alone. An AOF that is on is written again.
    """
    is_on = instance_state(settings).config.get("appendonly") == "yes"
    aof = "rewrites the AOF without databases that it loses" if is_on else "turns the AOF on, with all data"
    note_change(aof if target == "aof" else "turns RDB snapshots on")
    request = PersistenceRequest(target, settings.redis_save, settings.stop_grace_period)
    yield RedisctlCall(settings, "deploy", "persistence", request=request)
