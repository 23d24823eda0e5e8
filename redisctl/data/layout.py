"""Data files laid out as the instance reads them."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redisctl.core import aof_manifest
from redisctl.core.aof_manifest import read_manifest
from redisctl.core.files import RDB_FILE, REDIS_GID, REDIS_UID, copy
from redisctl.core.instance import Failure, Instance
from redisctl.core.lock import STAGING

# -- Laying data out as the instance reads it


def config_value(instance: Instance, name: str, default: str) -> str:
    """A directive of redis.conf, as Redis will read it when it starts."""
    text = (instance.root / "config/redis.conf").read_text()
    found = re.findall(rf"^{name} (\S+)", text, re.MULTILINE)
    return found[-1].strip('"') if found else default


def aof_enabled(instance: Instance) -> bool:
    """Whether the instance keeps a log of writes: then it reads nothing else when it starts."""
    return config_value(instance, "appendonly", "no") == "yes"


@contextmanager
def staging_dir(instance: Instance) -> Iterator[Path]:
    """An empty directory for data that is to come, on the disk of the data; removed afterwards."""
    place = instance.data / STAGING
    shutil.rmtree(place, ignore_errors=True)
    make_directory(place)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def stage_rdb(instance: Instance, rdb: Path, place: Path) -> None:
    """Lay a snapshot out: with a log of writes as its base, else by itself.

    A log whose directory holds a snapshot alone starts empty, so the snapshot has to be its base.
    """
    if not aof_enabled(instance):
        _copy_in(rdb, place / config_value(instance, "dbfilename", RDB_FILE))
        return
    base, manifest = aof_manifest.from_rdb()
    log = _aof_dir(instance, place)
    make_directory(log)
    _copy_in(rdb, log / base.name)
    _write_file(log / _manifest_name(instance), manifest)


def stage_aof(instance: Instance, log: Path, place: Path) -> None:
    """Lay a log of writes out, for an instance that keeps one."""
    stage_aof_parts(instance, log, read_manifest(log), place)


def stage_aof_parts(instance: Instance, log: Path, parts: list[aof_manifest.Part], place: Path) -> None:
    """Lay out these parts of a log of writes, whatever its manifest says of them."""
    target = _aof_dir(instance, place)
    make_directory(target)
    for part in parts:
        _copy_in(log / part.name, target / part.name)
    write_manifest(instance, place, parts)


def write_manifest(instance: Instance, place: Path, parts: list[aof_manifest.Part]) -> None:
    """Have the manifest of a log that was laid out name these parts."""
    _write_file(_aof_dir(instance, place) / _manifest_name(instance), aof_manifest.to_text(parts))


def current_aof(instance: Instance) -> tuple[Path, Path]:
    """The directory of the instance's own log of writes, and its manifest."""
    log = _aof_dir(instance, instance.data)
    return log, log / _manifest_name(instance)


def staged_data(instance: Instance, place: Path) -> Path:
    """What was laid out, to be loaded aside: the snapshot, or the directory of the log."""
    return (
        _aof_dir(instance, place) if aof_enabled(instance) else place / config_value(instance, "dbfilename", RDB_FILE)
    )


def _aof_dir(instance: Instance, place: Path) -> Path:
    return place / config_value(instance, "appenddirname", aof_manifest.DIRECTORY)


def _manifest_name(instance: Instance) -> str:
    return f"{config_value(instance, 'appendfilename', 'appendonly.aof')}.manifest"


def make_directory(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, REDIS_UID, REDIS_GID)


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
