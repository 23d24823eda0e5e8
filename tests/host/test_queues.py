"""Queues: real RQ jobs with a real, forking worker, as the queues user."""

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

# Jobs that succeed: their result, and how often they run.
SUCCEEDED = {
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
# Jobs that fail: how often they run, the retries left, and the results kept (none before a retry).
FAILED = {"failed": (1, None, 1), "retried": (2, 0, 1), "again": (2, None, 2)}

# The status of each job before the worker starts.
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
class ProcessedQueue:
    """A queue that a worker has emptied.

    It has its jobs, and their status and the TTLs of their keys while they waited.
    """

    queue: Queue
    jobs: dict[str, Job]
    waiting: dict[str, JobStatus]
    ttls: dict[str, int]


@pytest.fixture(scope="module")
def processed(target: Target) -> Iterator[ProcessedQueue]:
    """Process jobs of every kind once. All their keys are removed afterwards."""
    before = set(target.admin.scan_iter(match="rq:*", count=10_000))
    queue = Queue(target.mark, connection=target.client("queues", decode_responses=False))
    try:
        jobs = _enqueue(queue, target.mark)
        waiting = {name: job.get_status() for name, job in jobs.items()}
        keys = [queue.key, *(job.key for job in jobs.values())]
        ttls = {str(key): int(queue.connection.ttl(key)) for key in keys}
        _work(target)
        (cron_job_id,) = get_cron_job_ids(target.mark, queue.connection)
        jobs["cron"] = Job.fetch(cron_job_id, connection=queue.connection)
        for job in jobs.values():
            job.refresh()
        yield ProcessedQueue(queue, jobs, waiting, ttls)
    finally:
        _clean(target, before)
    remaining = set(target.admin.scan_iter(match="rq:*", count=10_000)) - before
    # On other hosts, applications use queues as well.
    assert not {key for key in remaining if target.disposable or target.mark in key}


def _enqueue(queue: Queue, mark: str) -> dict[str, Job]:
    def job_id(name: str) -> str:
        return f"{mark}-{name}"

    # The scheduler counts in whole seconds.
    start_time = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    one_at_a_time = RateLimit(key=mark, concurrency=1)
    done = queue.enqueue(operator.add, 2, 3, job_id=job_id("done"), unique=True)
    again = queue.enqueue(operator.truediv, 1, 0, job_id=job_id("again"))
    canceled = queue.enqueue(operator.add, 1, 1, job_id=job_id("canceled"))
    jobs = {
        "done": done,
        "dependent": queue.enqueue(operator.mul, 2, 3, depends_on=done, job_id=job_id("dependent")),
        "scheduled": queue.enqueue_at(
            start_time, operator.sub, 3, 2, meta={"start_time": start_time}, job_id=job_id("scheduled")
        ),
        "repeated": queue.enqueue(operator.add, 3, 4, repeat=Repeat(times=1, interval=1), job_id=job_id("repeated")),
        "failed": queue.enqueue(operator.truediv, 1, 0, job_id=job_id("failed")),
        "retried": queue.enqueue(operator.truediv, 1, 0, retry=Retry(max=1, interval=1), job_id=job_id("retried")),
        "again": again,
        "put-back": queue.enqueue(
            rq_worker.requeue, again.id, depends_on=Dependency(again, allow_failure=True), job_id=job_id("put-back")
        ),
        "canceled": canceled,
        "freed": queue.enqueue(operator.add, 4, 4, depends_on=canceled, job_id=job_id("freed")),
        "limited": queue.enqueue(operator.add, 2, 2, rate_limit=one_at_a_time, job_id=job_id("limited")),
        "held": queue.enqueue(operator.add, 1, 1, rate_limit=one_at_a_time, job_id=job_id("held")),
    }
    canceled.cancel(enqueue_dependents=True)
    return jobs


def _work(target: Target) -> None:
    request = {
        "connect": {**target.endpoint, "username": "queues", "password": target.secrets.passwords["queues"]},
        "name": target.mark,
        "runs": sum(runs for _, runs in SUCCEEDED.values()) + sum(runs for runs, *_ in FAILED.values()),
    }
    result = subprocess.run(
        [sys.executable, "-m", "tests.host.rq_worker"],
        input=json.dumps(request),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def _clean(target: Target, before: set[str]) -> None:
    """Remove all keys of the test.

    RQ keeps no index of them, so this scans all rq:* keys once for each name.
    """
    redis = target.admin
    cron_jobs = redis.zrange(f"rq:cron_job:{target.mark}:jobs", 0, -1)
    for index in ("rq:cron_jobs", "rq:cron_schedulers"):
        redis.zrem(index, target.mark)
    redis.srem(RateLimitRegistry.rl_keys_key, target.mark)
    redis.srem("rq:queues", *(f"rq:queue:{target.mark}{end}" for end in ("", "-emptied")))
    redis.srem("rq:workers", f"rq:worker:{target.mark}")
    if Group.REDIS_GROUP_CLEANING_KEY not in before:
        redis.unlink(Group.REDIS_GROUP_CLEANING_KEY)
    for name in (target.mark, *cron_jobs):
        for key in list(redis.scan_iter(match=f"rq:*{name}*", count=10_000)):
            redis.unlink(key)


def test_jobs_wait_for_their_turn(processed: ProcessedQueue) -> None:
    """Jobs wait in the queue, for another job, their time or the rate limit.

    A cancelled job does not wait.
    """
    assert processed.waiting == WAITING


@pytest.mark.parametrize("name", SUCCEEDED)
def test_job_succeeds(processed: ProcessedQueue, name: str) -> None:
    """Each job ran as often as it should, with its result."""
    job = processed.jobs[name]
    result, runs = SUCCEEDED[name]
    assert job.get_status() == JobStatus.FINISHED
    assert job.return_value() == result
    assert len(job.results()) == runs
    assert job.id in FinishedJobRegistry(queue=processed.queue).get_job_ids()


@pytest.mark.parametrize("name", FAILED)
def test_failed_job_is_kept_with_its_error(processed: ProcessedQueue, name: str) -> None:
    """A failed job used its retries and can be requeued, as ``again`` was."""
    job = processed.jobs[name]
    _, retries_left, results = FAILED[name]
    assert job.get_status() == JobStatus.FAILED
    assert job.retries_left == retries_left
    assert len(job.results()) == results
    result = job.latest_result()
    assert result is not None
    assert "ZeroDivisionError" in str(result.exc_string)
    assert job.id in FailedJobRegistry(queue=processed.queue).get_job_ids()


def test_scheduled_job_does_not_run_early(processed: ProcessedQueue) -> None:
    job = processed.jobs["scheduled"]
    assert job.started_at is not None
    assert job.started_at >= job.meta["start_time"]


def test_cancelled_job_does_not_run(processed: ProcessedQueue) -> None:
    job = processed.jobs["canceled"]
    assert job.get_status() == JobStatus.CANCELED
    assert job.results() == []
    assert job.id in CanceledJobRegistry(queue=processed.queue).get_job_ids()


def test_duplicate_job_is_refused(processed: ProcessedQueue) -> None:
    with pytest.raises(DuplicateJobError):
        processed.queue.enqueue(operator.add, 2, 3, job_id=processed.jobs["done"].id, unique=True)


def test_queue_is_deleted_with_its_jobs(processed: ProcessedQueue, target: Target) -> None:
    """RQ loads a script for this and calls it by its digest."""
    queue = Queue(f"{target.mark}-emptied", connection=processed.queue.connection)
    for number in range(3):
        queue.enqueue(operator.neg, number, job_id=f"{queue.name}-{number}")
    assert queue.empty() == 3
    assert queue.is_empty()
    assert queue in Queue.all(connection=queue.connection)
    queue.enqueue(operator.neg, 3, job_id=f"{queue.name}-3")
    queue.delete(delete_jobs=True)
    assert queue not in Queue.all(connection=queue.connection)
    assert list(target.admin.scan_iter(match=f"rq:*{queue.name}*", count=10_000)) == []


def test_unknown_script_is_loaded(processed: ProcessedQueue, target: Target) -> None:
    """The queues user may load RQ's scripts.

    Redis does not know them after a restart.
    """
    redis = processed.queue.connection
    assert redis.register_script(f"return '{target.mark}'")() == target.mark.encode()
    with redis.pipeline() as pipeline:
        redis.register_script(f"return '{target.mark}-2'")(client=pipeline)
        assert pipeline.execute() == [f"{target.mark}-2".encode()]


def test_waiting_jobs_are_never_evicted(processed: ProcessedQueue, target: Target, settings: Settings) -> None:
    """Queues and waiting jobs have no TTL.

    A full Redis evicts only keys with a TTL, such as sessions.
    """
    assert set(processed.ttls.values()) == {-1}, processed.ttls
    policy = target.config()["maxmemory-policy"]
    assert policy.startswith("allkeys") == settings.redis_maxmemory_policy.startswith("allkeys")


def test_redis_denied_nothing_to_rq(processed: ProcessedQueue, target: Target) -> None:
    """A worker often continues after a denied command and fails months later."""
    assert processed.jobs
    assert target.denials() == {}
