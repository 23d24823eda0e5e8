"""RQ worker for the tests, with its scheduler and a scheduler of cron jobs.

Run it as python -m tests.host.rq_worker. It reads its connection as JSON from standard input, because other users can
see arguments and environments of processes.
"""

import json
import operator
import sys
from multiprocessing import get_context

from redis import Redis
from rq import Queue, Worker, get_current_job
from rq.cron import CronScheduler
from rq.job import requeue_job

# Seconds without a job after which the worker ends. No job waits that long.
IDLE_TIMEOUT = 10


def requeue(job_id: str) -> None:
    """Requeue a failed job. This is itself the function of a job."""
    current = get_current_job()
    assert current is not None
    requeue_job(job_id, current.connection)


def main() -> None:
    """Run the given number of jobs, each in a forked process."""
    request = json.load(sys.stdin)
    connection = Redis(**request["connect"])
    name = request["name"]
    cron = CronScheduler(connection, logging_level="WARNING", name=name)
    cron.register(operator.mul, name, args=(3, 3), interval=3600, name=name)
    # RQ forks its processes as well; a connection cannot be passed on in another way.
    cron_process = get_context("fork").Process(target=cron.start, daemon=True)
    cron_process.start()
    worker = Worker([Queue(name, connection=connection)], name=name, connection=connection)
    worker.work(with_scheduler=True, max_jobs=request["runs"], max_idle_time=IDLE_TIMEOUT, logging_level="WARNING")
    cron_process.terminate()
    cron_process.join()
    sys.exit(cron_process.exitcode)


if __name__ == "__main__":
    main()
