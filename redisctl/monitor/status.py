"""Everything that health and stats report on, collected once. Judges nothing."""

import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from redisctl.backup.attempt import Attempt
from redisctl.core import network_filter, server_changes
from redisctl.core.answers import parse_info
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.core.keyspace import keyspace
from redisctl.core.resp import RespError, RespRefusal
from redisctl.core.untrusted_files import disk_usage
from redisctl.monitor.unexpected import Unexpected, find


@dataclass(frozen=True)
class DiskStatus:
    """Files on disk other than the live data.

    Sizes are in bytes, times in seconds since the epoch. ``max_age`` is in seconds. ``deployed`` is the time of the
    first deploy. ``attempt`` is what the last backup recorded. ``verified`` is the time of the newest good backup,
    ``count`` the number of backups, ``backup_size`` the size of the newest one. ``backups_free`` is None if backups are
    on the disk of the data.

    ``lock_holder`` names who holds the lock and ``lock_verb`` what that does. ``previous`` are the names of previous
    data. ``upgrading`` says that an upgrade still keeps the previous version's data. ``aof_ignored`` says that Redis
    started empty next to an AOF that its manifest does not name. ``start_log`` are the log lines of the last start,
    ``truncations`` the times at which Redis removed an incomplete end of the AOF. ``unexpected_files`` are files below
    the root that Redis does not write, in directories in which it can. ``log_limit`` and ``data_limit`` are the sizes
    above which the log and the live data are larger than the settings explain, 0 if unknown. ``unknown`` explains what
    could not be read, by check.
    """

    scheduled: bool = False
    max_age: float = 26 * 3600.0
    deployed: float = 0.0
    attempt: Attempt | None = None
    lock_holder: str = ""
    lock_verb: str = ""
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
    aof_ignored: bool = False
    start_log: tuple[str, ...] = ()
    truncations: tuple[float, ...] = ()
    unexpected_files: tuple[str, ...] = ()
    unexpected_size: int = 0
    log_size: int = 0
    log_limit: int = 0
    data_limit: int = 0
    unknown: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkStatus:
    """What protects and publishes the port.

    ``differences`` says how the host's nftables table differs from its file, ``limit_differences`` how that in the
    container does. ``refused`` are the packets that each limit has refused since it was loaded. ``watched`` says that
    the watch loads both tables again, ``published`` that the container publishes a port, ``translated`` that Docker's
    rules for published ports exist.
    """

    differences: tuple[str, ...] = ()
    limit_differences: tuple[str, ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)
    watched: bool = True
    published: bool = True
    translated: bool = True


@dataclass(frozen=True)
class Status:
    """An instance at one moment. Sizes are in bytes, times in seconds.

    ``info`` is INFO of all sections, ``config`` is CONFIG GET *. If Redis does not answer, both are empty and
    ``unreachable_reason`` says why. ``round_trip`` is the time of a PING. ``certificate_ends`` is None without TLS.
    ``unexpected`` is what the files do not explain in the server, ``undone`` what was undone since the start.
    ``disk_free`` and ``data_size`` are None if the data directory cannot be read. ``disk`` is filled only by
    ``disk_status.add_disk_status``, ``network`` only by ``add_network_status``.
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
    unexpected: Unexpected = field(default_factory=Unexpected)
    undone: tuple[str, ...] = ()
    disk_free: int | None = None
    data_size: int | None = None
    certificate_ends: float | None = None
    disk: DiskStatus = field(default_factory=DiskStatus)
    network: NetworkStatus = field(default_factory=NetworkStatus)

    @property
    def keyspace(self) -> dict[str, dict[str, int]]:
        """Keys and keys with a TTL by database."""
        return keyspace(self.info)


def collect(instance: Instance) -> Status:
    """Inspect the container, Redis and the data directory.

    Raises Failure if Docker does not answer.
    """
    container = instance.container
    state = container.get("State", {})
    values: dict[str, Any] = {
        "at": time.time(),
        "container_status": state.get("Status", "missing"),
        "health": state.get("Health", {}).get("Status", ""),
        "restarts": container.get("RestartCount", 0),
        "killed_for_memory": state.get("OOMKilled", False),
        "certificate_ends": _certificate_ends(instance.root / "config/tls.conf"),
        **_disk(instance.live),
    }
    if not state.get("Pid"):
        return Status(**values, unreachable_reason=f"the container is {values['container_status']}")
    try:
        answers = _ask(instance)
    except (RespError, Failure) as error:
        return Status(**values, unreachable_reason=str(error))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        # A Redis that was taken over may answer anything.
        return Status(**values, unreachable_reason="the answers of Redis cannot be read")
    return Status(**values, **answers)


def add_network_status(instance: Instance, status: Status) -> Status:
    """Return the status with what protects and publishes the port.

    Raises Failure if a program hangs.
    """
    bindings = instance.container.get("HostConfig", {}).get("PortBindings") or {}
    pid = instance.container.get("State", {}).get("Pid", 0)
    network = NetworkStatus(
        differences=network_filter.differences(instance),
        limit_differences=network_filter.client_limit_differences(instance, pid),
        refused=network_filter.refused_packets(instance, pid),
        watched=network_filter.is_watched(instance),
        published=bool(bindings),
        translated=network_filter.docker_publishes(instance.container),
    )
    return replace(status, network=network)


def _ask(instance: Instance) -> dict[str, Any]:
    with instance.connect_quickly() as redis:
        start = time.perf_counter()
        # A Redis that failed to save refuses PING, but answers.
        with suppress(RespRefusal):
            redis.execute("PING")
        round_trip = time.perf_counter() - start
        info = parse_info(redis.execute("INFO", "all"))
        config = instance.execute_renamed(redis, "CONFIG", "GET", "*")
        values = dict(zip(config[::2], config[1::2], strict=True))
        unexpected = Unexpected(unknown="Redis loads its data")
        if not info.get("loading"):
            unexpected = find(instance, redis)
        return {
            "round_trip": round_trip,
            "info": info,
            "config": values,
            "unexpected": unexpected,
            "undone": server_changes.undone(instance),
            "slow_commands": int(redis.execute("SLOWLOG", "LEN")),
        }


def _certificate_ends(conf: Path) -> float | None:
    try:
        match = re.search(r"^# expires (\d+)$", conf.read_text(), re.MULTILINE)
    except FileNotFoundError:
        return None
    return float(match[1]) if match else 0.0


def _disk(data: Path) -> dict[str, int]:
    try:
        file_system = os.statvfs(data)
        return {"disk_free": file_system.f_bavail * file_system.f_frsize, "data_size": disk_usage(data)}
    except (OSError, Failure):
        return {}
