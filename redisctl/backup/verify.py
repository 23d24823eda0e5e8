"""Verification of backups.

It loads them in a scratch Redis and compares the contents with the metadata.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from redisctl import schema
from redisctl.backup import catalog
from redisctl.backup.catalog import BackupSet
from redisctl.core import aof_manifest
from redisctl.core.contents import Contents, key_prefixes
from redisctl.core.counting import count_contents
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE, write_json
from redisctl.core.fingerprint import Fingerprint, fingerprints
from redisctl.core.instance import Instance, error_text
from redisctl.core.keyspace import keyspace
from redisctl.core.scratch_redis import NotLoadable
from redisctl.core.trial import Source, loaded_redis

OK, FAILED = "ok", "failed"
# The largest redis_databases.
_MAX_DATABASES = 1024


@dataclass(frozen=True)
class _Sample:
    """A key of ``samples.json``, one character for each byte, and its fingerprint."""

    key: str
    type: str
    expires_at: int
    length: int
    digest: str


def verify_backup(instance: Instance, backup: BackupSet) -> BackupSet:
    """Check a backup's files, load each of its parts, and record the verdict.

    Raises Failure if the backup is bad. If it cannot be loaded for another reason, such as lack of memory, nothing is
    recorded and Failure says why.
    """
    start = time.monotonic()
    problems, contents = _examine(instance, backup)
    result = {
        "verdict": FAILED if problems else OK,
        "at": time.time(),
        "took": round(time.monotonic() - start, 1),
        "problems": problems,
        **(contents.as_dict() if contents else {}),
    }
    write_json(backup.path / catalog.VERIFIED, result, instance.owner)
    if problems:
        raise Failure(f"backup {backup.id} is bad: {'; '.join(problems)}")
    return catalog.open_backup(backup.path)


def verify_with_image(instance: Instance, backup: BackupSet, image: str, config: str = "") -> None:
    """Verify a backup with another image and record nothing.

    ``config`` is the redis.conf with which the image will start: its modules and encodings are loaded. A backup that
    this image cannot read is still good. Raises Failure with what the image's server reports.
    """
    problems, _ = _examine(replace(instance, image_override=image, config_override=config), backup)
    if problems:
        raise Failure(f"{image} does not read backup {backup.id}: {'; '.join(problems)}")


def _examine(instance: Instance, backup: BackupSet) -> tuple[list[str], Contents | None]:
    """Return what is wrong with a backup, and what it contains if it loads."""
    problems, contents = catalog.find_damage(backup), None
    if not problems:
        try:
            # A copy of another host may have the owner of the Redis there.
            catalog.own_backup(backup.path, instance.owner)
        except OSError as error:
            raise Failure(f"{error.filename or backup.path}: {error.strerror}") from None
        for name, path in loadable_parts(backup).items():
            try:
                with loaded_redis(instance, scratch_source(backup, path)) as redis:
                    problems += [f"{name}: {problem}" for problem in compare(redis, backup)]
                    # Both parts have the same contents.
                    contents = contents or count_contents(redis, key_prefixes(instance.session_keys))
            except NotLoadable as error:
                problems.append(f"{name}: {error}")
            except RedisError as error:
                # A server that is busy or was killed says nothing of the data.
                raise Failure(
                    f"backup {backup.id} was not verified, because the second Redis that loads it did not answer: "
                    f"{error_text(error)}. Try again: redisctl backup verify {backup.id}"
                ) from None
    return problems, contents


def loadable_parts(backup: BackupSet) -> dict[str, Path]:
    """Return the parts of a backup that can be loaded separately.

    These are the RDB snapshot, and the AOF if the backup has one.
    """
    aof = {"the AOF": backup.path / aof_manifest.DIRECTORY} if backup.metadata.has_aof else {}
    return {"the RDB snapshot": backup.path / RDB_FILE, **aof}


def scratch_source(backup: BackupSet, path: Path) -> Source:
    """Return a part of a backup as a source for a scratch Redis."""
    highest = max((int(name.removeprefix("db")) for name in backup.metadata.databases), default=0)
    # An AOF may use databases that had no keys left in the end.
    return Source(path, backup.metadata.memory, max(_MAX_DATABASES, highest + 1))


def compare(redis: Redis, backup: BackupSet) -> list[str]:
    """Say how the loaded data differs from the metadata of its backup.

    Both count expired keys that are not deleted.
    """
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
        samples = _read_samples(backup.path)
    except (OSError, ValueError, RecursionError):
        return [*problems, f"{catalog.SAMPLES} cannot be read"]
    before = list(samples.values())
    after = fingerprints(redis, list(samples))
    # An expired key is counted, but cannot be read.
    now = time.time() * 1000
    differing = sum(
        not old.is_same(new) and (new.is_there or not 0 < old.expires_at <= now)
        for old, new in zip(before, after, strict=True)
    )
    return [*problems, *([f"{differing} of {len(samples)} sampled keys differ"] if differing else [])]


def _read_samples(path: Path) -> dict[bytes, Fingerprint]:
    """Return the sampled keys of a backup.

    Raises OSError, ValueError and RecursionError.
    """
    samples = catalog.read_json(path, catalog.SAMPLES)
    if not isinstance(samples, list):
        raise ValueError(f"{catalog.SAMPLES} is not a list")
    typed = [schema.from_dict(_Sample, sample if isinstance(sample, dict) else {}) for sample in samples]
    return {
        sample.key.encode("latin-1"): Fingerprint(sample.type, sample.expires_at, sample.length, sample.digest)
        for sample in typed
    }


def _describe(database: dict[str, int] | None) -> str:
    return f"{database['keys']} keys, {database['expires']} with a TTL" if database else "no keys"
