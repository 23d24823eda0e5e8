"""Checks of the data on a host before a deploy changes anything.

They are pure comparisons of the host's facts with the settings: no deploy may start Redis without its data, with data
that it cannot read, or with settings that lose some of it.
"""

import re
from typing import Literal

from redisctl import paths
from redoubt.facts.host import HostFacts
from redoubt.settings.model import Settings
from redoubt.settings.sections.instance import DataLoss
from redoubt.settings.types import TITLES
from redoubt.sizes import MIB, format_size

# The newest RDB format that both Redis and Valkey read: that of Redis 7.2.
LAST_COMMON_FORMAT = 11


def check_missing_data(settings: Settings, facts: HostFacts) -> list[str]:
    """Return a blocker if the instance was deployed here and its data is gone.

    Redis would start empty.
    """
    state, live = facts.instance, f"{settings.root}/{paths.LIVE}"
    # Of the units, a first deploy writes this one after the directories and before Redis starts.
    was_deployed = state.deployed_settings or facts.has_unit(paths.unit(settings.redis_name, paths.NETWORK_SERVICE))
    is_elsewhere = state.data_dir not in ("", live)
    if not state.stored.missing or not was_deployed or is_elsewhere or state.unmounted:
        return []
    if state.config:
        return [
            f"{live} is missing, and {settings.redis_name} still runs: its data may be in memory alone, and a restart "
            "would lose it. Put the directory back, or save the data with a client; then run 'docker stop "
            f"{settings.redis_name}' on the host and deploy again"
        ]
    if "empty" in settings.redis_allow_data_loss:
        return []
    return [
        f"{live} is missing, and {settings.redis_name} was deployed on this host: it would start empty. If "
        f"{settings.root} or {settings.root}/{paths.DATA} is a disk of its own, mount it and deploy again. If the data "
        "is lost or was moved away, deploy with --data redis_allow_data_loss=empty and restore a backup "
        "('redisctl restore latest --yes')"
    ]


def persistence_switch(settings: Settings, facts: HostFacts) -> Literal["", "aof", "rdb"]:
    """Return the form in which the running Redis must write its data.

    Redis then starts with that data next time. Empty if Redis need not change anything or does not answer.

    With the AOF on, Redis reads nothing but the AOF, even if it is old or empty. With the AOF off it reads the RDB
    snapshot, which a stop writes only if there are save points. An AOF may select databases that have no keys left:
    with fewer databases Redis would run the commands that follow in another one, so it writes the AOF again.
    """
    present = facts.persistence
    if present.appendonly is None:
        return ""
    if settings.redis_appendonly:
        return "aof" if present.appendonly == "no" or _drops_databases(settings, facts) else ""
    return "rdb" if present.appendonly == "yes" or present.save == "" else ""


def _drops_databases(settings: Settings, facts: HostFacts) -> bool:
    return (facts.persistence.databases or 0) > settings.redis_databases


def check_databases(settings: Settings, facts: HostFacts) -> list[str]:
    """Return a blocker if Redis would no longer have a database that has keys.

    It would not start with an RDB snapshot that has them, and an AOF would write them into another database.
    """
    present, databases = facts.persistence, settings.redis_databases
    if present.used_databases > databases:
        return [
            f"redis_databases = {databases}, but db{present.used_databases - 1} of {settings.redis_name} has keys: "
            "move (MOVE) or delete (FLUSHDB) them first"
        ]
    deployed = facts.instance.deployed_settings.get("redis_databases", databases)
    is_stored = present.rdb or present.aof
    if present.databases is None and is_stored and isinstance(deployed, int) and deployed > databases:
        return [
            f"redis_databases = {databases}, and {settings.redis_name} does not answer whether its databases above "
            f"that have keys: deploy with redis_databases = {deployed} first"
        ]
    return []


def check_persistence(settings: Settings, facts: HostFacts) -> list[str]:
    """Return a blocker if Redis would start without its data.

    This is about a Redis that does not answer, because it cannot switch its persistence.
    """
    present = facts.persistence
    if present.appendonly is not None:
        return []
    live = f"{settings.root}/{paths.LIVE}"
    if settings.redis_appendonly and present.rdb and (not present.aof or present.configured == "no"):
        return [
            f"{settings.redis_name} does not answer, and with redis_appendonly = True it would start without the data "
            f"in {live}/dump.rdb: deploy with redis_appendonly = False first, then with True"
        ]
    if not settings.redis_appendonly and present.aof and present.configured == "yes":
        return [
            f"{settings.redis_name} does not answer, and with redis_appendonly = False it would start without the data "
            f"in {live}/appendonlydir: deploy with redis_appendonly = True first, then with False"
        ]
    return []


def check_data_loss(settings: Settings, facts: HostFacts) -> list[str]:
    """Return a blocker for each change that may lose data.

    Changes that the settings allow are left out.
    """
    losses: list[tuple[DataLoss, str]] = []
    present, policy = facts.persistence, settings.redis_maxmemory_policy
    # A full Redis uses a little more than its limit. Only a lower limit evicts.
    is_lowered = present.maxmemory == 0 or (present.maxmemory or 0) > settings.redis_maxmemory
    if present.used_memory is not None and is_lowered and present.used_memory > settings.redis_maxmemory:
        effect = "refuse every write" if policy == "noeviction" else f"evict keys by {policy} until they fit"
        losses.append(
            (
                "eviction",
                f"redis_maxmemory = {format_size(settings.redis_maxmemory)}, but {settings.redis_name} uses "
                f"{present.used_memory / MIB:.1f} MiB: it would {effect}",
            )
        )
    before = facts.instance.deployed_settings.get("redis_maxmemory_policy", policy)
    if _evicts(policy) > _evicts(before):
        which = "any key, also queues and jobs" if _evicts(policy) == 2 else "keys with a TTL"
        losses.append(
            (
                "policy",
                f"redis_maxmemory_policy = {policy!r} evicts {which}; {settings.redis_name} runs with {before!r}",
            )
        )
    if facts.instance.deployed_settings.get("redis_appendonly") and not settings.redis_appendonly:
        losses.append(
            (
                "persistence",
                f"redis_appendonly = False: {settings.redis_name} would only write RDB snapshots (redis_save = "
                f"{settings.redis_save!r}), and a crash loses all changes since the last one",
            )
        )
    return [
        f"{reason}. To allow it: --data redis_allow_data_loss={loss}"
        for loss, reason in losses
        if loss not in settings.redis_allow_data_loss
    ]


def _evicts(policy: str) -> int:
    """Return what a policy may evict.

    0 is nothing, 1 is keys with a TTL, 2 is every key.
    """
    return {"noeviction": 0, "volatile": 1, "allkeys": 2}[policy.partition("-")[0]]


def check_format(settings: Settings, facts: HostFacts) -> list[str]:
    """Return a blocker if this engine cannot read the data that the other one wrote.

    Valkey began as Redis 7.2, with format 11, and refuses formats 12 to 79. From 9.0 on it writes formats of its own,
    which no Redis reads (src/rdb.h of both).
    """
    for rdb_format in sorted(facts.persistence.formats):
        number = int(re.sub(r"\D", "", rdb_format) or 0)
        if settings.redis_engine == "valkey" and rdb_format.startswith("REDIS") and number > LAST_COMMON_FORMAT:
            writer = "Redis 7.4 or newer"
        elif settings.redis_engine == "redis" and rdb_format.startswith("VALKEY"):
            writer = "Valkey 9.0 or newer"
        else:
            continue
        return [
            f"redis_engine = {settings.redis_engine!r}, but {writer} wrote the data in {settings.root}/{paths.LIVE} "
            f"({rdb_format}), and {TITLES[settings.redis_engine]} does not read it: deploy a second instance "
            "(redis_name, redis_port) for the applications to fill, or move the data away"
        ]
    return []
