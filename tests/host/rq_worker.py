"""A worker of RQ for the tests, with its scheduler and a scheduler of cron jobs beside it, as an application has them.

What it connects by comes as JSON on standard input: arguments and environments of processes are visible to others.
Start it with ``python -m tests.host.rq_worker``.
"""

import json
import operator
import sys
from multiprocessing import get_context

from redis import Redis
from rq import Queue, Worker, get_current_job
from rq.cron import CronScheduler
from rq.job import requeue_job

# Seconds without a job after which the worker gives up; nothing waits that long.
IDLE = 10


def put_back(job_id: str) -> None:
    """The work of a job: puts a failed one back into its queue."""
    current = get_current_job()
    assert current is not None
    requeue_job(job_id, current.connection)


def main() -> None:
    """Work until so many jobs have run, each in a forked process."""
    told = json.load(sys.stdin)
    connection = Redis(**told["connect"])
    name = told["name"]
    cron = CronScheduler(connection, logging_level="WARNING", name=name)
    cron.register(operator.mul, name, args=(3, 3), interval=3600, name=name)
    # A fork, as RQ's own processes are: a connection cannot be handed over in another way.
    beside = get_context("fork").Process(target=cron.start, daemon=True)
    beside.start()
    worker = Worker([Queue(name, connection=connection)], name=name, connection=connection)
    worker.work(with_scheduler=True, max_jobs=told["runs"], max_idle_time=IDLE, logging_level="WARNING")
    beside.terminate()
    beside.join()
    sys.exit(beside.exitcode)


if __name__ == "__main__":
    main()
