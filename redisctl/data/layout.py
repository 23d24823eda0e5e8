"""Lays data files out as the instance's configuration reads them."""

import os
from pathlib import Path
from typing import BinaryIO

from redisctl import paths
from redisctl.core import aof_manifest
from redisctl.core.aof_manifest import MAX_MANIFEST, read_manifest
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE, REDIS_GID, REDIS_UID, copy, list_inside, make_owned_directory, open_inside
from redisctl.core.instance import Instance


def aof_enabled(instance: Instance) -> bool:
    """Say whether the instance uses the AOF.

    If so, Redis reads nothing else when it starts.
    """
    return instance.config_value("appendonly", "no") == "yes"


def stage_rdb(instance: Instance, rdb: Path, directory: Path) -> None:
    """Stage an RDB snapshot: as the base of an AOF, or as dump.rdb if the AOF is off.

    With the AOF on, Redis ignores a dump.rdb without an AOF and starts empty. Raises Failure.
    """
    if not aof_enabled(instance):
        _copy_in(instance, rdb, directory / instance.config_value("dbfilename", RDB_FILE))
        return
    base, manifest = aof_manifest.from_rdb()
    aof = _aof_dir(instance, directory)
    make_owned_directory(aof)
    _copy_in(instance, rdb, aof / base.name)
    _write_file(aof / _manifest_name(instance), manifest)


def stage_aof(instance: Instance, aof: Path, directory: Path) -> None:
    """Stage an AOF, for an instance that uses the AOF. Raises Failure."""
    stage_aof_parts(instance, aof, read_manifest(aof), directory)


def stage_aof_parts(instance: Instance, aof: Path, parts: list[aof_manifest.Part], directory: Path) -> None:
    """Stage these parts of an AOF, even if its own manifest does not name them.

    Raises Failure.
    """
    target = _aof_dir(instance, directory)
    make_owned_directory(target)
    for part in parts:
        _copy_in(instance, aof / part.name, target / part.name)
    write_manifest(instance, directory, parts)


def write_manifest(instance: Instance, directory: Path, parts: list[aof_manifest.Part]) -> None:
    """Write the manifest of a staged AOF: it names these parts."""
    _write_file(_aof_dir(instance, directory) / _manifest_name(instance), aof_manifest.to_text(parts))


def current_aof(instance: Instance) -> tuple[Path, Path]:
    """Return the directory of the instance's own AOF, and its manifest."""
    aof = _aof_dir(instance, instance.live)
    return aof, aof / _manifest_name(instance)


def list_aof(instance: Instance) -> list[str]:
    """Return the names of the files of the instance's own AOF.

    Follows no link of Redis. Raises OSError.
    """
    return list_inside(instance.live, current_aof(instance)[0].name)


def read_own_manifest(instance: Instance) -> str | None:
    """Return the manifest of the instance's own AOF, None without one.

    Follows no link of Redis. Raises OSError.
    """
    try:
        with open_data(instance, current_aof(instance)[1]) as file:
            return file.read(MAX_MANIFEST).decode(errors="replace")
    except FileNotFoundError:
        return None


def staged_data(instance: Instance, directory: Path) -> Path:
    """Return the path of staged data for a test load.

    It is the directory of the AOF, or the RDB snapshot.
    """
    if aof_enabled(instance):
        return _aof_dir(instance, directory)
    return directory / instance.config_value("dbfilename", RDB_FILE)


def upgrade_in_progress(instance: Instance) -> bool:
    """Say whether a deploy keeps the previous version's data.

    It keeps that data until the new version is healthy.
    """
    return (instance.root / paths.ROLLBACK_DATA).exists()


def previous_data_dirs(instance: Instance) -> list[Path]:
    """Return the directories of previous data, newest first."""
    try:
        return sorted((instance.root / paths.PREVIOUS).iterdir(), reverse=True)
    except FileNotFoundError:
        return []


def _aof_dir(instance: Instance, directory: Path) -> Path:
    return directory / instance.config_value("appenddirname", aof_manifest.DIRECTORY)


def _manifest_name(instance: Instance) -> str:
    return f"{instance.config_value('appendfilename', 'appendonly.aof')}.manifest"


def _write_file(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)
    os.chown(path, REDIS_UID, REDIS_GID)


def open_data(instance: Instance, path: Path) -> BinaryIO:
    """Open a data file.

    Redis is not trusted: a link in its directory is not followed. Raises OSError.
    """
    if path.is_relative_to(instance.live):
        return open_inside(instance.live, *path.relative_to(instance.live).parts)
    return path.open("rb")


def _copy_in(instance: Instance, source: Path, target: Path) -> None:
    try:
        with open_data(instance, source) as file:
            copy(file, None, target)
    except OSError as error:
        raise Failure(f"{error.filename or target}: {error.strerror}") from None
    target.chmod(0o600)
    os.chown(target, REDIS_UID, REDIS_GID)
