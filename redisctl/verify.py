"""Verifying a backup: it is loaded in a scratch Redis, and what is there is compared with what it says of itself."""

import json
import time
from dataclasses import replace
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from redisctl import aof, archive
from redisctl.archive import Archive
from redisctl.instance import Failure, Instance, in_words
from redisctl.readings import keyspace
from redisctl.scratch import NotLoadable, Source, loaded
from redisctl.values import Value, values
from redisctl.walk import keys_like

OK, FAILED = "ok", "failed"


def verify(instance: Instance, one: Archive) -> Archive:
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
    archive.write_json(one.path / archive.VERIFIED, told)
    if problems:
        raise Failure(f"backup {one.id} is bad: {'; '.join(problems)}")
    return archive.opened(one.path)


def try_with(instance: Instance, one: Archive, image: str) -> None:
    """The same with another image, of which nothing is noted: a backup that it does not read is a good one still.

    Raises Failure, with what that image's server says.
    """
    problems = _problems(replace(instance, tried=image), one, {})
    if problems:
        raise Failure(f"{image} does not read backup {one.id}: {'; '.join(problems)}")


def _problems(instance: Instance, one: Archive, counts: dict[str, int]) -> list[str]:
    found = archive.damage(one)
    if not found:
        for name, path in parts(one).items():
            found += [f"{name}: {problem}" for problem in _load(instance, one, path, counts)]
    return found


def parts(one: Archive) -> dict[str, Path]:
    """What of a backup can be loaded by itself: the snapshot, and the log of writes where there is one."""
    log = {"the log of writes": one.path / aof.DIRECTORY} if one.backup.has_log else {}
    return {"the snapshot": one.path / archive.SNAPSHOT, **log}


def source(one: Archive, path: Path) -> Source:
    """A part of a backup, to be loaded."""
    highest = max((int(name.removeprefix("db")) for name in one.backup.databases), default=0)
    return Source(path, one.backup.memory, max(16, highest + 1))


def _load(instance: Instance, one: Archive, path: Path, counts: dict[str, int]) -> list[str]:
    """Load a part and say what is wrong with it; count sessions and jobs where that was not done yet."""
    try:
        with loaded(instance, source(one, path)) as redis:
            if not counts:
                counts |= {"sessions": count(redis, instance.session_keys), "jobs": count(redis, "rq:job:*")}
            return compare(redis, one)
    except NotLoadable as error:
        return [str(error)]
    except RedisError as error:
        return [f"Redis says: {in_words(error)}"]


def compare(redis: Redis, one: Archive) -> list[str]:
    """How what was loaded differs from what the backup says."""
    there = {
        name: {"keys": database["keys"], "expires": database["expires"]}
        for name, database in keyspace(redis.info("keyspace")).items()
    }
    problems = [
        f"{name} has {_words(there.get(name))}, the backup says {_words(one.backup.databases.get(name))}"
        for name in sorted({*there, *one.backup.databases})
        if there.get(name) != one.backup.databases.get(name)
    ]
    samples = json.loads((one.path / archive.SAMPLES).read_text())
    wanted = [Value(**{name: one for name, one in sample.items() if name != "key"}) for sample in samples]
    found = values(redis, [sample["key"].encode("latin-1") for sample in samples])
    # A key whose time is over is counted, and not shown.
    now = time.time() * 1000
    differing = sum(
        want != have and (have.is_there or not 0 < want.ends <= now) for want, have in zip(wanted, found, strict=True)
    )
    return [*problems, *([f"{differing} of {len(samples)} sampled keys differ"] if differing else [])]


def _words(database: dict[str, int] | None) -> str:
    return f"{database['keys']} keys, {database['expires']} with a TTL" if database else "no keys"


def count(redis: Redis, pattern: str) -> int:
    """Keys of a pattern. Nobody else is there: none comes twice while nothing is written."""
    return sum(len(keys) for keys in keys_like(redis, pattern))
