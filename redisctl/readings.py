"""Readings: everything that the verbs look at, asked once. No judgement here."""

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from redisctl.instance import Instance, in_words
from redisctl.replace import FORMER


@dataclass(frozen=True)
class Kept:
    """What lies on the disk beside the data that serves. Sizes are bytes, times are seconds.

    ``deployed`` is when the instance was; ``attempt`` is what the last backup noted; ``running`` is who holds the lock;
    ``verified`` is the moment of the newest good backup, None without one; ``count`` is how many are listed.
    ``backups_free`` is None where they are on the disk of the data. ``former`` are moments of data that was set aside;
    ``upgrading`` is whether that of the former version is, since the new one is not healthy yet.
    ``last_words`` are those of the last start, ``mended`` when Redis cut off a torn end of its log by itself.
    ``unknown`` is what could not be read, by check.
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
    former: tuple[str, ...] = ()
    former_size: int = 0
    interrupted: str = ""
    upgrading: bool = False
    log_problem: str = ""
    last_words: tuple[str, ...] = ()
    mended: tuple[float, ...] = ()
    unknown: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """One look at an instance. Sizes are bytes, times are seconds.

    ``info`` is INFO of all sections, ``config`` what CONFIG GET answers; both are empty, and ``silent`` says why, where
    Redis does not answer. ``round_trip`` is how long it took to. ``certificate_ends`` is None without TLS.
    ``data_size`` is without data that was set aside. ``kept`` is of ``keeping.with_files``, and only there is it read.
    """

    at: float
    status: str
    health: str = ""
    restarts: int = 0
    killed_for_memory: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    silent: str = ""
    round_trip: float = 0.0
    slow_commands: int = 0
    disk_free: int = 0
    data_size: int = 0
    certificate_ends: float | None = None
    kept: Kept = field(default_factory=Kept)

    @property
    def keyspace(self) -> dict[str, dict[str, int]]:
        """Keys, keys with a TTL and their mean by database."""
        return keyspace(self.info)


def keyspace(info: dict[str, Any]) -> dict[str, dict[str, int]]:
    """What INFO says of databases, by their names: ``db0``."""
    return {name: value for name, value in info.items() if re.fullmatch(r"db\d+", name)}


def read(instance: Instance) -> Reading:
    """Look at the container, at Redis and at the disk. Raises Failure where the engine does not answer."""
    container = instance.container
    state = container.get("State", {})
    seen: dict[str, Any] = {
        "at": time.time(),
        "status": state.get("Status", "missing"),
        "health": state.get("Health", {}).get("Status", ""),
        "restarts": container.get("RestartCount", 0),
        "killed_for_memory": state.get("OOMKilled", False),
        "certificate_ends": _certificate_ends(instance.root / "config/tls.conf"),
        **_disk(instance.root / "data"),
    }
    if not state.get("Pid"):
        return Reading(**seen, silent=f"the container is {seen['status']}")
    try:
        with instance.connect() as redis:
            redis.ping()  # what follows does not count the login
            start = time.perf_counter()
            redis.ping()
            seen["round_trip"] = time.perf_counter() - start
            seen["info"] = redis.info("all")
            answer = instance.call(redis, "CONFIG", "GET", "*")
            seen["config"] = dict(zip(answer[::2], answer[1::2], strict=True))
            seen["slow_commands"] = redis.slowlog_len()
    except RedisError as error:
        return Reading(**{**seen, "info": {}, "config": {}}, silent=in_words(error))
    return Reading(**seen)


def _certificate_ends(conf: Path) -> float | None:
    try:
        found = re.search(r"^# expires (\d+)$", conf.read_text(), re.MULTILINE)
    except FileNotFoundError:
        return None
    return float(found[1]) if found else 0.0


def _disk(data: Path) -> dict[str, int]:
    try:
        room = os.statvfs(data)
        files = [path.stat() for path in data.rglob("*") if path.parts[len(data.parts)] != FORMER]
    except OSError:
        return {}
    # What the disk holds, and not what the files claim.
    return {"disk_free": room.f_bavail * room.f_frsize, "data_size": sum(file.st_blocks * 512 for file in files)}
