"""Lays data files out as the instance's configuration reads them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from redisctl import paths
from redisctl.core import aof_manifest
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE
from redisctl.core.formatting import printable
from redisctl.core.instance import Instance
from redisctl.core.untrusted_files import UntrustedDirectory

# Forms of data.
AOF, RDB = "aof", "rdb"


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
        _copy_in(instance, rdb, directory, instance.config_value("dbfilename", RDB_FILE))
        return
    base, manifest = aof_manifest.from_rdb()
    aof = _make_aof_dir(instance, directory)
    _copy_in(instance, rdb, directory, aof, base.name)
    _write_file(instance, directory, aof, _manifest_name(instance), text=manifest)


def stage_aof_parts(instance: Instance, aof: Path, parts: list[aof_manifest.Part], directory: Path) -> None:
    """Stage these parts of an AOF, even if its own manifest does not name them.

    Raises Failure.
    """
    target = _make_aof_dir(instance, directory)
    for part in parts:
        _copy_in(instance, aof / part.name, directory, target, part.name)
    write_manifest(instance, directory, parts)


def write_manifest(instance: Instance, directory: Path, parts: list[aof_manifest.Part]) -> None:
    """Write the manifest of a staged AOF: it names these parts. Raises Failure."""
    _write_file(instance, directory, _aof_name(instance), _manifest_name(instance), text=aof_manifest.to_text(parts))


def current_aof(instance: Instance) -> tuple[Path, Path]:
    """Return the directory of the instance's own AOF, and its manifest."""
    aof = instance.live / _aof_name(instance)
    return aof, aof / _manifest_name(instance)


def list_aof(instance: Instance) -> list[str]:
    """Return the names of the files of the instance's own AOF. Raises OSError."""
    return instance.live_files.list_names(_aof_name(instance))


def read_own_manifest(instance: Instance) -> str | None:
    """Return the manifest of the instance's own AOF, None without one.

    Raises OSError.
    """
    try:
        return aof_manifest.read_text(instance.live_files, _aof_name(instance), _manifest_name(instance))
    except FileNotFoundError:
        return None


def staged_aof(instance: Instance, directory: Path) -> Path:
    """Return the directory of a staged AOF."""
    return directory / _aof_name(instance)


def staged_rdb(instance: Instance, directory: Path) -> Path:
    """Return the path of a staged RDB snapshot.

    It is the base of an AOF, or a file of its own.
    """
    if aof_enabled(instance):
        return directory / _aof_name(instance) / aof_manifest.from_rdb()[0].name
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


def form(instance: Instance) -> str:
    """Return the form of the data that Redis reads when it starts: aof or rdb.

    Other data may lie next to it: an old AOF, or the RDB snapshot of a backup.
    """
    return AOF if aof_enabled(instance) else RDB


def previous_source(instance: Instance, directory: Path) -> tuple[str, Path]:
    """Return the form of previous data, and its file or directory.

    The name of the directory says what Redis read when it was the live data. Raises Failure if that is not there.
    """
    suffix = directory.name.rpartition("-")[2]
    kind = suffix if suffix in (AOF, RDB) else form(instance)
    present = _names(directory)
    # Before Redis has started with it, an AOF may be one file.
    aof = (_aof_name(instance), instance.config_value("appendfilename", aof_manifest.FILE))
    names = aof if kind == AOF else (instance.config_value("dbfilename", RDB_FILE),)
    name = next((name for name in names if name in present), "")
    if not name:
        raise Failure(
            f"{printable(str(directory))} has no {names[0]}: Redis had saved nothing there, and would start empty"
        )
    return kind, directory / name


def _names(directory: Path) -> list[str]:
    with _failures(directory):
        return UntrustedDirectory(directory).list_names()


def _aof_name(instance: Instance) -> str:
    return instance.config_value("appenddirname", aof_manifest.DIRECTORY)


def _manifest_name(instance: Instance) -> str:
    return f"{instance.config_value('appendfilename', aof_manifest.FILE)}.manifest"


def _make_aof_dir(instance: Instance, directory: Path) -> str:
    name = _aof_name(instance)
    with _failures(directory):
        instance.untrusted(directory).make_directory(name)
    return name


def _write_file(instance: Instance, directory: Path, *names: str, text: str) -> None:
    with _failures(directory):
        instance.untrusted(directory).write_file(*names, text=text)


def open_data(instance: Instance, path: Path) -> BinaryIO:
    """Open a data file of the instance or a file from elsewhere.

    Follows no link of Redis and waits for no FIFO. Raises OSError.
    """
    if path.is_relative_to(instance.live):
        return instance.live_files.open_file(*path.relative_to(instance.live).parts)
    return UntrustedDirectory(path.parent).open_file(path.name)


def _copy_in(instance: Instance, source: Path, directory: Path, *names: str) -> None:
    with _failures(directory), open_data(instance, source) as file:
        instance.untrusted(directory).copy_file(file, *names)


@contextmanager
def _failures(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failure(f"{printable(str(error.filename or directory))}: {error.strerror}") from None
