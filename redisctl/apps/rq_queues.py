"""Queues of RQ 3: depths, workers, what failed and why, what piles up. As RQ keeps them, without RQ.

What a job is given and returns is pickled, and never loaded here. A job is named by its function: its arguments, which
the description has as well, are the application's and not shown.
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
# Jobs that are asked for at once: each answer may have a traceback in it.
JOBS = 100
# Failed jobs of a queue that are looked at for their reason, and reasons that are shown.
LOOKED_AT = 10_000
REASONS = 20
# Jobs at the head of a queue among which the oldest is sought: some are put in front.
HEAD = 100
# Jobs and results whose memory is measured.
MEASURED = 500
# An idle worker gives a sign of life every 405 seconds, and its record lasts 480 (rq.defaults.DEFAULT_WORKER_TTL).
SILENT = 480
# States that a job without a TTL is rightly in: it still has to run.
WAITING = ("queued", "started", "deferred", "scheduled", "rate_limited", "ready_to_enqueue", "created")
# No traceback is longer than this many characters once it is unpacked.
LONGEST = 1024**2


@dataclass(frozen=True)
class Queue:
    """A queue's depths. ``oldest`` is the age in seconds of a job at its head, None where none waits.

    ``overdue`` jobs should have been scheduled more than a minute ago; ``abandoned`` ones run no longer.
    """

    name: str
    waiting: int
    oldest: float | None
    registries: dict[str, int]
    overdue: int = 0
    abandoned: int = 0


@dataclass(frozen=True)
class Worker:
    """A worker as it was last heard of, ``heartbeat`` seconds ago (None: it left no record)."""

    name: str
    state: str
    heartbeat: float | None
    queues: tuple[str, ...] = ()
    job: str = ""
    dead: bool = False


@dataclass
class Failures:
    """Failed jobs by their reason."""

    looked_at: int = 0
    count: Counter[tuple[str, str]] = field(default_factory=Counter)
    newest: dict[tuple[str, str], tuple[float, str, str]] = field(default_factory=dict)

    def add(self, queue: str, error: str, ended: float, job: str, function: str) -> None:
        """Count a failure, and keep the newest of its kind as an example."""
        kind = (queue, error)
        self.looked_at += 1
        self.count[kind] += 1
        self.newest[kind] = max(self.newest.get(kind, (0.0, "", "")), (ended, job, function))

    def groups(self, at: float) -> list[dict[str, Any]]:
        """The most frequent reasons first; the age is that of the newest."""
        found = []
        for (queue, error), count in self.count.most_common(REASONS):
            ended, job, function = self.newest[queue, error]
            age = round(at - ended, 1) if ended else None
            found.append(
                {"queue": queue, "error": error, "count": count, "newest": age, "job": job, "function": function}
            )
        return found


@dataclass
class Backlog:
    """Jobs and results that stay: those without a TTL that nothing waits for, and results whose job is gone."""

    jobs: int = 0
    results: int = 0
    jobs_without_ttl: Counter[str] = field(default_factory=Counter)
    results_without_ttl: int = 0
    results_without_job: int = 0

    def add_jobs(self, answers: list[tuple[int, str | None]]) -> None:
        """Count jobs by TTL and state."""
        for ttl, status in answers:
            self.jobs += 1
            if ttl == -1 and status not in WAITING:
                self.jobs_without_ttl[status or "damaged"] += 1

    def add_results(self, answers: list[tuple[int, int]]) -> None:
        """Count results by TTL and by whether their job is there."""
        for ttl, job in answers:
            self.results += 1
            self.results_without_ttl += ttl == -1
            self.results_without_job += not job


def collect(redis: Redis) -> dict[str, Any]:
    """Look at everything that RQ keeps, in small steps. Times are seconds, sizes bytes. Raises RedisError."""
    at = time.time()
    names = queue_names(redis)
    queues = [_queue(redis, name, at) for name in names]
    failures = Failures()
    for name in names:
        _failures(redis, name, failures)
    return {
        "queues": [asdict(queue) for queue in queues],
        "workers": [asdict(worker) for worker in _workers(redis, at)],
        "failed": {"looked_at": failures.looked_at, "groups": failures.groups(at)},
        "backlog": _backlog(redis),
    }


def queue_names(redis: Redis) -> list[str]:
    """Queues that RQ knows."""
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
    since = [
        when(*fields) for fields in ask(redis, [("HMGET", JOB + job, "enqueued_at", "created_at") for job in head])
    ]
    oldest = max((at - one for one in since if one), default=None)
    registries = dict(zip(REGISTRIES, counts, strict=True))
    return Queue(name, waiting, None if oldest is None else round(oldest, 1), registries, overdue, abandoned)


def _workers(redis: Redis, at: float) -> Iterator[Worker]:
    fields = ("state", "last_heartbeat", "queues", "current_job", "death")
    for keys in batches(sorted(map(str, redis.smembers(WORKERS))), JOBS):
        for key, values in zip(keys, ask(redis, [("HMGET", key, *fields) for key in keys]), strict=True):
            yield worker_of(key[len(WORKER) :], dict(zip(fields, values, strict=True)), at)


def worker_of(name: str, values: dict[str, str | None], at: float) -> Worker:
    """A worker from its record, whose fields are None where it has expired: RQ keeps it as long as it hears of it."""
    heard = when(values["last_heartbeat"])
    if not heard:
        return Worker(name, "gone", None, dead=True)
    age = round(at - heard, 1)
    dead = bool(values["death"]) or age > SILENT
    queues = tuple((values["queues"] or "").split(","))
    return Worker(name, values["state"] or "starting", age, queues, values["current_job"] or "", dead)


def _failures(redis: Redis, name: str, failures: Failures) -> None:
    seen = 0
    # By score, the newest first: it is when the record of a failure ends, and most have the same TTL.
    while found := redis.zrevrange(REGISTRIES["failed"] + name, seen, min(seen + JOBS, LOOKED_AT) - 1):
        jobs = list(map(str, found))
        seen += len(jobs)
        reasons = errors(redis, jobs)
        fields = ask(redis, [("HMGET", JOB + job, "ended_at", "created_at", "description") for job in jobs])
        for job, (ended, created, description) in zip(jobs, fields, strict=True):
            failures.add(name, reasons[job], when(ended, created), job, function_of(description))
        if seen >= LOOKED_AT:
            return
        time.sleep(PAUSE)


def errors(redis: Redis, jobs: list[str]) -> dict[str, str]:
    """Why jobs failed, in a line each: of the newest result, or of the record as RQ kept it before 1.11."""
    results = ask(redis, [("XREVRANGE", RESULTS + job, "+", "-", "COUNT", 1) for job in jobs])
    told = {job: packed_error(found[0][1]) for job, found in zip(jobs, results, strict=True) if found}
    old = [job for job in jobs if not told.get(job)]
    for job, packed in zip(old, ask(redis, [("HGET", JOB + job, "exc_info") for job in old]), strict=True):
        told[job] = (packed or "").encode(errors="surrogateescape")
    return {job: last_line(unpacked(told[job])) for job in jobs}


def packed_error(result: dict[str, str]) -> bytes:
    """The compressed traceback in a result; what a job returned is left alone."""
    try:
        return base64.b64decode(result.get("exc_string", ""))
    except (binascii.Error, ValueError):
        return b""


def unpacked(packed: bytes) -> str:
    """The text of a traceback, however long it claims to be."""
    try:
        return zlib.decompressobj().decompress(packed, LONGEST).decode(errors="replace")
    except zlib.error:
        return packed.decode(errors="replace")


def last_line(traceback: str) -> str:
    """What a traceback comes to."""
    lines = [line.strip() for line in traceback.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason was kept"


def function_of(description: str | None) -> str:
    """The function that a job's description names, without what it is called with."""
    return (description or "?").split("(")[0]


def when(*texts: str | None) -> float:
    """The first of RQ's timestamps that is there, in seconds since the epoch; 0 where none is."""
    for text in texts:
        for pattern in ("%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%SZ"):
            try:
                return datetime.strptime(text or "", pattern).replace(tzinfo=timezone.utc).timestamp()
            except ValueError:
                continue
    return 0.0


def _backlog(redis: Redis) -> dict[str, Any]:
    pile = Backlog()
    jobs, results = Sample(MEASURED), Sample(MEASURED)
    for keys in keys_like(redis, "rq:*"):
        some = [key for key in keys if key.startswith(JOB) and not key.endswith((":dependents", ":dependencies"))]
        answers = ask(redis, [command for key in some for command in (("TTL", key), ("HGET", key, "status"))])
        pile.add_jobs(list(zip(answers[::2], answers[1::2], strict=True)))
        jobs.add(some)
        some = [key for key in keys if key.startswith(RESULTS)]
        job_of = {key: JOB + key[len(RESULTS) :] for key in some}
        answers = ask(redis, [command for key in some for command in (("TTL", key), ("EXISTS", job_of[key]))])
        pile.add_results(list(zip(answers[::2], answers[1::2], strict=True)))
        results.add(some)
    return {
        **vars(pile),
        "jobs_without_ttl": dict(pile.jobs_without_ttl),
        "jobs_memory": memory(jobs.sizes(redis), pile.jobs),
        "results_memory": memory(results.sizes(redis), pile.results),
    }


def queue_rows(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Queues for people: name, waiting, oldest, and the registries."""
    for queue in report["queues"]:
        counts = {name: str(count) for name, count in queue["registries"].items()}
        if queue["abandoned"]:
            counts["started"] += f" ({queue['abandoned']} abandoned)"
        if queue["overdue"]:
            counts["scheduled"] += f" ({queue['overdue']} overdue: is there a scheduler?)"
        oldest = "" if queue["oldest"] is None else ago(queue["oldest"])
        yield queue["name"], str(queue["waiting"]), oldest, *counts.values()


def worker_rows(report: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """Workers for people: name, state, last sign of life, queues, job."""
    for worker in report["workers"]:
        state = f"{worker['state']}, dead" if worker["dead"] and worker["state"] != "gone" else worker["state"]
        heard = "no record" if worker["heartbeat"] is None else f"{ago(worker['heartbeat'])} ago"
        yield worker["name"], state, heard, ", ".join(worker["queues"]), worker["job"]


def failure_rows(report: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """Reasons for people: count, queue, the newest, the function of that, the reason."""
    for group in report["failed"]["groups"]:
        newest = "?" if group["newest"] is None else f"{ago(group['newest'])} ago"
        yield str(group["count"]), group["queue"], newest, group["function"], group["error"]


def backlog_rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is kept, for people."""
    pile = report["backlog"]
    yield "jobs", f"{pile['jobs']}, about {size(pile['jobs_memory']['all'])}"
    if pile["jobs_without_ttl"]:
        states = ", ".join(f"{count} {status}" for status, count in pile["jobs_without_ttl"].items())
        yield "ended, no TTL", f"{states}: they stay until redisctl queues prune"
    yield "results", f"{pile['results']}, about {size(pile['results_memory']['all'])}"
    if pile["results_without_ttl"]:
        orphans = f"{pile['results_without_job']} results are of jobs that are gone"
        yield "results, no TTL", f"{pile['results_without_ttl']}; {orphans}"
