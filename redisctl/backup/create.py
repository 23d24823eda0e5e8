"""Creation of backups: RDB snapshot, AOF and key counts of one point in time.

Clients keep writing, but their writes wait for some milliseconds. During this pause Redis forks the process that saves,
the AOF contains everything acknowledged, and redisctl opens and measures the AOF files and counts and samples keys. It
copies the open files afterwards, up to the measured length. An AOF rewrite cannot take them away.
"""

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from redis import Redis
from redis.exceptions import RedisError

from redisctl.backup import catalog
from redisctl.backup.catalog import BackupSet, Metadata
from redisctl.core import aof_manifest, mounts, progress
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE, copy, ensure_space, write_file, write_json
from redisctl.core.fingerprint import fingerprints
from redisctl.core.instance import Instance, error_text
from redisctl.core.keyspace import keyspace
from redisctl.core.scan import random_keys
from redisctl.core.untrusted_files import remove_tree

# Seconds that writes wait at most, even if this process is killed; and for all of them to be in the AOF.
WRITE_PAUSE = 1.0
AOF_FLUSH_TIMEOUT = 0.3
# Keys that are sampled, to be compared when the backup is verified.
SAMPLE_SIZE = 100
ATTEMPTS = 5
# An RDB snapshot may take so many times what the one of the newest backup took of the memory.
_RDB_MARGIN = 2
# Seconds for a save or an AOF rewrite in progress, and for the save of the backup.
SAVE_TIMEOUT = 3600
_POLL = 0.1


@dataclass
class FrozenState:
    """What was read and opened during the write pause.

    ``aof`` are open files and their measured lengths by name.
    """

    at: float
    write_pause: float
    info: dict[str, Any]
    saves: int
    samples: list[dict[str, Any]]
    aof: dict[str, tuple[BinaryIO, int]] = field(default_factory=dict)
    manifest: str = ""


def create_backup(instance: Instance) -> BackupSet:
    """Create a backup. The caller holds the instance's lock.

    It creates a directory in ``backups`` and has Redis save its RDB snapshot. Raises Failure and leaves nothing
    incomplete.
    """
    mounts.ensure_mounted(instance.root)
    partial = instance.backups / ".taken.partial"
    try:
        with instance.connect(decode_responses=False) as redis, ExitStack() as files:
            _ensure_disk_space(instance, redis)
            partial.mkdir(mode=0o700)
            state = _freeze(instance, redis, files)
            while (instance.backups / catalog.backup_id(state.at)).exists():
                state.at += 1
            metadata = _copy_files(instance, redis, state, partial)
        return catalog.finish(partial, metadata, instance.owner)
    except OSError as error:
        raise Failure(f"{error.filename or instance.backups}: {error.strerror}") from None
    except RedisError as error:
        raise Failure(f"Redis answers: {error_text(error)}") from None
    except aof_manifest.ManifestError as error:
        raise Failure(f"{instance.live / aof_manifest.DIRECTORY}: {error}: redisctl repair says what to do") from None
    finally:
        remove_tree(partial, ignore_errors=True)


def _ensure_disk_space(instance: Instance, redis: Redis) -> None:
    """Raise Failure if a disk has no room for a backup.

    A backup takes room for the RDB snapshot that Redis writes, and for the copies.
    """
    rdb = estimate_rdb(redis.info("memory")["used_memory"], catalog.list_backups(instance.backups))
    aof = redis.info("persistence").get("aof_current_size", 0)
    disks: dict[int, tuple[Path, int]] = {}
    for path, needed in ((instance.live, rdb), (instance.backups, rdb + aof)):
        disk = path.stat().st_dev
        disks[disk] = (path, disks.get(disk, (path, 0))[1] + needed)
    for path, needed in disks.values():
        ensure_space(path, needed, "a backup")


def estimate_rdb(memory: int, backups: list[BackupSet]) -> int:
    """Return the bytes that an RDB snapshot of data in memory should take.

    It never takes more than the memory, and often a tenth. ``backups``, newest first, show how much it was. If it
    takes more than that, Redis cannot save, and the copy finds too little room: nothing is damaged.
    """
    newest = backups[0].metadata if backups else None
    # A nearly empty Redis uses memory for itself.
    if newest is None or 2 * newest.memory < memory:
        return memory
    size: int = newest.files.get(RDB_FILE, {}).get("size", newest.memory)
    return min(memory, _RDB_MARGIN * memory * size // newest.memory)


def _freeze(instance: Instance, redis: Redis, files: ExitStack) -> FrozenState:
    """Pause writes and capture the state of one point in time. Raises Failure."""
    for _ in range(ATTEMPTS):
        _wait_for_children(redis)
        state = _try_freeze(instance, redis, files)
        if state:
            return state
        time.sleep(1)
    raise Failure(
        f"in {ATTEMPTS} attempts Redis did not begin to save, with all writes in its AOF, within {WRITE_PAUSE} s: the "
        "disk is slow or busy, or Redis saves or rewrites its AOF all the time. Try again at a quieter time"
    )


def _wait_for_children(redis: Redis) -> None:
    """Wait until Redis neither saves nor rewrites its AOF. Raises Failure."""
    deadline = time.monotonic() + SAVE_TIMEOUT
    while True:
        info = redis.info("persistence")
        if info.get("loading"):
            raise Failure("Redis is loading its data: try again when redisctl health reports that it serves")
        busy = ("rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled")
        if not any(info.get(name) for name in busy):
            return
        progress.report("waiting for the end of a save or an AOF rewrite")
        if time.monotonic() > deadline:
            raise Failure(f"a save or an AOF rewrite has run for {SAVE_TIMEOUT / 3600:.0f} h: is the disk slow?")
        time.sleep(_POLL)


def _try_freeze(instance: Instance, redis: Redis, files: ExitStack) -> FrozenState | None:
    saves = redis.info("persistence").get("rdb_saves", 0)
    config = _config(instance, redis, "append*")
    keys = random_keys(redis, SAMPLE_SIZE)
    start = time.monotonic()
    with _pause_writes(redis):
        while redis.info("persistence").get("aof_buffer_length", 0):
            if time.monotonic() - start > AOF_FLUSH_TIMEOUT:
                return None
            time.sleep(0.002)
        try:
            redis.execute_command("BGSAVE")
        except RedisError as error:
            # Redis has begun a save or a rewrite by itself.
            if "progress" in str(error) or "child" in str(error):
                return None
            raise
        state = FrozenState(time.time(), 0.0, redis.info("all"), saves, _samples(redis, keys))
        if config.get("appendonly") == "yes":
            # Redis begins no rewrite while it saves.
            directory, manifest = config["appenddirname"], f"{config['appendfilename']}.manifest"
            live = instance.live_files
            state.manifest = aof_manifest.read_text(live, directory, manifest)
            for part in aof_manifest.parse(state.manifest):
                file = files.enter_context(live.open_file(directory, part.name))
                state.aof[part.name] = (file, os.fstat(file.fileno()).st_size)
        state.write_pause = time.monotonic() - start
    # After WRITE_PAUSE Redis has resumed writes by itself.
    return state if state.write_pause < WRITE_PAUSE * 0.9 else None


@contextmanager
def _pause_writes(redis: Redis) -> Iterator[None]:
    redis.execute_command("CLIENT", "PAUSE", int(WRITE_PAUSE * 1000), "WRITE")
    try:
        yield
    finally:
        redis.execute_command("CLIENT", "UNPAUSE")


def _config(instance: Instance, redis: Redis, pattern: str) -> dict[str, str]:
    answer = [word.decode() for word in instance.execute_renamed(redis, "CONFIG", "GET", pattern)]
    return dict(zip(answer[::2], answer[1::2], strict=True))


def _samples(redis: Redis, keys: list[bytes]) -> list[dict[str, Any]]:
    """Return the fingerprints of those keys that still exist."""
    samples = zip(keys, fingerprints(redis, keys), strict=True)
    return [{"key": key.decode("latin-1"), **vars(value)} for key, value in samples if value.is_there]


def _copy_files(instance: Instance, redis: Redis, state: FrozenState, partial: Path) -> Metadata:
    info = state.info
    files = {RDB_FILE: _copy_rdb(instance, redis, state, partial)}
    if state.aof:
        ensure_space(partial, sum(length for _, length in state.aof.values()))
        (partial / aof_manifest.DIRECTORY).mkdir(mode=0o700)
        for name, (file, length) in state.aof.items():
            relative = f"{aof_manifest.DIRECTORY}/{name}"
            files[relative] = copy(file, length, partial / relative)
        manifest = aof_manifest.to_text(aof_manifest.parse(state.manifest))
        relative = f"{aof_manifest.DIRECTORY}/{aof_manifest.MANIFEST}"
        write_file(partial / relative, manifest, mode=0o400, uid=instance.uid, gid=instance.gid)
        files[relative] = {"size": len(manifest.encode()), "sha256": hashlib.sha256(manifest.encode()).hexdigest()}
    write_json(partial / catalog.SAMPLES, state.samples, instance.owner)
    is_valkey = "valkey_version" in info
    return Metadata(
        id=catalog.backup_id(state.at),
        instance=instance.name,
        host=socket.gethostname(),
        taken_at=state.at,
        engine="valkey" if is_valkey else "redis",
        version=str(info["valkey_version" if is_valkey else "redis_version"]),
        settings=instance.settings,
        databases={
            name: {"keys": database["keys"], "expires": database["expires"]}
            for name, database in keyspace(info).items()
        },
        memory=info["used_memory"],
        write_pause=round(state.write_pause, 4),
        files=files,
    )


def _copy_rdb(instance: Instance, redis: Redis, state: FrozenState, partial: Path) -> dict[str, Any]:
    """Copy the RDB snapshot of the frozen state after Redis has written it.

    Raises Failure.
    """
    deadline = time.monotonic() + SAVE_TIMEOUT
    while (info := redis.info("persistence"))["rdb_bgsave_in_progress"]:
        progress.report(f"Redis saves its data: {int(info.get('current_save_keys_processed', 0)):,} keys")
        if time.monotonic() > deadline:
            raise Failure(f"Redis has been saving for {SAVE_TIMEOUT / 3600:.0f} h: is the disk slow?")
        time.sleep(_POLL)
    if info["rdb_last_bgsave_status"] != "ok":
        where = f"{instance.live} not owned by uid {instance.uid}"
        raise Failure(f"Redis could not save: is the disk full, or {where}? redisctl log")
    name = _config(instance, redis, "dbfilename")["dbfilename"]
    with instance.live_files.open_file(name) as file:
        if redis.info("persistence").get("rdb_saves", 0) != state.saves + 1:
            raise Failure("Redis saved once more before the RDB snapshot was copied: try again")
        return copy(file, None, partial / RDB_FILE)
