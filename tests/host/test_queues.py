"""Queues: real jobs of RQ through a real worker that forks, as the queues user."""

import json
import operator
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from rq import Queue, Repeat, Retry
from rq.cron import get_cron_job_ids
from rq.exceptions import DuplicateJobError
from rq.group import Group
from rq.job import Dependency, Job, JobStatus
from rq.rate_limit import RateLimit, RateLimitRegistry
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry

from redoubt.settings.model import Settings
from tests.host import rq_worker
from tests.host.host_under_test import Target
from tests.host.inventory import PROJECT

pytestmark = pytest.mark.writes

# Jobs that end well: their result, and how often they run.
DONE = {
    "done": (5, 1),
    "dependent": (6, 1),
    "scheduled": (1, 1),
    "repeated": (7, 2),
    "put-back": (None, 1),
    "freed": (8, 1),
    "limited": (4, 1),
    "held": (2, 1),
    "cron": (9, 1),
}
# Jobs that fail: how often they run, the retries that are left, and the results that are kept (none before a retry).
FAILED = {"failed": (1, None, 1), "retried": (2, 0, 1), "again": (2, None, 2)}

# What is where before the worker comes.
WAITING = {
    "done": JobStatus.QUEUED,
    "dependent": JobStatus.DEFERRED,
    "scheduled": JobStatus.SCHEDULED,
    "repeated": JobStatus.QUEUED,
    "failed": JobStatus.QUEUED,
    "retried": JobStatus.QUEUED,
    "again": JobStatus.QUEUED,
    "put-back": JobStatus.DEFERRED,
    "canceled": JobStatus.CANCELED,
    "freed": JobStatus.QUEUED,
    "limited": JobStatus.QUEUED,
    "held": JobStatus.RATE_LIMITED,
}


@dataclass(frozen=True)
class Worked:
    """A queue that a worker emptied: its jobs, what they were and the TTLs of the keys while they waited."""

    queue: Queue
    jobs: dict[str, Job]
    waiting: dict[str, JobStatus]
    ttls: dict[str, int]


@pytest.fixture(scope="module")
def worked(target: Target) -> Iterator[Worked]:
    """Jobs of every kind, worked through once. Nothing of them stays in Redis."""
    before = set(target.admin.scan_iter(match="rq:*", count=10_000))
    queue = Queue(target.mark, connection=target.client("queues", decode_responses=False))
    try:
        jobs = _enqueue(queue, target.mark)
        waiting = {name: job.get_status() for name, job in jobs.items()}
        keys = [queue.key, *(job.key for job in jobs.values())]
        ttls = {str(key): int(queue.connection.ttl(key)) for key in keys}
        _work(target)
        (made,) = get_cron_job_ids(target.mark, queue.connection)
        jobs["cron"] = Job.fetch(made, connection=queue.connection)
        for job in jobs.values():
            job.refresh()
        yield Worked(queue, jobs, waiting, ttls)
    finally:
        _clean(target, before)
    new = set(target.admin.scan_iter(match="rq:*", count=10_000)) - before
    # Elsewhere others use queues, too.
    assert not {key for key in new if target.disposable or target.mark in key}


def _enqueue(queue: Queue, mark: str) -> dict[str, Job]:
    def named(name: str) -> str:
        return f"{mark}-{name}"

    # The scheduler counts in whole seconds.
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    one = RateLimit(key=mark, concurrency=1)
    done = queue.enqueue(operator.add, 2, 3, job_id=named("done"), unique=True)
    again = queue.enqueue(operator.truediv, 1, 0, job_id=named("again"))
    canceled = queue.enqueue(operator.add, 1, 1, job_id=named("canceled"))
    jobs = {
        "done": done,
        "dependent": queue.enqueue(operator.mul, 2, 3, depends_on=done, job_id=named("dependent")),
        "scheduled": queue.enqueue_at(at, operator.sub, 3, 2, meta={"at": at}, job_id=named("scheduled")),
        "repeated": queue.enqueue(operator.add, 3, 4, repeat=Repeat(times=1, interval=1), job_id=named("repeated")),
        "failed": queue.enqueue(operator.truediv, 1, 0, job_id=named("failed")),
        "retried": queue.enqueue(operator.truediv, 1, 0, retry=Retry(max=1, interval=1), job_id=named("retried")),
        "again": again,
        "put-back": queue.enqueue(
            rq_worker.put_back, again.id, depends_on=Dependency(again, allow_failure=True), job_id=named("put-back")
        ),
        "canceled": canceled,
        "freed": queue.enqueue(operator.add, 4, 4, depends_on=canceled, job_id=named("freed")),
        "limited": queue.enqueue(operator.add, 2, 2, rate_limit=one, job_id=named("limited")),
        "held": queue.enqueue(operator.add, 1, 1, rate_limit=one, job_id=named("held")),
    }
    canceled.cancel(enqueue_dependents=True)
    return jobs


def _work(target: Target) -> None:
    told = {
        "connect": {**target.endpoint, "username": "queues", "password": target.secrets.passwords["queues"]},
        "name": target.mark,
        "runs": sum(runs for _, runs in DONE.values()) + sum(runs for runs, *_ in FAILED.values()),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.host.rq_worker"],
        input=json.dumps(told),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _clean(target: Target, before: set[str]) -> None:
    """Remove what carries the mark. Two passes over the keys: RQ keeps an index of nothing that it makes."""
    redis = target.admin
    made = redis.zrange(f"rq:cron_job:{target.mark}:jobs", 0, -1)
    for index in ("rq:cron_jobs", "rq:cron_schedulers"):
        redis.zrem(index, target.mark)
    redis.srem(RateLimitRegistry.rl_keys_key, target.mark)
    redis.srem("rq:queues", *(f"rq:queue:{target.mark}{end}" for end in ("", "-emptied")))
    redis.srem("rq:workers", f"rq:worker:{target.mark}")
    if Group.REDIS_GROUP_CLEANING_KEY not in before:
        redis.unlink(Group.REDIS_GROUP_CLEANING_KEY)
    for name in (target.mark, *made):
        for key in list(redis.scan_iter(match=f"rq:*{name}*", count=10_000)):
            redis.unlink(key)


def test_jobs_wait_for_their_turn(worked: Worked) -> None:
    """In the queue, for another job, for their time, for a place; and not at all once they are canceled."""
    assert worked.waiting == WAITING


@pytest.mark.parametrize("name", DONE)
def test_job_is_done(worked: Worked, name: str) -> None:
    """At once, after the job that it depends on, at its time, once more, and when another made room."""
    job = worked.jobs[name]
    result, runs = DONE[name]
    assert job.get_status() == JobStatus.FINISHED
    assert job.return_value() == result
    assert len(job.results()) == runs
    assert job.id in FinishedJobRegistry(queue=worked.queue).get_job_ids()


@pytest.mark.parametrize("name", FAILED)
def test_a_failed_job_is_kept_with_its_reason(worked: Worked, name: str) -> None:
    """After as many attempts as it was given: to be looked at and put back, as ``again`` was."""
    job = worked.jobs[name]
    _, retries_left, kept = FAILED[name]
    assert job.get_status() == JobStatus.FAILED
    assert job.retries_left == retries_left
    assert len(job.results()) == kept
    result = job.latest_result()
    assert result is not None
    assert "ZeroDivisionError" in str(result.exc_string)
    assert job.id in FailedJobRegistry(queue=worked.queue).get_job_ids()


def test_a_scheduled_job_does_not_run_before_its_time(worked: Worked) -> None:
    job = worked.jobs["scheduled"]
    assert job.started_at is not None
    assert job.started_at >= job.meta["at"]


def test_a_canceled_job_does_not_run(worked: Worked) -> None:
    job = worked.jobs["canceled"]
    assert job.get_status() == JobStatus.CANCELED
    assert job.results() == []
    assert job.id in CanceledJobRegistry(queue=worked.queue).get_job_ids()


def test_a_job_of_the_same_name_is_refused(worked: Worked) -> None:
    with pytest.raises(DuplicateJobError):
        worked.queue.enqueue(operator.add, 2, 3, job_id=worked.jobs["done"].id, unique=True)


def test_a_queue_is_emptied_and_deleted_with_its_jobs(worked: Worked, target: Target) -> None:
    """By a script: RQ loads it and calls it by its digest."""
    queue = Queue(f"{target.mark}-emptied", connection=worked.queue.connection)
    for number in range(3):
        queue.enqueue(operator.neg, number, job_id=f"{queue.name}-{number}")
    assert queue.empty() == 3
    assert queue.is_empty()
    assert queue in Queue.all(connection=queue.connection)
    queue.enqueue(operator.neg, 3, job_id=f"{queue.name}-3")
    queue.delete(delete_jobs=True)
    assert queue not in Queue.all(connection=queue.connection)
    assert list(target.admin.scan_iter(match=f"rq:*{queue.name}*", count=10_000)) == []


def test_a_script_that_redis_has_not_seen_is_loaded(worked: Worked, target: Target) -> None:
    """RQ's own are there since its first use of the instance; after a restart they are not."""
    redis = worked.queue.connection
    assert redis.register_script(f"return '{target.mark}'")() == target.mark.encode()
    with redis.pipeline() as pipeline:
        redis.register_script(f"return '{target.mark}-2'")(client=pipeline)
        assert pipeline.execute() == [f"{target.mark}-2".encode()]


def test_jobs_that_wait_are_never_evicted(worked: Worked, target: Target, settings: Settings) -> None:
    """A full Redis evicts keys with a TTL only (sessions), and neither queues nor waiting jobs have one."""
    assert set(worked.ttls.values()) == {-1}, worked.ttls
    policy = target.config()["maxmemory-policy"]
    assert policy.startswith("allkeys") == settings.redis_maxmemory_policy.startswith("allkeys")


def test_nothing_of_it_was_denied(worked: Worked, target: Target) -> None:
    """A worker that may not do something often goes on without it, and fails months later."""
    assert worked.jobs
    assert target.denials() == {}
