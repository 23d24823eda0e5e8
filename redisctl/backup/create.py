"""Taking a backup: the snapshot and the log of writes of one moment, while clients write.

Writes wait for some milliseconds. Meanwhile Redis forks the process that saves, the log has all that was acknowledged,
its files are opened and measured, and keys are counted and sampled. All of it is of the same moment, exactly. What is
copied afterwards, from open files and up to their measured length, cannot be taken away by a rewrite.
"""

import os
import shutil
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
from redisctl.core import aof_manifest
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE, checksum, copy, write_json
from redisctl.core.fingerprint import fingerprints
from redisctl.core.formatting import size
from redisctl.core.instance import Instance, error_text
from redisctl.core.keyspace import keyspace

# Seconds that writes wait at most, whatever becomes of this process; and for all of them to be in the log.
WRITE_PAUSE = 1.0
AOF_FLUSH_TIMEOUT = 0.3
# Keys that are remembered, to be compared when the backup was loaded.
SAMPLE_SIZE = 100
ATTEMPTS = 5
# Seconds for a save or a rewrite of the log that is under way, and for the save of the backup.
SAVE_TIMEOUT = 3600
_POLL = 0.1
# Room that is left to others, in bytes.
DISK_MARGIN = 64 * 1024**2


@dataclass
class FrozenState:
    """What was seen and opened while writes waited."""

    at: float
    write_pause: float
    info: dict[str, Any]
    saves: int
    samples: list[dict[str, Any]]
    aof: dict[str, tuple[BinaryIO, int]] = field(default_factory=dict)
    manifest: str = ""


def create_backup(instance: Instance) -> BackupSet:
    """Take a backup, under the instance's lock. Raises Failure and leaves nothing half-written.

    On the host it makes a directory in ``backups``; Redis saves its snapshot as it does by itself.
    """
    partial = instance.backups / ".taken.partial"
    try:
        with instance.connect(decode_responses=False) as redis, ExitStack() as files:
            _ensure_disk_space(instance, redis)
            partial.mkdir(mode=0o700)
            moment = _freeze(instance, redis, files)
            while (instance.backups / catalog.backup_id(moment.at)).exists():
                moment.at += 1
            backup = _copy_files(instance, redis, moment, partial)
        return catalog.finish(partial, backup)
    except OSError as error:
        raise Failure(f"{error.filename or instance.backups}: {error.strerror}") from None
    except RedisError as error:
        raise Failure(f"Redis says: {error_text(error)}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _ensure_disk_space(instance: Instance, redis: Redis) -> None:
    """Raise Failure where the disk would not hold the snapshot that Redis makes, and the copies."""
    info = redis.info("memory")
    # A snapshot is smaller than the data is in memory.
    snapshot = info["used_memory"]
    log = redis.info("persistence").get("aof_current_size", 0)
    wanted = {instance.live: snapshot, instance.backups: snapshot + log}
    disks: dict[int, tuple[Path, int]] = {}
    for path, count in wanted.items():
        disk = path.stat().st_dev
        disks[disk] = (path, disks.get(disk, (path, 0))[1] + count)
    for path, count in disks.values():
        room = os.statvfs(path)
        free = room.f_bavail * room.f_frsize
        if free < count + DISK_MARGIN:
            raise Failure(
                f"{path}: {size(free)} free, and a backup takes up to {size(count + DISK_MARGIN)}: free some, or keep "
                "fewer backups"
            )


def _freeze(instance: Instance, redis: Redis, files: ExitStack) -> FrozenState:
    """Hold writes for a moment and see everything in it. Raises Failure where that does not succeed."""
    for _ in range(ATTEMPTS):
        _wait_for_children(redis)
        moment = _try_freeze(instance, redis, files)
        if moment:
            return moment
        time.sleep(1)
    raise Failure(
        f"in {ATTEMPTS} attempts Redis did not begin to save, with all writes in its log, before writes had waited "
        f"for {WRITE_PAUSE} s: the disk is slow or busy, or Redis saves or rewrites its log all the time"
    )


def _wait_for_children(redis: Redis) -> None:
    deadline = time.monotonic() + SAVE_TIMEOUT
    while True:
        info = redis.info("persistence")
        if info.get("loading"):
            raise Failure("Redis is loading its data: there is nothing to back up yet")
        busy = ("rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled")
        if not any(info.get(name) for name in busy):
            return
        if time.monotonic() > deadline:
            raise Failure(f"a save or a rewrite of the log has run for {SAVE_TIMEOUT / 3600:.0f} h")
        time.sleep(_POLL)


def _try_freeze(instance: Instance, redis: Redis, files: ExitStack) -> FrozenState | None:
    saves = redis.info("persistence").get("rdb_saves", 0)
    config = _config(instance, redis, "append*")
    start = time.monotonic()
    with _pause_writes(redis):
        while redis.info("persistence").get("aof_buffer_length", 0):
            if time.monotonic() - start > AOF_FLUSH_TIMEOUT:
                return None
            time.sleep(0.002)
        try:
            redis.execute_command("BGSAVE")
        except RedisError as error:
            # Redis began to save, or to rewrite, by itself.
            if "progress" in str(error) or "child" in str(error):
                return None
            raise
        at = time.time()
        moment = FrozenState(at, 0.0, redis.info("all"), saves, _sample_keys(redis))
        if config.get("appendonly") == "yes":
            # While it saves it begins no rewrite.
            directory = instance.live / config["appenddirname"]
            moment.manifest = (directory / f"{config['appendfilename']}.manifest").read_text()
            for part in aof_manifest.parse(moment.manifest):
                file = files.enter_context((directory / part.name).open("rb"))
                moment.aof[part.name] = (file, os.fstat(file.fileno()).st_size)
        moment.write_pause = time.monotonic() - start
    # After that Redis lets writers go on by itself.
    return moment if moment.write_pause < WRITE_PAUSE * 0.9 else None


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


def _sample_keys(redis: Redis) -> list[dict[str, Any]]:
    """Some keys of the first database, as they are."""
    databases = keyspace(redis.info("keyspace"))
    if "db0" not in databases:
        return []
    with redis.pipeline(transaction=False) as pipeline:
        for _ in range(SAMPLE_SIZE):
            pipeline.randomkey()
        keys = sorted({key for key in pipeline.execute() if key})
    found = zip(keys, fingerprints(redis, keys), strict=True)
    return [{"key": key.decode("latin-1"), **vars(value)} for key, value in found if value.is_there]


def _copy_files(instance: Instance, redis: Redis, moment: FrozenState, partial: Path) -> Metadata:
    info = moment.info
    files = {RDB_FILE: _copy_rdb(instance, redis, moment, partial)}
    if moment.aof:
        (partial / aof_manifest.DIRECTORY).mkdir(mode=0o700)
        for name, (file, length) in moment.aof.items():
            place = f"{aof_manifest.DIRECTORY}/{name}"
            files[place] = copy(file, length, partial / place)
        manifest = partial / aof_manifest.DIRECTORY / aof_manifest.MANIFEST
        manifest.write_text(aof_manifest.to_text(aof_manifest.parse(moment.manifest)))
        files[f"{aof_manifest.DIRECTORY}/{aof_manifest.MANIFEST}"] = {
            "size": manifest.stat().st_size,
            "sha256": checksum(manifest),
        }
    write_json(partial / catalog.SAMPLES, moment.samples)
    valkey = "valkey_version" in info
    return Metadata(
        id=catalog.backup_id(moment.at),
        instance=instance.name,
        host=socket.gethostname(),
        taken_at=moment.at,
        engine="valkey" if valkey else "redis",
        version=str(info["valkey_version" if valkey else "redis_version"]),
        settings=instance.settings,
        databases={
            name: {"keys": database["keys"], "expires": database["expires"]}
            for name, database in keyspace(info).items()
        },
        memory=info["used_memory"],
        write_pause=round(moment.write_pause, 4),
        files=files,
    )


def _copy_rdb(instance: Instance, redis: Redis, moment: FrozenState, partial: Path) -> dict[str, Any]:
    """Copy the snapshot of the moment, once Redis has written it."""
    deadline = time.monotonic() + SAVE_TIMEOUT
    while (info := redis.info("persistence"))["rdb_bgsave_in_progress"]:
        if time.monotonic() > deadline:
            raise Failure(f"Redis saved for {SAVE_TIMEOUT / 3600:.0f} h")
        time.sleep(_POLL)
    if info["rdb_last_bgsave_status"] != "ok":
        raise Failure("Redis could not save: disk full, or data/ not owned by 999? logs/redis.log says")
    name = _config(instance, redis, "dbfilename")["dbfilename"]
    with (instance.live / name).open("rb") as file:
        if redis.info("persistence").get("rdb_saves", 0) != moment.saves + 1:
            raise Failure("Redis saved once more before the snapshot was copied: try again")
        return copy(file, None, partial / RDB_FILE)
