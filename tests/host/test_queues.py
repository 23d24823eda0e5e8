"""Queues: real jobs of RQ through a real worker that forks, as the queues user."""

import json
import operator
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from rq import Queue, Retry
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry

from redoubt.settings import Settings
from tests.host.bridge import PROJECT
from tests.host.target import Target

pytestmark = pytest.mark.writes


@dataclass(frozen=True)
class Worked:
    """A queue that a worker emptied: its jobs, and the TTLs of the keys while they waited."""

    queue: Queue
    jobs: dict[str, Job]
    waiting: dict[str, int]


@pytest.fixture(scope="module")
def worked(target: Target) -> Iterator[Worked]:
    """Jobs of every kind, worked through once. Nothing of them stays in Redis."""
    queue = Queue(target.mark, connection=target.client("queues", decode_responses=False))
    try:
        jobs = _enqueue(queue, target.mark)
        keys = [queue.key, *(job.key for job in jobs.values())]
        waiting = {str(key): int(queue.connection.ttl(key)) for key in keys}
        _work(target)
        for job in jobs.values():
            job.refresh()
        yield Worked(queue, jobs, waiting)
    finally:
        _clean(target)


def _enqueue(queue: Queue, mark: str) -> dict[str, Job]:
    def named(name: str) -> str:
        return f"{mark}-{name}"

    done = queue.enqueue(operator.add, 2, 3, job_id=named("done"))
    return {
        "done": done,
        "dependent": queue.enqueue(operator.mul, 2, 3, depends_on=done, job_id=named("dependent")),
        "failed": queue.enqueue(operator.truediv, 1, 0, job_id=named("failed")),
        "retried": queue.enqueue(operator.truediv, 1, 0, retry=Retry(max=1), job_id=named("retried")),
        "scheduled": queue.enqueue_at(
            datetime.now(UTC) - timedelta(seconds=1), operator.sub, 3, 2, job_id=named("scheduled")
        ),
    }


def _work(target: Target) -> None:
    told = {
        "connect": {**target.endpoint, "username": "queues", "password": target.secrets.passwords["queues"]},
        "queue": target.mark,
        "name": target.mark,
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


def _clean(target: Target) -> None:
    """Remove what carries the mark. One pass over the keys: RQ keeps an index of nothing that it makes."""
    redis = target.admin
    redis.srem("rq:queues", f"rq:queue:{target.mark}")
    redis.srem("rq:workers", f"rq:worker:{target.mark}")
    for key in list(redis.scan_iter(match=f"rq:*{target.mark}*", count=10_000)):
        redis.unlink(key)


@pytest.mark.parametrize(("name", "result"), [("done", 5), ("dependent", 6), ("scheduled", 1)])
def test_job_is_done(worked: Worked, name: str, result: int) -> None:
    """At once, after the job that it depends on, and at its time."""
    job = worked.jobs[name]
    assert job.get_status() == JobStatus.FINISHED
    assert job.return_value() == result
    assert job.id in FinishedJobRegistry(queue=worked.queue).get_job_ids()


@pytest.mark.parametrize(("name", "retries_left"), [("failed", None), ("retried", 0)])
def test_a_failed_job_is_kept_with_its_reason(worked: Worked, name: str, retries_left: int | None) -> None:
    """After as many attempts as it was given: to be looked at and put back."""
    job = worked.jobs[name]
    assert job.get_status() == JobStatus.FAILED
    assert job.retries_left == retries_left
    result = job.latest_result()
    assert result is not None
    assert "ZeroDivisionError" in str(result.exc_string)
    assert job.id in FailedJobRegistry(queue=worked.queue).get_job_ids()


def test_jobs_that_wait_are_never_evicted(worked: Worked, target: Target, settings: Settings) -> None:
    """A full Redis evicts keys with a TTL only (sessions), and neither queues nor waiting jobs have one."""
    assert set(worked.waiting.values()) == {-1}, worked.waiting
    policy = target.config()["maxmemory-policy"]
    assert policy.startswith("allkeys") == settings.redis_maxmemory_policy.startswith("allkeys")


def test_nothing_of_it_was_denied(worked: Worked, target: Target) -> None:
    """A worker that may not do something often goes on without it, and fails months later."""
    assert worked.jobs
    assert target.denials() == {}
