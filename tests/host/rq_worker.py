"""A worker of RQ for the tests: works through a queue in forked processes, and ends when it is empty.

What it connects by comes as JSON on standard input: arguments and environments of processes are visible to others.
Start it with ``python -m tests.host.rq_worker``.
"""

import json
import sys

from redis import Redis
from rq import Queue, Worker


def main() -> None:
    """Work in a burst, with a scheduler."""
    told = json.load(sys.stdin)
    connection = Redis(**told["connect"])
    worker = Worker([Queue(told["queue"], connection=connection)], name=told["name"], connection=connection)
    worker.work(burst=True, with_scheduler=True, logging_level="WARNING")


if __name__ == "__main__":
    main()
