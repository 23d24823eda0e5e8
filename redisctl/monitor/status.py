"""Readings: everything that the verbs look at, asked once. No judgement here."""

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from redisctl.core.instance import Instance, error_text
from redisctl.core.keyspace import keyspace


@dataclass(frozen=True)
class DiskStatus:
    """What lies on the disk beside the data that serves. Sizes are bytes, times are seconds.

    ``deployed`` is when the instance was; ``attempt`` is what the last backup noted; ``running`` is who holds the lock;
    ``verified`` is the moment of the newest good backup, None without one; ``count`` is how many are listed.
    ``backups_free`` is None where they are on the disk of the data. ``previous`` are moments of data that was set
    aside; ``upgrading`` is whether that of the former version is, since the new one is not healthy yet. ``last_words``
    are those of the last start, ``truncations`` when Redis cut off a torn end of its log by itself. ``unknown`` is what
    could not be read, by check.
    """

    scheduled: bool = False
    max_age: float = 26 * 3600.0
    deployed: float = 0.0
    attempt: dict[str, Any] = field(default_factory=dict)
    running: str = ""
    verified: float | None = None
    count: int = 0
    bad: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    backup_size: int = 0
    backups_free: int | None = None
    previous: tuple[str, ...] = ()
    previous_size: int = 0
    interrupted: str = ""
    upgrading: bool = False
    aof_problem: str = ""
    last_words: tuple[str, ...] = ()
    truncations: tuple[float, ...] = ()
    unknown: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Status:
    """One look at an instance. Sizes are bytes, times are seconds.

    ``info`` is INFO of all sections, ``config`` what CONFIG GET answers; both are empty, and ``unreachable_reason``
    says why, where Redis does not answer. ``round_trip`` is how long it took to. ``certificate_ends`` is None without
    TLS. ``data_size`` is without data that was set aside. ``disk`` is of ``disk_status.add_disk_status``, and only
    there is it read.
    """

    at: float
    container_status: str
    health: str = ""
    restarts: int = 0
    killed_for_memory: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    unreachable_reason: str = ""
    round_trip: float = 0.0
    slow_commands: int = 0
    disk_free: int = 0
    data_size: int = 0
    certificate_ends: float | None = None
    disk: DiskStatus = field(default_factory=DiskStatus)

    @property
    def keyspace(self) -> dict[str, dict[str, int]]:
        """Keys, keys with a TTL and their mean by database."""
        return keyspace(self.info)


def collect(instance: Instance) -> Status:
    """Look at the container, at Redis and at the disk. Raises Failure where the engine does not answer."""
    container = instance.container
    state = container.get("State", {})
    seen: dict[str, Any] = {
        "at": time.time(),
        "container_status": state.get("Status", "missing"),
        "health": state.get("Health", {}).get("Status", ""),
        "restarts": container.get("RestartCount", 0),
        "killed_for_memory": state.get("OOMKilled", False),
        "certificate_ends": _certificate_ends(instance.root / "config/tls.conf"),
        **_disk(instance.root / "data"),
    }
    if not state.get("Pid"):
        return Status(**seen, unreachable_reason=f"the container is {seen['container_status']}")
    try:
        with instance.connect() as redis:
            redis.ping()  # what follows does not count the login
            start = time.perf_counter()
            redis.ping()
            seen["round_trip"] = time.perf_counter() - start
            seen["info"] = redis.info("all")
            answer = instance.execute_renamed(redis, "CONFIG", "GET", "*")
            seen["config"] = dict(zip(answer[::2], answer[1::2], strict=True))
            seen["slow_commands"] = redis.slowlog_len()
    except RedisError as error:
        return Status(**{**seen, "info": {}, "config": {}}, unreachable_reason=error_text(error))
    return Status(**seen)


def _certificate_ends(conf: Path) -> float | None:
    try:
        found = re.search(r"^# expires (\d+)$", conf.read_text(), re.MULTILINE)
    except FileNotFoundError:
        return None
    return float(found[1]) if found else 0.0


def _disk(data: Path) -> dict[str, int]:
    try:
        room = os.statvfs(data)
        files = [path.stat() for path in data.rglob("*")]
    except OSError:
        return {}
    # What the disk holds, and not what the files claim.
    return {"disk_free": room.f_bavail * room.f_frsize, "data_size": sum(file.st_blocks * 512 for file in files)}
