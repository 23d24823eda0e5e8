"""Data files laid out as the instance reads them."""

import os
from pathlib import Path

from redisctl import paths
from redisctl.core import aof_manifest
from redisctl.core.aof_manifest import read_manifest
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE, REDIS_GID, REDIS_UID, copy, make_owned_directory
from redisctl.core.instance import Instance

# -- Laying data out as the instance reads it


def aof_enabled(instance: Instance) -> bool:
    """Whether the instance keeps a log of writes: then it reads nothing else when it starts."""
    return instance.config_value("appendonly", "no") == "yes"


def stage_rdb(instance: Instance, rdb: Path, place: Path) -> None:
    """Lay a snapshot out: with a log of writes as its base, else by itself.

    A log whose directory holds a snapshot alone starts empty, so the snapshot has to be its base.
    """
    if not aof_enabled(instance):
        _copy_in(rdb, place / instance.config_value("dbfilename", RDB_FILE))
        return
    base, manifest = aof_manifest.from_rdb()
    log = _aof_dir(instance, place)
    make_owned_directory(log)
    _copy_in(rdb, log / base.name)
    _write_file(log / _manifest_name(instance), manifest)


def stage_aof(instance: Instance, log: Path, place: Path) -> None:
    """Lay a log of writes out, for an instance that keeps one."""
    stage_aof_parts(instance, log, read_manifest(log), place)


def stage_aof_parts(instance: Instance, log: Path, parts: list[aof_manifest.Part], place: Path) -> None:
    """Lay out these parts of a log of writes, whatever its manifest says of them."""
    target = _aof_dir(instance, place)
    make_owned_directory(target)
    for part in parts:
        _copy_in(log / part.name, target / part.name)
    write_manifest(instance, place, parts)


def write_manifest(instance: Instance, place: Path, parts: list[aof_manifest.Part]) -> None:
    """Have the manifest of a log that was laid out name these parts."""
    _write_file(_aof_dir(instance, place) / _manifest_name(instance), aof_manifest.to_text(parts))


def current_aof(instance: Instance) -> tuple[Path, Path]:
    """The directory of the instance's own log of writes, and its manifest."""
    log = _aof_dir(instance, instance.live)
    return log, log / _manifest_name(instance)


def staged_data(instance: Instance, place: Path) -> Path:
    """What was laid out, to be loaded aside: the snapshot, or the directory of the log."""
    return _aof_dir(instance, place) if aof_enabled(instance) else place / instance.config_value("dbfilename", RDB_FILE)


def upgrade_in_progress(instance: Instance) -> bool:
    """Say whether a deploy keeps the previous version's data, because the new version is not healthy yet."""
    return (instance.root / paths.ROLLBACK_DATA).exists()


def previous_data_dirs(instance: Instance) -> list[Path]:
    """Return the directories of previous data, newest first."""
    try:
        return sorted((instance.root / paths.PREVIOUS).iterdir(), reverse=True)
    except FileNotFoundError:
        return []


def _aof_dir(instance: Instance, place: Path) -> Path:
    return place / instance.config_value("appenddirname", aof_manifest.DIRECTORY)


def _manifest_name(instance: Instance) -> str:
    return f"{instance.config_value('appendfilename', 'appendonly.aof')}.manifest"


def _write_file(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)
    os.chown(path, REDIS_UID, REDIS_GID)


def _copy_in(source: Path, target: Path) -> None:
    try:
        with source.open("rb") as file:
            copy(file, None, target)
    except OSError as error:
        raise Failure(f"{error.filename or target}: {error.strerror}") from None
    target.chmod(0o600)
    os.chown(target, REDIS_UID, REDIS_GID)
