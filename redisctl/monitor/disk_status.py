"""Disk state for the health check: backups, previous data, AOF and redis.log.

Of redis.log it reads only the end. Each part is read by itself, so that one that cannot be read does not hide the
others.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from redisctl.backup import catalog
from redisctl.backup.attempt import read_last_attempt
from redisctl.core import aof_manifest, journal, process
from redisctl.core.errors import Failure
from redisctl.core.instance import LOG_FILE, TIMEOUT, Instance, error_text
from redisctl.core.lock import holder
from redisctl.core.startup_errors import last_start_lines, truncations
from redisctl.core.untrusted_files import disk_usage
from redisctl.data import layout
from redisctl.data.layout import previous_data_dirs, upgrade_in_progress
from redisctl.monitor import redis_files
from redisctl.monitor.status import DiskStatus, Status

# Bytes of the end of redis.log that are read.
_LOG_TAIL = 1024**2
# Lines of the container's log.
_LINES = 40


def add_disk_status(instance: Instance, status: Status) -> Status:
    """Add the disk state to a status.

    Raises nothing: ``disk.unknown`` explains what could not be read.
    """
    values: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    parts: tuple[tuple[str, Callable[[Instance], dict[str, Any]]], ...] = (
        ("lock", _lock),
        ("backup", _backups),
        ("backup disk", _disk),
        ("previous data", _previous_data),
        ("aof files", _aof_files),
        ("redis log", _startup_log),
        ("files of redis", redis_files.read),
    )
    for name, load in parts:
        try:
            values |= load(instance)
        except (ArithmeticError, AttributeError, Failure, LookupError, OSError, TypeError, ValueError) as error:
            unknown[name] = error_text(error)
    if status.unreachable_reason:
        values["start_log"] = (*_container_log(instance), *values.get("start_log", ()))
    return replace(status, disk=DiskStatus(**values, unknown=unknown))


def _lock(instance: Instance) -> dict[str, Any]:
    current = holder(instance.name)
    return {"lock_holder": str(current), "lock_verb": current.verb or "deploy"} if current else {}


def _backups(instance: Instance) -> dict[str, Any]:
    backups = catalog.list_backups(instance.backups)
    return {
        "scheduled": instance.backup.scheduled,
        "max_age": instance.backup.max_age * 3600,
        "deployed": min((path.stat().st_mtime for path in (instance.root / "secrets").iterdir()), default=0.0),
        "attempt": read_last_attempt(instance),
        "upgrading": upgrade_in_progress(instance),
        "verified": next((backup.metadata.taken_at for backup in backups if backup.is_verified), None),
        "count": len(backups),
        "bad": tuple(backup.id for backup in backups if backup.is_bad),
        "unreadable": tuple(catalog.list_unreadable(instance.backups)),
        "backup_size": backups[0].metadata.size if backups else 0,
    }


def _disk(instance: Instance) -> dict[str, Any]:
    """Return the free space of the backups' disk, unless it is the disk of the data."""
    if instance.backups.stat().st_dev == instance.live.stat().st_dev:
        return {}
    file_system = os.statvfs(instance.backups)
    return {"backups_free": file_system.f_bavail * file_system.f_frsize}


def _previous_data(instance: Instance) -> dict[str, Any]:
    record = journal.read(instance)
    previous = previous_data_dirs(instance)
    return {
        "previous": tuple(path.name for path in previous),
        "previous_size": sum(map(disk_usage, previous)),
        "interrupted": f"{record.operation} was interrupted while {record.stage.value}" if record else "",
    }


def _aof_files(instance: Instance) -> dict[str, Any]:
    """Return what is wrong with the names of the AOF's files.

    These are files that the next start would not find, or would ignore.
    """
    if not layout.aof_enabled(instance):
        return {}
    for _ in range(3):
        text, names = layout.read_own_manifest(instance), layout.list_aof(instance)
        # Unless a rewrite ended in between.
        if text == layout.read_own_manifest(instance):
            break
    ignored = bool(aof_manifest.orphaned_parts(text, names))
    return {"aof_problem": aof_manifest.find_problem(text, names), "aof_ignored": ignored}


def _startup_log(instance: Instance) -> dict[str, Any]:
    """Return what redis.log reports of the last start and of truncations of the AOF."""
    try:
        lines = instance.log_files.read_end(LOG_FILE, 0, _LOG_TAIL).splitlines()
    except FileNotFoundError:
        lines = []
    return {"start_log": tuple(last_start_lines(lines)), "truncations": tuple(truncations(lines))}


def _container_log(instance: Instance) -> list[str]:
    """Return Docker's log of the last start.

    Redis writes there before it opens its own log.
    """
    since = instance.container.get("State", {}).get("StartedAt", "")
    if not since:
        return []
    command = ["docker", "logs", "--since", since, "--tail", str(_LINES), instance.name]
    try:
        result = process.run(command, timeout=TIMEOUT)
    except Failure:
        return []
    return (result.stdout + result.stderr).splitlines()
