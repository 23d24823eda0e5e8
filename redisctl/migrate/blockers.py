"""What keeps an import from starting, and the copy from replacing the data."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from redis import Redis

from redisctl.core import scratch_redis
from redisctl.core.counting import count_contents
from redisctl.core.files import DISK_MARGIN
from redisctl.core.formatting import size
from redisctl.core.instance import Instance
from redisctl.migrate.replica import Progress
from redisctl.migrate.source import PREFIX, SourceFacts, SourceServer


@dataclass(frozen=True)
class TargetFacts:
    """What an import needs to know of this instance and its host.

    Sizes are in bytes.

    ``keys`` are the live ones; 0 if the import may replace them.
    """

    run_id: str
    keys: int
    memory: int
    maxmemory: int
    databases: int
    free_memory: int
    free_import: int
    free_data: int
    one_disk: bool


def target_facts(instance: Instance, *, overwrite: bool) -> TargetFacts:
    with instance.connect(decode_responses=False) as redis:
        info: dict[str, Any] = redis.info("all")
        keys = 0 if overwrite else count_keys(redis)
    disk, data_disk = (os.statvfs(path) for path in (instance.root, instance.data))
    return TargetFacts(
        run_id=str(info.get("run_id", "")),
        keys=keys,
        memory=int(info["used_memory"]),
        maxmemory=int(instance.config_value("maxmemory", "0")),
        databases=int(instance.config_value("databases", "16")),
        free_memory=scratch_redis.free_memory(),
        free_import=disk.f_bavail * disk.f_frsize,
        free_data=data_disk.f_bavail * data_disk.f_frsize,
        one_disk=instance.root.stat().st_dev == instance.data.stat().st_dev,
    )


def count_keys(redis: Redis) -> int:
    """Count the live keys in all databases.

    Leaves out temporary ones of the health check.
    """
    contents = count_contents(redis, {PREFIX: PREFIX.encode()})
    return contents.keys - contents.kinds[PREFIX]


def blockers(own: TargetFacts, other: SourceFacts, source: SourceServer, *, overwrite: bool) -> list[str]:
    """Return the blockers of an import, each with a remedy."""
    problems = []
    if other.run_id and other.run_id == own.run_id:
        return [f"{source.name} is this instance itself"]
    if other.is_cluster:
        problems.append(
            f"{source.name} is part of a cluster and has only some of its keys: import does not support that"
        )
    highest = max((int(name[2:]) for name in other.databases), default=0)
    if highest >= own.databases:
        problems.append(
            f"{source.name} has keys in db{highest}, but this instance has {own.databases} databases: set "
            f"redis_databases = {highest + 1} and deploy"
        )
    if own.maxmemory and other.memory > own.maxmemory:
        problems.append(
            f"its data takes {size(other.memory)} of memory, but redis_maxmemory is {size(own.maxmemory)}, so Redis "
            "would evict keys: raise it and deploy"
        )
    space = (other.memory + DISK_MARGIN) * (2 if own.one_disk else 1)
    free = min(own.free_import, own.free_data)
    if free < space:
        problems.append(f"the disk has {size(free)} free, but the import needs up to {size(space)}: free some space")
    if own.keys and not overwrite:
        problems.append(
            f"this instance has {own.keys} keys already, which the import would replace: --overwrite allows that; "
            "redisctl restore --undo brings them back"
        )
    return problems


def describe_shortage(own: TargetFacts, other: SourceFacts) -> str:
    """Say that the host may have too little memory; empty if it has enough.

    That is a guess, so it keeps no import from starting.
    """
    # The copy, and the growth of this instance to the same size.
    needed = scratch_redis.memory_needed(other.memory) + max(0, other.memory - own.memory)
    if needed <= own.free_memory:
        return ""
    return (
        f"the copy and this instance may need {size(needed)} more memory, and the host has {size(own.free_memory)}. If "
        "that is not enough, the kernel kills the copy and no other process: add memory for the time of the import, or "
        "bring the data as a file (redisctl restore FILE)"
    )


def switch_blockers(
    instance: Instance, copy: Progress, libraries: Collection[str], *, overwrite: bool, with_functions: bool
) -> list[str]:
    """Return what keeps the data of the copy from replacing this instance's.

    ``libraries`` are those of functions in the copy.
    """
    own = target_facts(instance, overwrite=overwrite)
    problems = []
    if own.maxmemory and copy.memory > own.maxmemory:
        problems.append(
            f"the copy takes {size(copy.memory)}, but redis_maxmemory is {size(own.maxmemory)}: raise it and deploy"
        )
    highest = max((int(name[2:]) for name in copy.databases), default=0)
    if highest >= own.databases:
        problems.append(f"there are keys in db{highest}: set redis_databases = {highest + 1} and deploy")
    if libraries and not with_functions:
        problems.append(function_blocker(libraries))
    if own.keys:
        problems.append(f"this instance has {own.keys} keys now, which would be replaced: --overwrite allows that")
    return problems


def function_blocker(libraries: Collection[str]) -> str:
    """Return the blocker of functions without an acceptance."""
    return (
        f"there are functions of the libraries {', '.join(sorted(libraries))}, and functions are code: "
        "--with-functions imports them, FUNCTION DELETE removes them from the other Redis"
    )
