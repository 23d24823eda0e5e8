"""Queues of RQ 3: lengths, workers, failures with reasons, and leftovers.

They are read from RQ's keys, without RQ. Arguments and results of a job are pickled; they are never loaded here. A job
is named by its function, without the arguments, which are private data.
"""

import base64
import binascii
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from redis import Redis

from redisctl.core.formatting import ago, size
from redisctl.core.scan import PAUSE, Sample, ask, batches, keys_like, memory

QUEUES, WORKERS = "rq:queues", "rq:workers"
QUEUE, WORKER, JOB, RESULTS = "rq:queue:", "rq:worker:", "rq:job:", "rq:results:"
REGISTRIES = {
    "started": "rq:wip:",
    "finished": "rq:finished:",
    "failed": "rq:failed:",
    "deferred": "rq:deferred:",
    "scheduled": "rq:scheduled:",
    "canceled": "rq:canceled:",
}
# Jobs that are read at once: each answer may contain a traceback.
JOBS = 100
# Failed jobs of a queue whose reason is read, and reasons that are shown.
MAX_FAILED = 10_000
REASONS = 20
# Jobs at the head of a queue among which to find the oldest: some are enqueued in front.
HEAD = 100
# Jobs and results whose memory is measured.
MEASURED = 500
# Seconds. An idle worker sends a heartbeat every 405, and its record expires after 480
# (rq.defaults.DEFAULT_WORKER_TTL).
HEARTBEAT_TIMEOUT = 480
# States in which a job has no TTL, because it still has to run.
WAITING = ("queued", "started", "deferred", "scheduled", "rate_limited", "ready_to_enqueue", "created")
# Characters of an unpacked traceback, at most.
MAX_TRACEBACK = 1024**2


@dataclass(frozen=True)
class Queue:
    """The jobs of a queue.

    ``oldest`` is the age in seconds of the oldest waiting job, None without one. ``overdue`` counts jobs that should
    have been scheduled more than a minute ago; ``abandoned`` those whose worker died.
    """

    name: str
    waiting: int
    oldest: float | None
    registries: dict[str, int]
    overdue: int = 0
    abandoned: int = 0


@dataclass(frozen=True)
class Worker:
    """A worker.

    ``heartbeat`` is the age of its last heartbeat in seconds, None if its record has expired.
    """

    name: str
    state: str
    heartbeat: float | None
    queues: tuple[str, ...] = ()
    job: str = ""
    dead: bool = False


@dataclass
class Failures:
    """Groups failed jobs by reason."""

    checked: int = 0
    count: Counter[tuple[str, str]] = field(default_factory=Counter)
    newest: dict[tuple[str, str], tuple[float, str, str]] = field(default_factory=dict)

    def add(self, queue: str, error: str, ended: float, job: str, function: str) -> None:
        """Count a failure, and remember the newest one of its kind as an example."""
        kind = (queue, error)
        self.checked += 1
        self.count[kind] += 1
        self.newest[kind] = max(self.newest.get(kind, (0.0, "", "")), (ended, job, function))

    def groups(self, at: float) -> list[dict[str, Any]]:
        """Return the reasons, most frequent first, with the age of the newest failure.

        Ages are in seconds, None if unknown.
        """
        groups = []
        for (queue, error), count in self.count.most_common(REASONS):
            ended, job, function = self.newest[queue, error]
            age = round(at - ended, 1) if ended else None
            groups.append(
                {"queue": queue, "error": error, "count": count, "newest": age, "job": job, "function": function}
            )
        return groups


@dataclass
class Backlog:
    """Counts of leftovers.

    Leftovers are ended jobs and results without a TTL, and results without a job.
    """

    jobs: int = 0
    results: int = 0
    jobs_without_ttl: Counter[str] = field(default_factory=Counter)
    results_without_ttl: int = 0
    results_without_job: int = 0

    def add_jobs(self, answers: list[tuple[int, str | None]]) -> None:
        """Count jobs by their answers to TTL and status."""
        for ttl, status in answers:
            self.jobs += 1
            if ttl == -1 and status not in WAITING:
                self.jobs_without_ttl[status or "damaged"] += 1

    def add_results(self, answers: list[tuple[int, int]]) -> None:
        """Count results by their TTL and whether their job exists."""
        for ttl, job in answers:
            self.results += 1
            self.results_without_ttl += ttl == -1
            self.results_without_job += not job


def collect(redis: Redis) -> dict[str, Any]:
    """Read everything that RQ stores, in small steps.

    Times are in seconds, sizes in bytes. Raises RedisError.
    """
    at = time.time()
    names = queue_names(redis)
    queues = [_queue(redis, name, at) for name in names]
    failures = Failures()
    for name in names:
        _failures(redis, name, failures)
    return {
        "queues": [asdict(queue) for queue in queues],
        "workers": [asdict(worker) for worker in _workers(redis, at)],
        "failed": {"checked": failures.checked, "groups": failures.groups(at)},
        "backlog": _backlog(redis),
    }


def queue_names(redis: Redis) -> list[str]:
    """Return the names of RQ's queues."""
    return sorted(str(key)[len(QUEUE) :] for key in redis.smembers(QUEUES))


def _queue(redis: Redis, name: str, at: float) -> Queue:
    waiting, head, overdue, abandoned, *counts = ask(
        redis,
        [
            ("LLEN", QUEUE + name),
            ("LRANGE", QUEUE + name, 0, HEAD - 1),
            ("ZCOUNT", REGISTRIES["scheduled"] + name, "-inf", at - 60),
            ("ZCOUNT", REGISTRIES["started"] + name, 0, at),
            *(("ZCARD", prefix + name) for prefix in REGISTRIES.values()),
        ],
    )
    times = [
        when(*fields) for fields in ask(redis, [("HMGET", JOB + job, "enqueued_at", "created_at") for job in head])
    ]
    oldest = max((at - enqueued for enqueued in times if enqueued), default=None)
    registries = dict(zip(REGISTRIES, counts, strict=True))
    return Queue(name, waiting, None if oldest is None else round(oldest, 1), registries, overdue, abandoned)


def _workers(redis: Redis, at: float) -> Iterator[Worker]:
    fields = ("state", "last_heartbeat", "queues", "current_job", "death")
    for keys in batches(sorted(map(str, redis.smembers(WORKERS))), JOBS):
        for key, values in zip(keys, ask(redis, [("HMGET", key, *fields) for key in keys]), strict=True):
            yield worker_of(key[len(WORKER) :], dict(zip(fields, values, strict=True)), at)


def worker_of(name: str, values: dict[str, str | None], at: float) -> Worker:
    """Return a worker from its record. The fields are None if the record has expired."""
    heartbeat = when(values["last_heartbeat"])
    if not heartbeat:
        return Worker(name, "gone", None, dead=True)
    age = round(at - heartbeat, 1)
    dead = bool(values["death"]) or age > HEARTBEAT_TIMEOUT
    queues = tuple((values["queues"] or "").split(","))
    return Worker(name, values["state"] or "starting", age, queues, values["current_job"] or "", dead)


def _failures(redis: Redis, name: str, failures: Failures) -> None:
    count = 0
    # The score is when the record expires, and most have the same TTL: so the highest score is the newest failure.
    while entries := redis.zrevrange(REGISTRIES["failed"] + name, count, min(count + JOBS, MAX_FAILED) - 1):
        jobs = list(map(str, entries))
        count += len(jobs)
        reasons = errors(redis, jobs)
        fields = ask(redis, [("HMGET", JOB + job, "ended_at", "created_at", "description") for job in jobs])
        for job, (ended, created, description) in zip(jobs, fields, strict=True):
            failures.add(name, reasons[job], when(ended, created), job, function_of(description))
        if count >= MAX_FAILED:
            return
        time.sleep(PAUSE)


def errors(redis: Redis, jobs: list[str]) -> dict[str, str]:
    """Return why jobs failed, in one line each.

    The reason is from the job's newest result, or from its record as before RQ 1.11.
    """
    results = ask(redis, [("XREVRANGE", RESULTS + job, "+", "-", "COUNT", 1) for job in jobs])
    packed = {job: packed_error(entries[0][1]) for job, entries in zip(jobs, results, strict=True) if entries}
    old = [job for job in jobs if not packed.get(job)]
    for job, text in zip(old, ask(redis, [("HGET", JOB + job, "exc_info") for job in old]), strict=True):
        packed[job] = (text or "").encode(errors="surrogateescape")
    return {job: last_line(unpacked(packed[job])) for job in jobs}


def packed_error(result: dict[str, str]) -> bytes:
    """Return the compressed traceback in a result. Does not read the return value."""
    try:
        return base64.b64decode(result.get("exc_string", ""))
    except (binascii.Error, ValueError):
        return b""


def unpacked(packed: bytes) -> str:
    """Unpack a traceback, at most MAX_TRACEBACK characters of it."""
    try:
        return zlib.decompressobj().decompress(packed, MAX_TRACEBACK).decode(errors="replace")
    except zlib.error:
        return packed.decode(errors="replace")


def last_line(traceback: str) -> str:
    """Return the last line of a traceback, which is the error."""
    lines = [line.strip() for line in traceback.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason was stored"


def function_of(description: str | None) -> str:
    """Return the function in a job's description, without its arguments."""
    return (description or "?").split("(")[0]


def when(*texts: str | None) -> float:
    """Return the first of RQ's timestamps that is set, in seconds since the epoch.

    Returns 0 if none is set.
    """
    for text in texts:
        for pattern in ("%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%SZ"):
            try:
                return datetime.strptime(text or "", pattern).replace(tzinfo=timezone.utc).timestamp()
            except ValueError:
                continue
    return 0.0


def _backlog(redis: Redis) -> dict[str, Any]:
    backlog = Backlog()
    jobs, results = Sample(MEASURED), Sample(MEASURED)
    for keys in keys_like(redis, "rq:*"):
        batch = [key for key in keys if key.startswith(JOB) and not key.endswith((":dependents", ":dependencies"))]
        answers = ask(redis, [command for key in batch for command in (("TTL", key), ("HGET", key, "status"))])
        backlog.add_jobs(list(zip(answers[::2], answers[1::2], strict=True)))
        jobs.add(batch)
        batch = [key for key in keys if key.startswith(RESULTS)]
        job_of = {key: JOB + key[len(RESULTS) :] for key in batch}
        answers = ask(redis, [command for key in batch for command in (("TTL", key), ("EXISTS", job_of[key]))])
        backlog.add_results(list(zip(answers[::2], answers[1::2], strict=True)))
        results.add(batch)
    return {
        **vars(backlog),
        "jobs_without_ttl": dict(backlog.jobs_without_ttl),
        "jobs_memory": memory(jobs.sizes(redis), backlog.jobs),
        "results_memory": memory(results.sizes(redis), backlog.results),
    }


def queue_rows(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield queues for people: name, waiting, oldest, and the registries."""
    for queue in report["queues"]:
        counts = {name: str(count) for name, count in queue["registries"].items()}
        if queue["abandoned"]:
            counts["started"] += f" ({queue['abandoned']} abandoned)"
        if queue["overdue"]:
            counts["scheduled"] += f" ({queue['overdue']} overdue: is there a scheduler?)"
        oldest = "" if queue["oldest"] is None else ago(queue["oldest"])
        yield queue["name"], str(queue["waiting"]), oldest, *counts.values()


def worker_rows(report: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield workers for people: name, state, heartbeat, queues, job."""
    for worker in report["workers"]:
        state = f"{worker['state']}, dead" if worker["dead"] and worker["state"] != "gone" else worker["state"]
        heartbeat = "no record" if worker["heartbeat"] is None else f"{ago(worker['heartbeat'])} ago"
        yield worker["name"], state, heartbeat, ", ".join(worker["queues"]), worker["job"]


def failure_rows(report: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the reasons of failures as table rows for people.

    The columns are the count, the queue, the age and function of the newest failure, and the reason.
    """
    for group in report["failed"]["groups"]:
        newest = "?" if group["newest"] is None else f"{ago(group['newest'])} ago"
        yield str(group["count"]), group["queue"], newest, group["function"], group["error"]


def backlog_rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the stored jobs and results for people."""
    backlog = report["backlog"]
    yield "jobs", f"{backlog['jobs']}, about {size(backlog['jobs_memory']['all'])}"
    if backlog["jobs_without_ttl"]:
        states = ", ".join(f"{count} {status}" for status, count in backlog["jobs_without_ttl"].items())
        yield "ended, no TTL", f"{states}: they stay until redisctl queues prune removes them"
    yield "results", f"{backlog['results']}, about {size(backlog['results_memory']['all'])}"
    if backlog["results_without_ttl"]:
        orphans = f"{backlog['results_without_job']} results have no job"
        yield "results, no TTL", f"{backlog['results_without_ttl']}; {orphans}"
