"""Restores: finds the data, stages it, test loads it, and makes it the live data."""

import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from redis import Redis

from redisctl.backup import catalog, create
from redisctl.backup.catalog import BackupSet
from redisctl.backup.verify import compare, scratch_source
from redisctl.core import aof_manifest
from redisctl.core.contents import Contents, key_prefixes
from redisctl.core.counting import count_contents
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE, ensure_space
from redisctl.core.formatting import size
from redisctl.core.instance import Instance
from redisctl.core.journal import Journal
from redisctl.core.scan import ask, random_keys
from redisctl.core.scratch_redis import NotLoadable
from redisctl.core.startup_errors import explained
from redisctl.core.trial import RenamedCommand, Trial, loaded_redis
from redisctl.core.untrusted_files import UntrustedDirectory, remove_tree
from redisctl.data import foreign, layout
from redisctl.data.point_in_time import format_time, truncate_aof
from redisctl.data.swap import Swapped, staging_dir, swap_data

# Keys that Redis must have once it serves the new data, and the share of them that is enough: clients delete some.
SAMPLE_SIZE = 200
MIN_FOUND_RATIO = 0.9
# Seconds. A key that expires sooner may be gone by then.
MIN_TTL = 300
# Memory by maxmemory of a Redis that is full: it evicts all the time, and its buffers come in addition.
_FULL = 1.05
# The directory of a checked copy.
_COPY = "source"
NO_PREVIOUS = "there is no previous data: nothing was replaced, or --discard-previous removed it"
# Links that a path may have, as in the kernel.
_MAX_LINKS = 40


@dataclass(frozen=True)
class Candidate:
    """A listed backup, or files from elsewhere, to restore.

    ``to`` is a time in its AOF. ``created_now`` says that the backup was created just now, for its AOF.
    """

    path: Path
    backup: BackupSet | None = None
    to: float | None = None
    created_now: bool = False

    @property
    def name(self) -> str:
        """Return the name for messages."""
        name = f"backup {self.backup.id}" if self.backup else str(self.path)
        return f"{name}, as of {format_time(self.to)}" if self.to else name


@dataclass(frozen=True)
class Prepared:
    """Data that was staged and test loaded.

    It has the live contents, the memory in bytes, and keys to look for afterwards. ``is_foreign`` says that another
    Redis wrote it, ``origin`` which one if that is known, and ``warnings`` what of its files is left out.
    """

    directory: Path
    contents: Contents
    memory: int
    sample_keys: list[bytes]
    is_foreign: bool = False
    origin: str = ""
    warnings: list[str] = field(default_factory=list)


def find_candidate(instance: Instance, name: str, to: float | None) -> Candidate:
    """Find what to restore by a backup's name, ``latest``, or a path with a slash.

    Raises Failure.

    With a time and no name it is the first backup after that time, or a new backup of the current data.
    """
    # A file in the current directory must not take the place of a backup with its name.
    if "/" in name:
        return _foreign(_resolve(instance.root, Path(name)), to)
    if name:
        try:
            backup = catalog.find_backup(instance.backups, name)
        except Failure as error:
            # No backup has a dot in its name.
            raise Failure(f"{error}. A path has a slash: ./{name}" if "." in name else str(error)) from None
        if to is not None and to > backup.metadata.taken_at:
            raise Failure(f"backup {backup.id} ends before {format_time(to)}: leave its name out")
        return Candidate(backup.path, backup, to)
    if to is None:
        raise Failure("say what to restore: a name from 'redisctl backup list', latest, or a path such as ./dump.rdb")
    if to > time.time():
        raise Failure(f"{format_time(to)} is in the future")
    if not layout.aof_enabled(instance):
        # Checked before a backup is created in vain.
        raise Failure("a point in time needs the AOF, and redis_appendonly is off: restore a backup")
    later = [
        backup
        for backup in catalog.list_backups(instance.backups)
        # A copy from another host has that host's data.
        if backup.metadata.has_aof and backup.metadata.taken_at >= to and not _foreign_origin(instance, backup)
    ]
    backup = later[-1] if later else create.create_backup(instance)
    if not backup.metadata.has_aof:
        raise Failure("a point in time needs the AOF, and Redis runs without it: deploy again, or restore a backup")
    return Candidate(backup.path, backup, to, created_now=not later)


def _foreign(path: Path, to: float | None) -> Candidate:
    if not path.exists():
        raise Failure(f"{path}: there is no such file")
    if (path / catalog.METADATA).exists():
        return Candidate(path, catalog.open_backup(path), to)
    if path.is_dir():
        return Candidate(_aof_directory(path), None, to)
    if to is not None:
        raise Failure(f"{path} is one file, and --to needs the AOF of a backup: leave --to out, or name a backup")
    try:
        with UntrustedDirectory(path.parent).open_file(path.name):
            return Candidate(path, None, None)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}: name a dump.rdb, an AOF or a backup") from None


def _resolve(root: Path, path: Path) -> Path:
    """Resolve a path of a person, who may use links.

    Raises Failure for a link below the root of the instance, where Redis can have placed it.
    """
    for _ in range(_MAX_LINKS):
        path = path.absolute()
        link = next((place for place in (*reversed(path.parents), path) if place.is_symlink()), None)
        if link is None:
            return Path(os.path.normpath(path))
        if Path(os.path.normpath(link)).is_relative_to(root.resolve()):
            raise Failure(f"{link}: a symbolic link, which is not followed: name the file that you mean")
        path = link.parent / link.readlink() / path.relative_to(link)
    raise Failure(f"{path}: too many symbolic links")


def _aof_directory(path: Path) -> Path:
    """Return the directory of the AOF in a directory, or that itself. Raises Failure."""
    try:
        mode = UntrustedDirectory(path).status(aof_manifest.DIRECTORY).st_mode
    except FileNotFoundError:
        return path
    except OSError as error:
        raise Failure(f"{error.filename or path}: {error.strerror}") from None
    inner = path / aof_manifest.DIRECTORY
    if stat.S_ISLNK(mode):
        raise Failure(f"{inner}: a symbolic link, which is not followed: name the directory that you mean")
    return inner if stat.S_ISDIR(mode) else path


@contextmanager
def prepared(instance: Instance, candidate: Candidate, *, with_functions: bool = False) -> Iterator[Prepared]:
    """Stage a candidate, test load it, and compare it with its metadata.

    It is staged on the disk of the data. Does not touch the running Redis. ``with_functions`` carries over the
    functions of another Redis. Raises Failure if the candidate is damaged, does not load or does not fit.
    """
    backup = candidate.backup
    if backup and (problems := catalog.find_damage(backup)):
        raise Failure(f"backup {backup.id} is bad: {'; '.join(problems)}")
    rdb, aof = _files(candidate)
    with staging_dir(instance) as directory:
        origin = _foreign_origin(instance, backup)
        is_own = backup is not None and not origin
        if backup and is_own and rdb:
            data = _stage_backup(instance, backup, rdb, directory)
        else:
            data = _stage_foreign(
                instance, candidate, rdb or aof, directory, is_own=is_own, with_functions=with_functions
            )
            data = replace(data, origin=origin)
        _ensure_fits_maxmemory(instance, data)
        yield data


def _foreign_origin(instance: Instance, backup: BackupSet | None) -> str:
    """Say where a backup comes from if it is not from this instance; empty if it is.

    ``backup.json`` can be forged by Redis's uid. That gains functions, which a Redis that was taken over can load
    itself: every AOF is loaded without the commands that change a server, and every snapshot is validated.
    """
    if backup is None:
        return ""
    if backup.path.parent.resolve() != instance.backups.resolve():
        return f"{backup.path} is outside {instance.backups}, so it may be from another Redis"
    own = (instance.name, socket.gethostname())
    if (backup.metadata.instance, backup.metadata.host) == own:
        return ""
    return (
        f"backup {backup.id} is from the instance {backup.metadata.instance} on the host {backup.metadata.host}, not "
        f"from {own[0]} on {own[1]}"
    )


def _stage_backup(instance: Instance, backup: BackupSet, rdb: Path, directory: Path) -> Prepared:
    """Stage the RDB snapshot of a backup of this instance, and test load it."""
    ensure_disk_space(instance, rdb)
    layout.stage_rdb(instance, rdb, directory)
    databases = int(instance.config_value("databases", "16"))
    source = replace(scratch_source(backup, layout.staged_rdb(instance, directory)), databases=databases)
    try:
        with loaded_redis(instance, source) as redis:
            if problems := compare(redis, backup):
                raise Failure(f"backup {backup.id} is bad: {'; '.join(problems)}")
            return inspect_loaded(instance, redis, directory)
    except NotLoadable as error:
        raise Failure(f"backup {backup.id}: {explained(str(error))}") from None


def _stage_foreign(
    instance: Instance, candidate: Candidate, path: Path, directory: Path, *, is_own: bool, with_functions: bool
) -> Prepared:
    """Load files that may contain anything, and stage what the scratch Redis writes."""
    with _checked(instance, candidate, path, directory, is_own=is_own) as (server, data):
        _write_loaded(instance, server, data, path, with_functions=with_functions or is_own)
        return data


@contextmanager
def _checked(
    instance: Instance, candidate: Candidate, path: Path, directory: Path, *, is_own: bool
) -> Iterator[tuple[Trial, Prepared]]:
    """Load a checked copy of files that may contain anything, and describe it.

    ``directory`` is for the copy. Raises Failure.
    """
    ensure_disk_space(instance, path)
    copied = foreign.copy_checked(instance, path, directory / _COPY, is_foreign=not is_own)
    if candidate.to is not None:
        truncate_aof(instance, copied.source.path, candidate.to)
    with foreign.loaded(instance, copied, directory / "trial") as server:
        backup = candidate.backup
        if backup and candidate.to is None and (problems := compare(server.redis, backup)):
            raise Failure(f"backup {backup.id} is bad: {'; '.join(problems)}")
        data = inspect_loaded(instance, server.redis, directory / "live")
        yield server, replace(data, is_foreign=not is_own, warnings=copied.warnings)


def _write_loaded(instance: Instance, server: Trial, data: Prepared, path: Path, *, with_functions: bool) -> None:
    """Stage what a scratch Redis has loaded from a copy of ``path``. Raises Failure."""
    # It needs the copy no more.
    remove_tree(data.directory.with_name(_COPY))
    # What it writes, and the staged copy of that. A full disk would make the running Redis refuse writes.
    ensure_space(instance.data, 2 * min(_size(path), data.memory))
    foreign.write_data(instance, server, data.directory, with_functions=with_functions)


@contextmanager
def prepared_previous(instance: Instance) -> Iterator[tuple[str, Prepared]]:
    """Test load the newest previous data, and give its name and what to swap in.

    That is the previous data itself, or a staged copy of it if Redis now reads the other form. Raises Failure if there
    is none, or if Redis would not serve all of it.
    """
    directories = layout.previous_data_dirs(instance)
    if not directories:
        raise Failure(NO_PREVIOUS)
    previous = directories[0]
    form, path = layout.previous_source(instance, previous)
    with staging_dir(instance) as directory:
        try:
            with _checked(instance, Candidate(path), path, directory, is_own=True) as (server, loaded):
                _ensure_fits_maxmemory(instance, loaded)
                is_staged = form != layout.form(instance)
                if is_staged:
                    _write_loaded(instance, server, loaded, path, with_functions=True)
        except RenamedCommand as error:
            raise Failure(
                f"{error}: 'redisctl restore {path}' loads the AOF by the usual names of commands, and --yes keeps the "
                "current data"
            ) from None
        yield previous.name, loaded if is_staged else replace(loaded, directory=previous)


def inspect_loaded(instance: Instance, redis: Redis, directory: Path) -> Prepared:
    """Describe what a scratch Redis has loaded from a staging directory."""
    contents = count_contents(redis, key_prefixes(instance.session_keys))
    return Prepared(directory, contents, redis.info("memory")["used_memory"], _sample_keys(redis))


def _files(candidate: Candidate) -> tuple[Path | None, Path]:
    """Return the RDB snapshot to restore, and the directory of the AOF.

    The RDB snapshot is None if the AOF is to be restored.
    """
    aof = candidate.path / aof_manifest.DIRECTORY if candidate.backup else candidate.path
    if candidate.to is not None:
        return None, aof
    if candidate.backup:
        return candidate.path / RDB_FILE, aof
    return (None, aof) if candidate.path.is_dir() else (candidate.path, aof)


def _size(path: Path) -> int:
    """Return the bytes of a file, or of the files in a directory. Raises Failure."""
    parent, name = UntrustedDirectory(path.parent), path.name
    try:
        if not stat.S_ISDIR(parent.status(name).st_mode):
            return parent.file_size(name)
        return sum(parent.status(name, inner).st_size for inner in parent.list_names(name))
    except OSError as error:
        raise Failure(f"{error.filename or path}: {error.strerror}") from None


def ensure_disk_space(instance: Instance, path: Path) -> None:
    """Raise Failure if the disk of the data has no room for a copy of a path.

    The path is a file, or a directory with files.
    """
    ensure_space(instance.data, _size(path))


def _sample_keys(redis: Redis) -> list[bytes]:
    """Return some keys of the first database that do not expire soon."""
    keys = random_keys(redis, SAMPLE_SIZE)
    now = time.time() * 1000
    expiries = ask(redis, [("PEXPIRETIME", key) for key in keys])
    return [key for key, at in zip(keys, expiries, strict=True) if at == -1 or at > now + MIN_TTL * 1000]


def _ensure_fits_maxmemory(instance: Instance, data: Prepared) -> None:
    limit = int(instance.config_value("maxmemory", "0"))
    if limit and data.memory > limit * _FULL:
        raise Failure(
            f"the data takes {size(data.memory)} of memory, and redis_maxmemory is {size(limit)}: Redis would evict at "
            "once. Raise it and deploy, then restore"
        )


def put_in_place(
    instance: Instance,
    data: Prepared,
    operation: str,
    *,
    discard_unsaved: bool = False,
    stopped: Journal | None = None,
) -> Swapped:
    """Make the prepared data the live data, see ``swap_data``. Raises Failure."""

    def check(redis: Redis) -> list[str]:
        present = sum(map(bool, ask(redis, [("EXISTS", key) for key in data.sample_keys])))
        if present < MIN_FOUND_RATIO * len(data.sample_keys):
            return [f"Redis has only {present} of {len(data.sample_keys)} keys that it should have"]
        return []

    return swap_data(instance, data.directory, check, operation, discard_unsaved=discard_unsaved, stopped=stopped)


def as_dict(data: Prepared) -> dict[str, Any]:
    """Return the data for JSON."""
    return {**data.contents.as_dict(), "memory": data.memory, "warnings": data.warnings}
