"""redisctl queues: real jobs of RQ, and a real worker."""

import json
import operator
import os
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pytest
from redis import Redis
from rq import Queue, Worker
from rq.job import Job, requeue_job
from rq.rate_limit import RateLimit
from rq.registry import FailedJobRegistry, FinishedJobRegistry

from tests.redisctl.local_redis import LocalRedis


@dataclass(frozen=True)
class Rq:
    """RQ as an application uses it: connected as the user ``queues``."""

    redis: LocalRedis
    connection: Redis

    def queue(self, name: str) -> Queue:
        return Queue(name, connection=self.connection)

    def work(self, *names: str) -> None:
        """Start a worker and wait until it has done all waiting jobs."""
        process = get_context("fork").Process(target=self._work, args=names)
        process.start()
        process.join(60)
        assert process.exitcode == 0

    def _work(self, *names: str) -> None:
        with self.redis.client("queues") as connection:
            queues = [Queue(name, connection=connection) for name in names]
            Worker(queues, connection=connection).work(burst=True, logging_level="CRITICAL")


@pytest.fixture(scope="module")
def rq(redis: LocalRedis) -> Iterator[Rq]:
    """RQ, connected to the server."""
    with redis.client("queues") as connection:
        yield Rq(redis, connection)


def test_queues_are_reported_as_rq_sees_them(redis: LocalRedis, rq: Rq) -> None:
    mail, slow = rq.queue("mail"), rq.queue("slow")
    ids = {
        "done": mail.enqueue(operator.add, "secret", " argument").id,
        "failed": mail.enqueue(operator.truediv, 1, 0).id,
        "again": mail.enqueue(operator.truediv, 2, 0).id,
        "other": mail.enqueue(operator.getitem, {}, "[red]").id,
    }
    rq.work("mail")
    waits = slow.enqueue(operator.add, 1, 1)
    slow.enqueue(operator.add, 1, 1, depends_on=waits)
    slow.enqueue(operator.add, 1, 1).cancel()
    # A worker that was killed: it registered itself, and its record has expired.
    Worker([slow], connection=rq.connection, name="killed").register_birth()
    Worker([slow], connection=rq.connection, name="living").register_birth()
    rq.connection.expire("rq:worker:killed", 0)

    report = redis.report("queues")

    queues = {queue["name"]: queue for queue in report["queues"]}
    none = dict.fromkeys(("started", "finished", "failed", "deferred", "scheduled", "canceled"), 0)
    assert queues["mail"]["registries"] == {**none, "finished": 1, "failed": 3}
    assert len(FailedJobRegistry(queue=mail)) == 3
    assert queues["slow"]["registries"] == {**none, "deferred": 1, "canceled": 1}
    assert (queues["mail"]["waiting"], queues["slow"]["waiting"]) == (mail.count, slow.count) == (0, 1)
    assert queues["mail"]["oldest"] is None
    # Rounded to a tenth of a second.
    assert 0 <= queues["slow"]["oldest"] < 30
    workers = {worker["name"]: worker for worker in report["workers"]}
    assert (workers["killed"]["dead"], workers["living"]["dead"]) == (True, False)
    assert 0 <= workers["living"]["heartbeat"] < 30
    assert workers["living"]["queues"] == ["slow"]
    groups = {group["error"]: group for group in report["failed"]["groups"]}
    assert {error: group["count"] for error, group in groups.items()} == {
        "ZeroDivisionError: division by zero": 2,
        "KeyError: '[red]'": 1,
    }
    assert groups["KeyError: '[red]'"]["job"] == ids["other"]
    assert groups["KeyError: '[red]'"]["function"] == "_operator.getitem"
    backlog = report["backlog"]
    assert (backlog["jobs"], backlog["results"]) == (7, 4)
    # RQ sets no TTL for results of failed jobs: docs/applications.md.
    assert backlog["results_without_ttl"] == 3
    assert backlog["jobs_without_ttl"] == {"canceled": 1}
    output = redis.redisctl("queues").stdout
    assert "KeyError: '[red]'" in output
    assert "secret" not in output + json.dumps(report)
    refusal = redis.refusal("queues requeue --queue mial")
    assert "RQ has no queue mial; it has: mail, slow" in refusal


def test_failed_jobs_are_requeued_as_rq_does(redis: LocalRedis, rq: Rq, tmp_path: Path) -> None:
    queue = rq.queue("files")
    missing = tmp_path / "missing"
    jobs = [queue.enqueue(os.path.getsize, str(missing)) for _ in range(3)]
    limited = queue.enqueue(os.path.getsize, str(missing), rate_limit=RateLimit(key="one", concurrency=1))
    broken = queue.enqueue(operator.truediv, 1, 0)
    rq.work("files")
    failed = FailedJobRegistry(queue=queue)
    assert len(failed) == 5
    missing.write_text("here")

    # RQ requeues one of them: redisctl must write the same.
    requeue_job(jobs[0].id, rq.connection)
    report = redis.report("queues requeue --queue files --error 'No such file'")
    assert report == {
        "instance": redis.settings.redis_name,
        "dry_run": True,
        "count": 3,
        "queues": {"files": 3},
        "rate_limited": 1,
        "skipped": 0,
    }
    assert (queue.count, len(failed)) == (1, 4), "a dry run changed something"
    report = redis.report("queues requeue --queue files --error 'No such file' --yes")
    assert (report["dry_run"], report["count"], report["rate_limited"]) == (False, 3, 1)
    assert failed.get_job_ids() == [broken.id]
    assert set(queue.get_job_ids()) == {job.id for job in jobs}
    by_rq, by_redisctl = (rq.connection.hgetall(job.key) for job in jobs[:2])
    assert by_rq.keys() == by_redisctl.keys()
    differing = {name for name in by_rq if by_rq[name] != by_redisctl[name]}
    assert differing <= {b"created_at", b"enqueued_at", b"last_heartbeat", b"worker_name"}
    # A waiting job must not be evicted.
    assert rq.connection.ttl(jobs[1].key) == -1

    # A worker handles rate limits when it starts.
    rq.work("files")
    for job in [*jobs, limited]:
        assert Job.fetch(job.id, connection=rq.connection).return_value() == len("here")
    assert broken.get_status(refresh=True).value == "failed"

    # By id. A job that has not failed stays where it is.
    report = redis.report(f"queues requeue --job {broken.id} --job {jobs[0].id} --yes")
    assert (report["count"], report["skipped"]) == (1, 1)
    assert queue.get_job_ids() == [broken.id]


def test_old_jobs_are_pruned_with_all_their_keys(redis: LocalRedis, rq: Rq) -> None:
    queue = rq.queue("old")
    ended = [queue.enqueue(operator.add, 1, 1), queue.enqueue(operator.truediv, 1, 0)]
    evicted = queue.enqueue(operator.truediv, 1, 0)
    again = queue.enqueue(operator.add, 1, 1, job_id="again")
    rq.work("old")
    # Enqueued again under its id, while the registry still has its first run.
    queue.enqueue(operator.add, 1, 1, job_id="again")
    canceled = queue.enqueue(operator.add, 1, 1)
    canceled.cancel()
    deferred = queue.enqueue(operator.add, 1, 1, depends_on=again)
    rq.connection.delete(evicted.key)
    counts = {
        "finished": {"jobs": 1, "entries": 1, "results": 0},
        "failed": {"jobs": 1, "entries": 1, "results": 0},
        "canceled": {"jobs": 1, "entries": 0, "results": 0},
    }

    young = redis.report("queues prune --older-than 1d --yes --queue old")["registries"]
    assert {name: entry["jobs"] for name, entry in young.items()} == dict.fromkeys(counts, 0)
    queue.finished_job_registry.connection.zadd(queue.finished_job_registry.key, {"again": 10**11})
    queue.failed_job_registry.connection.zadd(queue.failed_job_registry.key, {evicted.id: 10**11})
    assert redis.report("queues prune --older-than 0 --queue old")["registries"] == counts
    assert all(Job.exists(job.id, rq.connection) for job in [*ended, canceled]), "a dry run changed something"

    assert redis.report("queues prune --older-than 0 --queue old --yes")["registries"] == counts
    with redis.client() as admin:
        for job in [*ended, canceled]:
            assert list(admin.scan_iter(f"*{job.id}*", count=1000)) == []
    assert FinishedJobRegistry(queue=queue).get_job_ids() == FailedJobRegistry(queue=queue).get_job_ids() == []
    assert queue.get_job_ids() == ["again"]
    assert deferred.get_status(refresh=True).value == "deferred"

    # The traceback of the evicted job is still there.
    assert rq.connection.exists(f"rq:results:{evicted.id}") == 1
    results = "queues prune --older-than 0 --registry results --yes"
    assert redis.report(results)["registries"]["results"]["results"] == 1
    assert rq.connection.exists(f"rq:results:{evicted.id}") == 0
    rq.work("old")
    assert again.get_status(refresh=True).value == deferred.get_status(refresh=True).value == "finished"
