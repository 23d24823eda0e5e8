"""Verifying a backup: it is loaded in a scratch Redis, and what is there is compared with what it says of itself."""

import json
import time
from dataclasses import replace
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from redisctl.backup import catalog
from redisctl.backup.catalog import BackupSet
from redisctl.core import aof_manifest
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE, write_json
from redisctl.core.fingerprint import Fingerprint, fingerprints
from redisctl.core.instance import Instance, error_text
from redisctl.core.keyspace import keyspace
from redisctl.core.scan import keys_like
from redisctl.core.scratch_redis import NotLoadable, Source, loaded_redis

OK, FAILED = "ok", "failed"


def verify_backup(instance: Instance, one: BackupSet) -> BackupSet:
    """Check a backup's files and load each of its parts, and note the verdict in it. Raises Failure where it is bad.

    Where it could not be tried, for want of memory or of an image, nothing is noted and Failure says why.
    """
    start = time.monotonic()
    counts: dict[str, int] = {}
    problems = _problems(instance, one, counts)
    told = {
        "verdict": FAILED if problems else OK,
        "at": time.time(),
        "took": round(time.monotonic() - start, 1),
        "problems": problems,
        **counts,
    }
    write_json(one.path / catalog.VERIFIED, told)
    if problems:
        raise Failure(f"backup {one.id} is bad: {'; '.join(problems)}")
    return catalog.open_backup(one.path)


def verify_with_image(instance: Instance, one: BackupSet, image: str) -> None:
    """The same with another image, of which nothing is noted: a backup that it does not read is a good one still.

    Raises Failure, with what that image's server says.
    """
    problems = _problems(replace(instance, image_override=image), one, {})
    if problems:
        raise Failure(f"{image} does not read backup {one.id}: {'; '.join(problems)}")


def _problems(instance: Instance, one: BackupSet, counts: dict[str, int]) -> list[str]:
    found = catalog.find_damage(one)
    if not found:
        for name, path in loadable_parts(one).items():
            found += [f"{name}: {problem}" for problem in _load(instance, one, path, counts)]
    return found


def loadable_parts(one: BackupSet) -> dict[str, Path]:
    """What of a backup can be loaded by itself: the snapshot, and the log of writes where there is one."""
    log = {"the log of writes": one.path / aof_manifest.DIRECTORY} if one.metadata.has_aof else {}
    return {"the snapshot": one.path / RDB_FILE, **log}


def scratch_source(one: BackupSet, path: Path) -> Source:
    """A part of a backup, to be loaded."""
    highest = max((int(name.removeprefix("db")) for name in one.metadata.databases), default=0)
    return Source(path, one.metadata.memory, max(16, highest + 1))


def _load(instance: Instance, one: BackupSet, path: Path, counts: dict[str, int]) -> list[str]:
    """Load a part and say what is wrong with it; count sessions and jobs where that was not done yet."""
    try:
        with loaded_redis(instance, scratch_source(one, path)) as redis:
            if not counts:
                counts |= {"sessions": count_keys(redis, instance.session_keys), "jobs": count_keys(redis, "rq:job:*")}
            return compare(redis, one)
    except NotLoadable as error:
        return [str(error)]
    except RedisError as error:
        return [f"Redis says: {error_text(error)}"]


def compare(redis: Redis, one: BackupSet) -> list[str]:
    """How what was loaded differs from what the backup says."""
    there = {
        name: {"keys": database["keys"], "expires": database["expires"]}
        for name, database in keyspace(redis.info("keyspace")).items()
    }
    problems = [
        f"{name} has {_describe(there.get(name))}, the backup says {_describe(one.metadata.databases.get(name))}"
        for name in sorted({*there, *one.metadata.databases})
        if there.get(name) != one.metadata.databases.get(name)
    ]
    samples = json.loads((one.path / catalog.SAMPLES).read_text())
    wanted = [Fingerprint(**{name: one for name, one in sample.items() if name != "key"}) for sample in samples]
    found = fingerprints(redis, [sample["key"].encode("latin-1") for sample in samples])
    # A key whose time is over is counted, and not shown.
    now = time.time() * 1000
    differing = sum(
        want != have and (have.is_there or not 0 < want.expires_at <= now)
        for want, have in zip(wanted, found, strict=True)
    )
    return [*problems, *([f"{differing} of {len(samples)} sampled keys differ"] if differing else [])]


def _describe(database: dict[str, int] | None) -> str:
    return f"{database['keys']} keys, {database['expires']} with a TTL" if database else "no keys"


def count_keys(redis: Redis, pattern: str) -> int:
    """Keys of a pattern. Nobody else is there: none comes twice while nothing is written."""
    return sum(len(keys) for keys in keys_like(redis, pattern))
