"""Verification of backups.

It loads them in a scratch Redis and compares the contents with the metadata.
"""

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


def verify_backup(instance: Instance, backup: BackupSet) -> BackupSet:
    """Check a backup's files, load each of its parts, and record the verdict.

    Raises Failure if the backup is bad. If it cannot be loaded for lack of memory or of an image, nothing is recorded
    and Failure says why.
    """
    start = time.monotonic()
    counts: dict[str, int] = {}
    problems = _problems(instance, backup, counts)
    result = {
        "verdict": FAILED if problems else OK,
        "at": time.time(),
        "took": round(time.monotonic() - start, 1),
        "problems": problems,
        **counts,
    }
    write_json(backup.path / catalog.VERIFIED, result)
    if problems:
        raise Failure(f"backup {backup.id} is bad: {'; '.join(problems)}")
    return catalog.open_backup(backup.path)


def verify_with_image(instance: Instance, backup: BackupSet, image: str) -> None:
    """Verify a backup with another image and record nothing.

    A backup that this image cannot read is still good. Raises Failure with what the image's server reports.
    """
    problems = _problems(replace(instance, image_override=image), backup, {})
    if problems:
        raise Failure(f"{image} does not read backup {backup.id}: {'; '.join(problems)}")


def _problems(instance: Instance, backup: BackupSet, counts: dict[str, int]) -> list[str]:
    problems = catalog.find_damage(backup)
    if not problems:
        for name, path in loadable_parts(backup).items():
            problems += [f"{name}: {problem}" for problem in _load(instance, backup, path, counts)]
    return problems


def loadable_parts(backup: BackupSet) -> dict[str, Path]:
    """Return the parts of a backup that can be loaded separately.

    These are the RDB snapshot, and the AOF if the backup has one.
    """
    aof = {"the AOF": backup.path / aof_manifest.DIRECTORY} if backup.metadata.has_aof else {}
    return {"the RDB snapshot": backup.path / RDB_FILE, **aof}


def scratch_source(backup: BackupSet, path: Path) -> Source:
    """Return a part of a backup as a source for a scratch Redis."""
    highest = max((int(name.removeprefix("db")) for name in backup.metadata.databases), default=0)
    return Source(path, backup.metadata.memory, max(16, highest + 1))


def _load(instance: Instance, backup: BackupSet, path: Path, counts: dict[str, int]) -> list[str]:
    """Load a part and return what is wrong with it.

    Adds the numbers of sessions and jobs to ``counts`` unless it has them already.
    """
    try:
        with loaded_redis(instance, scratch_source(backup, path)) as redis:
            if not counts:
                counts |= {"sessions": count_keys(redis, instance.session_keys), "jobs": count_keys(redis, "rq:job:*")}
            return compare(redis, backup)
    except NotLoadable as error:
        return [str(error)]
    except RedisError as error:
        return [f"Redis answers: {error_text(error)}"]


def compare(redis: Redis, backup: BackupSet) -> list[str]:
    """Say how the loaded data differs from the metadata of its backup."""
    loaded = {
        name: {"keys": database["keys"], "expires": database["expires"]}
        for name, database in keyspace(redis.info("keyspace")).items()
    }
    expected = backup.metadata.databases
    problems = [
        f"{name} has {_describe(loaded.get(name))}, the backup should have {_describe(expected.get(name))}"
        for name in sorted({*loaded, *expected})
        if loaded.get(name) != expected.get(name)
    ]
    try:
        samples = json.loads((backup.path / catalog.SAMPLES).read_text())
        keys = [sample.pop("key").encode("latin-1") for sample in samples]
        before = [Fingerprint(**sample) for sample in samples]
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return [*problems, f"{catalog.SAMPLES} cannot be read"]
    after = fingerprints(redis, keys)
    # An expired key is counted, but cannot be read.
    now = time.time() * 1000
    differing = sum(
        old != new and (new.is_there or not 0 < old.expires_at <= now) for old, new in zip(before, after, strict=True)
    )
    return [*problems, *([f"{differing} of {len(samples)} sampled keys differ"] if differing else [])]


def _describe(database: dict[str, int] | None) -> str:
    return f"{database['keys']} keys, {database['expires']} with a TTL" if database else "no keys"


def count_keys(redis: Redis, pattern: str) -> int:
    """Count the keys of a pattern.

    The count is exact, because nothing writes: SCAN reports no key twice then.
    """
    return sum(len(keys) for keys in keys_like(redis, pattern))
