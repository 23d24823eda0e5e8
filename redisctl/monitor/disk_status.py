"""What lies on the disk beside the data that serves: backups, data that was set aside, the log's own files, words.

It is read for the health check alone, and each part by itself: one that cannot be read does not hide the others.
"""

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from redisctl.backup import catalog
from redisctl.backup.create import read_last_attempt
from redisctl.core import aof_manifest, journal
from redisctl.core.errors import Failure
from redisctl.core.instance import TIMEOUT, Instance
from redisctl.core.lock import holder
from redisctl.core.startup_errors import last_start_lines, truncations
from redisctl.data import layout
from redisctl.data.swap import previous_data_dirs, upgrade_in_progress
from redisctl.monitor.status import DiskStatus, Status

# Bytes of the end of redis.log that are read, and lines of what the engine caught.
LOG_END = 1024**2
LINES = 40


def add_disk_status(instance: Instance, reading: Status) -> Status:
    """A reading, with what lies on the disk. Nothing raises: what cannot be read is in ``kept.unknown``, with why."""
    told: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    looks: tuple[tuple[str, Callable[[Instance], dict[str, Any]]], ...] = (
        ("backup", _backups),
        ("backup disk", _disk),
        ("previous data", _previous_data),
        ("aof files", _aof_files),
        ("redis log", _startup_log),
    )
    for name, look in looks:
        try:
            told |= look(instance)
        except (OSError, ValueError, Failure) as error:
            unknown[name] = str(error)
    if reading.unreachable_reason:
        told["last_words"] = (*_container_log(instance), *told.get("last_words", ()))
    return replace(reading, disk=DiskStatus(**told, unknown=unknown))


def _backups(instance: Instance) -> dict[str, Any]:
    found = catalog.list_backups(instance.backups)
    return {
        "scheduled": instance.backup.scheduled,
        "max_age": instance.backup.max_age * 3600,
        "deployed": min((path.stat().st_mtime for path in (instance.root / "secrets").iterdir()), default=0.0),
        "attempt": read_last_attempt(instance),
        "running": str(holder(instance.name) or ""),
        "upgrading": upgrade_in_progress(instance),
        "verified": next((one.metadata.taken_at for one in found if one.is_verified), None),
        "count": len(found),
        "bad": tuple(one.id for one in found if one.is_bad),
        "unreadable": tuple(catalog.list_unreadable(instance.backups)),
        "backup_size": found[0].metadata.size if found else 0,
    }


def _disk(instance: Instance) -> dict[str, Any]:
    """The disk of backups, where it is another one than that of the data."""
    if instance.backups.stat().st_dev == instance.live.stat().st_dev:
        return {}
    room = os.statvfs(instance.backups)
    return {"backups_free": room.f_bavail * room.f_frsize}


def _previous_data(instance: Instance) -> dict[str, Any]:
    record = journal.read(instance)
    kept = previous_data_dirs(instance)
    files = [path.stat() for one in kept for path in one.rglob("*")]
    return {
        "previous": tuple(path.name for path in kept),
        # What the disk holds, and not what the files claim.
        "previous_size": sum(file.st_blocks * 512 for file in files),
        "interrupted": f"{record.operation} was interrupted while {record.stage.value}" if record else "",
        "running": str(holder(instance.name) or ""),
    }


def _aof_files(instance: Instance) -> dict[str, Any]:
    """What is wrong with the names of the log's files: what Redis will not find, or not know, when it starts."""
    if not layout.aof_enabled(instance):
        return {}
    log, manifest = layout.current_aof(instance)
    for _ in range(3):
        text, names = _read(manifest), _names(log)
        # A rewrite ended in between.
        if text == _read(manifest):
            break
    return {"aof_problem": aof_manifest.find_problem(text, names)}


def _read(manifest: Path) -> str | None:
    try:
        return manifest.read_text(errors="replace")
    except FileNotFoundError:
        return None


def _names(log: Path) -> list[str]:
    try:
        return [path.name for path in log.iterdir()]
    except FileNotFoundError:
        return []


def _startup_log(instance: Instance) -> dict[str, Any]:
    """What Redis's own log says of its last start, and of ends that it cut off by itself."""
    try:
        with (instance.root / "logs/redis.log").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_END))
            lines = file.read(LOG_END).decode(errors="backslashreplace").splitlines()
    except FileNotFoundError:
        return {}
    return {"last_words": tuple(last_start_lines(lines)), "truncations": tuple(truncations(lines))}


def _container_log(instance: Instance) -> list[str]:
    """What the engine caught of the last start: that is where Redis speaks before it opens its log."""
    since = instance.container.get("State", {}).get("StartedAt", "")
    if not since:
        return []
    command = ["docker", "logs", "--since", since, "--tail", str(LINES), instance.name]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return []
    return (done.stdout + done.stderr).decode(errors="backslashreplace").splitlines()
