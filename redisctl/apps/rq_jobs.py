"""Jobs of RQ 3: the old ones removed, the failed ones put back, in RQ's own moves (its job.py and registry.py).

What claims a job is that it is taken out of its registry: whoever does that has it alone, and RQ does the same. No
transactions, since an administrator beside a default user has none.
"""

import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from redis import Redis

from redisctl.apps.rq_queues import JOB, JOBS, QUEUE, QUEUES, REGISTRIES, RESULTS, errors, queue_names, when
from redisctl.core.scan import PAUSE, ask, batches, keys_like, members

# What can be cleaned, and the states of the jobs that belong there: another means that the job is run again under the
# same name, and only the registry's entry is old. Results are those whose job is gone.
PRUNABLE = {
    "finished": ("finished",),
    "failed": ("failed", "stopped"),
    "canceled": ("canceled",),
    "deferred": ("deferred",),
}
ORPHANS = "results"
# Work that is done; a deferred job still waits for another.
DEFAULT_PRUNABLE = ("finished", "failed", "canceled", ORPHANS)

# Seconds, of a job that says none (rq.Queue.DEFAULT_TIMEOUT).
TIMEOUT = 180


@dataclass(frozen=True)
class Choice:
    """Which failed jobs: of a queue, with these words in their reason, or by name. Empty means all."""

    queue: str = ""
    error: str = ""
    jobs: tuple[str, ...] = ()


@dataclass
class Requeued:
    """What was done, or would be, by queue. ``rate_limited`` of it wait for a rate limit; ``skipped`` were not meant
    after all."""

    queues: Counter[str] = field(default_factory=Counter)
    rate_limited: int = 0
    skipped: int = 0


def ended(registry: str, score: float, ended_at: str | None, created_at: str | None) -> float:
    """When a job came into its registry, in seconds since the epoch.

    The score says it of canceled and deferred jobs; of others it is when RQ forgets the entry.
    """
    return score if registry in ("canceled", "deferred") else when(ended_at, created_at)


def prune(
    redis: Redis, before: float, registries: tuple[str, ...], queue: str = "", *, dry_run: bool
) -> dict[str, dict[str, int]]:
    """Remove jobs that ended before a time, with their results, or only count them. Raises RedisError.

    Entries of jobs that are gone or run again go without regard to age: RQ looks at them in vain.
    """
    done: dict[str, dict[str, int]] = {}
    for registry in registries:
        if registry == ORPHANS:
            done[registry] = {"jobs": 0, "entries": 0, "results": _orphans(redis, before, dry_run=dry_run)}
            continue
        counts = Counter[str]()
        for name in [queue] if queue else queue_names(redis):
            _prune(redis, registry, name, before, counts, dry_run=dry_run)
        done[registry] = {"jobs": counts["jobs"], "entries": counts["entries"], "results": 0}
    return done


def _prune(redis: Redis, registry: str, name: str, before: float, counts: Counter[str], *, dry_run: bool) -> None:
    key = REGISTRIES[registry] + name
    fields = ("status", "ended_at", "created_at", "group_id", "rate_limit_key")
    for entries in members(redis, key, JOBS):
        old: list[tuple[str, str, str]] = []
        stale: list[str] = []
        records = ask(redis, [("HMGET", JOB + job, *fields) for job, _ in entries])
        for (job, score), (status, ended_at, created_at, group, limit) in zip(entries, records, strict=True):
            if status not in PRUNABLE[registry]:
                stale.append(job)
            elif ended(registry, score, ended_at, created_at) < before:
                old.append((job, group, limit))
        if dry_run:
            counts["jobs"] += len(old)
            counts["entries"] += len(stale)
            continue
        if stale:
            counts["entries"] += int(redis.zrem(key, *stale))
        mine = ask(redis, [("ZREM", key, job) for job, *_ in old])
        taken = [job for job, claimed in zip(old, mine, strict=True) if claimed]
        ask(redis, [command for job in taken for command in _removal(*job)])
        counts["jobs"] += len(taken)


def _removal(job: str, group: str | None, limit: str | None) -> Iterator[tuple[str, ...]]:
    # RQ looks for it in the queue as well, at the cost of the whole queue. An ended job is not there.
    kept = [JOB + job, f"{JOB}{job}:dependents", f"{JOB}:{job}:dependencies", RESULTS + job]
    if limit:
        # Its executions stay, as with RQ: they hold its place as long as it runs.
        yield "ZREM", f"rq:rl:{limit}:rate_limited", job
    else:
        kept.append(f"rq:executions:{job}")
    if group:
        yield "SREM", f"rq:group:{group}", job
    yield "UNLINK", *kept


def _orphans(redis: Redis, before: float, *, dry_run: bool) -> int:
    count = 0
    for keys in keys_like(redis, f"{RESULTS}*"):
        there = ask(redis, [("EXISTS", JOB + key[len(RESULTS) :]) for key in keys])
        alone = [key for key, job in zip(keys, there, strict=True) if not job]
        for some in batches(alone, JOBS):
            newest = ask(redis, [("XREVRANGE", key, "+", "-", "COUNT", 1) for key in some])
            # A stream's entries are named by their time in milliseconds.
            ages = [int(found[0][0].split("-")[0]) / 1000 if found else 0.0 for found in newest]
            old = [key for key, made in zip(some, ages, strict=True) if made < before]
            count += int(redis.unlink(*old)) if not dry_run and old else len(old)
            time.sleep(PAUSE)
    return count


def requeue(redis: Redis, choice: Choice, *, dry_run: bool) -> Requeued:
    """Put failed jobs back into their queues, at the end, or only count them. Raises RedisError."""
    done = Requeued()
    begun = time.time()
    fields = ("status", "origin", "ended_at", "timeout", "ttl", "rate_limit_key", "rate_limit_concurrency")
    for name, jobs in _failed(redis, choice):
        records = ask(redis, [("HMGET", JOB + job, *fields) for job in jobs])
        wanted = {}
        for job, values in zip(jobs, records, strict=True):
            record = dict(zip(fields, values, strict=True))
            if record["status"] not in PRUNABLE["failed"]:
                done.skipped += 1
            # One that failed again since is not put back again.
            elif when(record["ended_at"]) < begun:
                wanted[job] = record
        if choice.error and wanted:
            reasons = errors(redis, list(wanted))
            wanted = {job: record for job, record in wanted.items() if choice.error in reasons[job]}
        if not dry_run and wanted:
            taken = _take(redis, name, wanted)
            done.skipped += len(wanted) - len(taken)
            wanted = taken
        done.rate_limited += sum(1 for record in wanted.values() if _limited(record))
        if wanted:
            done.queues[name] += len(wanted)
    if choice.jobs:
        done.skipped = len(choice.jobs) - sum(done.queues.values())
    return done


def _failed(redis: Redis, choice: Choice) -> Iterator[tuple[str, list[str]]]:
    """Failed jobs by queue, in batches."""
    names = [choice.queue] if choice.queue else queue_names(redis)
    for name in names:
        key = REGISTRIES["failed"] + name
        if not choice.jobs:
            for entries in members(redis, key, JOBS):
                yield name, [job for job, _ in entries]
            continue
        for some in batches(list(choice.jobs), JOBS):
            scores = ask(redis, [("ZSCORE", key, job) for job in some])
            if found := [job for job, score in zip(some, scores, strict=True) if score is not None]:
                yield name, found


def _take(redis: Redis, name: str, wanted: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Put jobs into a queue; those that are still failed, which are returned."""
    # First, since a Redis that is full refuses it: nothing has been taken out then. Whoever is killed between the other
    # two, as RQ itself may be, leaves jobs in neither place: no more than are taken at once.
    redis.sadd(QUEUES, QUEUE + name)
    claimed = ask(redis, [("ZREM", REGISTRIES["failed"] + name, job) for job in wanted])
    taken = {job: wanted[job] for job, mine in zip(wanted, claimed, strict=True) if mine}
    now = datetime.now(timezone.utc)
    ask(redis, [command for job, record in taken.items() for command in requeue_commands(name, job, record, now)])
    return taken


def requeue_commands(name: str, job: str, record: dict[str, Any], now: datetime) -> Iterator[tuple[Any, ...]]:
    """The commands that make a failed job wait again, as ``FailedJobRegistry.requeue`` does."""
    key = JOB + job
    # Empty, as RQ writes what is not there.
    values = {"started_at": "", "ended_at": "", "exc_info": zlib.compress(b""), "origin": name}
    values["timeout"] = record["timeout"] or str(TIMEOUT)
    if _limited(record):
        values["status"] = "rate_limited"
    else:
        values |= {"status": "queued", "enqueued_at": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    yield "HSET", key, *(word for pair in values.items() for word in pair)
    # A failed job has a TTL, and so may be evicted: one that waits must not be. Here RQ leaves the TTL of the failure.
    for one in (key, f"{key}:dependents", f"{JOB}:{job}:dependencies"):
        yield ("EXPIRE", one, record["ttl"]) if record["ttl"] else ("PERSIST", one)
    if not _limited(record):
        yield "RPUSH", QUEUE + name, job
        return
    # RQ gives it a place when another job of the limit ends, or in its workers' maintenance every ten minutes.
    limit = record["rate_limit_key"]
    yield "SADD", "rq:rl-keys", limit
    yield "HSET", f"rq:rl:{limit}", "concurrency", record["rate_limit_concurrency"]
    yield "ZADD", f"rq:rl:{limit}:rate_limited", now.timestamp(), job


def _limited(record: dict[str, Any]) -> bool:
    return bool(record["rate_limit_key"] and record["rate_limit_concurrency"])
