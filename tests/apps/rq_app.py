"""An RQ application for the tests: a worker and a client.

The worker forks and has its scheduler; the client sends it jobs and commands. The application reads the connection's
parameters as JSON from standard input, and prints the results of the jobs as JSON. Start it with
``python -m tests.apps.rq_app``.
"""

import json
import operator
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from typing import Any
from uuid import uuid4

from redis import Redis
from rq import Queue, Retry, Worker, get_current_job
from rq.command import send_shutdown_command, send_stop_job_command
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, ScheduledJobRegistry

# RQ finds functions by name, and those of the main program have another one in the worker.
MODULE = "tests.apps.rq_app"


def succeed_at_last_retry() -> int:
    """Fail until no retry is left; return how often the job ran."""
    job = get_current_job()
    assert job is not None
    job.meta["runs"] = job.meta.get("runs", 0) + 1
    job.save_meta()
    if job.retries_left:
        raise RuntimeError("not yet")
    return int(job.meta["runs"])


def main() -> None:
    """Start a worker, run all jobs and print their results."""
    parameters: dict[str, Any] = {"host": "127.0.0.1", **json.load(sys.stdin)}
    name = f"apps-{uuid4()}"
    worker = get_context("spawn").Process(target=work, args=(parameters, name))
    worker.start()
    try:
        results = run_jobs(Queue(name, connection=Redis(**parameters)))
        worker.join(20)
        print(json.dumps({**results, "worker": worker.exitcode}))
    finally:
        worker.kill()


def run_jobs(queue: Queue) -> dict[str, Any]:
    """Return the results of jobs of all kinds, and shut the worker down."""
    done = queue.enqueue(operator.add, 2, 3)
    failed = queue.enqueue(operator.truediv, 1, 0)
    retried = queue.enqueue(f"{MODULE}.succeed_at_last_retry", retry=Retry(max=2, interval=[0, 1]))
    scheduled = queue.enqueue_in(timedelta(seconds=1), operator.mul, 2, 4)
    waited = scheduled.id in ScheduledJobRegistry(queue=queue)
    results = {
        "done": result_of(done),
        "failed": result_of(failed),
        "kept": failed.id in FailedJobRegistry(queue=queue),
        "retried": result_of(retried),
        "scheduled": [waited, result_of(scheduled)],
    }
    stopped = queue.enqueue(time.sleep, 60)
    wait_for(stopped, lambda status: status == JobStatus.STARTED)
    send_stop_job_command(queue.connection, stopped.id)
    results["stopped"] = result_of(stopped)
    send_shutdown_command(queue.connection, queue.name)
    queue.delete(delete_jobs=True)
    return results


def work(parameters: dict[str, Any], name: str) -> None:
    """Process the queue's jobs until a client sends the command to shut down."""
    worker = Worker([name], name=name, connection=Redis(**parameters))
    worker.work(with_scheduler=True, logging_level="WARNING")


def result_of(job: Job) -> object:
    """Wait until a job has ended, and return its result or its status."""
    status = wait_for(job, lambda status: status in (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED))
    return job.return_value() if status == JobStatus.FINISHED else status.value


def wait_for(job: Job, is_expected: Callable[[JobStatus], bool], seconds: float = 30) -> JobStatus:
    """Wait for a job's status and return it.

    Raises TimeoutError with the last status after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not is_expected(status := job.get_status()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the job {job.description} is still {status}")
        time.sleep(0.1)
    return status


if __name__ == "__main__":
    main()
