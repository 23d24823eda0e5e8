"""Pruning of old jobs of RQ 3 and requeueing of failed ones.

Sends the same commands as RQ (its job.py and registry.py). Removing a job from its registry claims it: only one client
succeeds, and RQ does the same. It uses no transactions, because admin has none if there is a default user.
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
from redisctl.core.answers import reading_answers
from redisctl.core.scan import PAUSE, ask, batches, keys_like, members

# Registries that can be pruned, with the states of their jobs. A job with another state has been enqueued again under
# its id, and only the registry's entry is old.
PRUNABLE = {
    "finished": ("finished",),
    "failed": ("failed", "stopped"),
    "canceled": ("canceled",),
    "deferred": ("deferred",),
}
# Results without a job.
ORPHANS = "results"
# Without deferred: such a job still waits for another one.
DEFAULT_PRUNABLE = ("finished", "failed", "canceled", ORPHANS)

# Seconds, for a job without a timeout (rq.Queue.DEFAULT_TIMEOUT).
TIMEOUT = 180


@dataclass(frozen=True)
class Choice:
    """Which failed jobs to requeue.

    ``queue`` selects the jobs of a queue, ``error`` those with this text in their reason, ``jobs`` those with these
    ids. Empty means all.
    """

    queue: str = ""
    error: str = ""
    jobs: tuple[str, ...] = ()


@dataclass
class Requeued:
    """Numbers of requeued jobs by queue.

    ``rate_limited`` counts those that wait for a rate limit. ``skipped`` counts jobs that are gone, no longer failed,
    or failed again.
    """

    queues: Counter[str] = field(default_factory=Counter)
    rate_limited: int = 0
    skipped: int = 0


def ended(registry: str, score: float, ended_at: str | None, created_at: str | None) -> float:
    """Return when a job entered its registry, in seconds since the epoch.

    For canceled and deferred jobs that is the score. For others, the score is when RQ forgets the entry.
    """
    return score if registry in ("canceled", "deferred") else when(ended_at, created_at)


@reading_answers()
def prune(
    redis: Redis, before: float, registries: tuple[str, ...], queue: str = "", *, dry_run: bool
) -> dict[str, dict[str, int]]:
    """Remove jobs that ended before a time, with their results, or count them.

    Entries of jobs that are gone or were enqueued again are removed at any age: they only cost RQ time. ``before`` is
    in seconds since the epoch. Raises RedisError.
    """
    pruned: dict[str, dict[str, int]] = {}
    for registry in registries:
        if registry == ORPHANS:
            pruned[registry] = {"jobs": 0, "entries": 0, "results": _orphans(redis, before, dry_run=dry_run)}
            continue
        counts = Counter[str]()
        for name in [queue] if queue else queue_names(redis):
            _prune(redis, registry, name, before, counts, dry_run=dry_run)
        pruned[registry] = {"jobs": counts["jobs"], "entries": counts["entries"], "results": 0}
    return pruned


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
        answers = ask(redis, [("ZREM", key, job) for job, *_ in old])
        claimed = [job for job, is_claimed in zip(old, answers, strict=True) if is_claimed]
        ask(redis, [command for job in claimed for command in _removal(*job)])
        counts["jobs"] += len(claimed)


def _removal(job: str, group: str | None, limit: str | None) -> Iterator[tuple[str, ...]]:
    # RQ also searches the queue, which reads all of it. A job that has ended is not there.
    keys = [JOB + job, f"{JOB}{job}:dependents", f"{JOB}:{job}:dependencies", RESULTS + job]
    if limit:
        # Its executions stay, as with RQ: they count for the limit.
        yield "ZREM", f"rq:rl:{limit}:rate_limited", job
    else:
        keys.append(f"rq:executions:{job}")
    if group:
        yield "SREM", f"rq:group:{group}", job
    yield "UNLINK", *keys


def _orphans(redis: Redis, before: float, *, dry_run: bool) -> int:
    count = 0
    for keys in keys_like(redis, f"{RESULTS}*"):
        jobs = ask(redis, [("EXISTS", JOB + key[len(RESULTS) :]) for key in keys])
        orphans = [key for key, job in zip(keys, jobs, strict=True) if not job]
        for batch in batches(orphans, JOBS):
            newest = ask(redis, [("XREVRANGE", key, "+", "-", "COUNT", 1) for key in batch])
            # The ids of a stream's entries begin with their time in milliseconds.
            times = [int(entries[0][0].split("-")[0]) / 1000 if entries else 0.0 for entries in newest]
            old = [key for key, created in zip(batch, times, strict=True) if created < before]
            count += int(redis.unlink(*old)) if not dry_run and old else len(old)
            time.sleep(PAUSE)
    return count


def requeue(redis: Redis, choice: Choice, *, dry_run: bool) -> Requeued:
    """Requeue failed jobs at the end of their queues, or count them.

    Raises RedisError.
    """
    result = Requeued()
    start = time.time()
    fields = ("status", "origin", "ended_at", "timeout", "ttl", "rate_limit_key", "rate_limit_concurrency")
    for name, jobs in _failed(redis, choice):
        records = ask(redis, [("HMGET", JOB + job, *fields) for job in jobs])
        chosen = {}
        for job, values in zip(jobs, records, strict=True):
            record = dict(zip(fields, values, strict=True))
            if record["status"] not in PRUNABLE["failed"]:
                result.skipped += 1
            # A job that failed again since the start is not requeued again.
            elif when(record["ended_at"]) < start:
                chosen[job] = record
        if choice.error and chosen:
            reasons = errors(redis, list(chosen))
            chosen = {job: record for job, record in chosen.items() if choice.error in reasons[job]}
        if not dry_run and chosen:
            claimed = _claim(redis, name, chosen)
            result.skipped += len(chosen) - len(claimed)
            chosen = claimed
        result.rate_limited += sum(1 for record in chosen.values() if _is_limited(record))
        if chosen:
            result.queues[name] += len(chosen)
    if choice.jobs:
        result.skipped = len(choice.jobs) - sum(result.queues.values())
    return result


def _failed(redis: Redis, choice: Choice) -> Iterator[tuple[str, list[str]]]:
    """Yield failed jobs by queue, in batches."""
    names = [choice.queue] if choice.queue else queue_names(redis)
    for name in names:
        key = REGISTRIES["failed"] + name
        if not choice.jobs:
            for entries in members(redis, key, JOBS):
                yield name, [job for job, _ in entries]
            continue
        for batch in batches(list(choice.jobs), JOBS):
            scores = ask(redis, [("ZSCORE", key, job) for job in batch])
            if jobs := [job for job, score in zip(batch, scores, strict=True) if score is not None]:
                yield name, jobs


def _claim(redis: Redis, name: str, chosen: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Put jobs into a queue if they are still failed. Returns those."""
    # This write comes first: a full Redis refuses it before any job has been claimed. A kill between the other two
    # steps loses at most one batch of jobs, as it may with RQ itself.
    redis.sadd(QUEUES, QUEUE + name)
    answers = ask(redis, [("ZREM", REGISTRIES["failed"] + name, job) for job in chosen])
    claimed = {job: chosen[job] for job, is_claimed in zip(chosen, answers, strict=True) if is_claimed}
    now = datetime.now(timezone.utc)
    ask(redis, [command for job, record in claimed.items() for command in requeue_commands(name, job, record, now)])
    return claimed


def requeue_commands(name: str, job: str, record: dict[str, Any], now: datetime) -> Iterator[tuple[Any, ...]]:
    """Yield the commands that requeue a failed job.

    They do the same as ``FailedJobRegistry.requeue`` of RQ.
    """
    key = JOB + job
    # RQ writes missing values as empty ones.
    values = {"started_at": "", "ended_at": "", "exc_info": zlib.compress(b""), "origin": name}
    values["timeout"] = record["timeout"] or str(TIMEOUT)
    if _is_limited(record):
        values["status"] = "rate_limited"
    else:
        values |= {"status": "queued", "enqueued_at": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    yield "HSET", key, *(word for pair in values.items() for word in pair)
    # A key with a TTL may be evicted, and a waiting job must not be. RQ itself leaves the TTL of the failure.
    for kept in (key, f"{key}:dependents", f"{JOB}:{job}:dependencies"):
        yield ("EXPIRE", kept, record["ttl"]) if record["ttl"] else ("PERSIST", kept)
    if not _is_limited(record):
        yield "RPUSH", QUEUE + name, job
        return
    # RQ enqueues it when another job of the limit ends, or in its workers' maintenance every ten minutes.
    limit = record["rate_limit_key"]
    yield "SADD", "rq:rl-keys", limit
    yield "HSET", f"rq:rl:{limit}", "concurrency", record["rate_limit_concurrency"]
    yield "ZADD", f"rq:rl:{limit}:rate_limited", now.timestamp(), job


def _is_limited(record: dict[str, Any]) -> bool:
    return bool(record["rate_limit_key"] and record["rate_limit_concurrency"])
