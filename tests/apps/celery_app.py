"""A Celery application for the tests: a worker with threads, and a client.

The client sends the worker tasks of every kind. The application reads the connection's parameters as JSON from standard
input, and prints the results of the tasks as JSON. Start it with ``python -m tests.apps.celery_app``.
"""

import json
import sys
import time
from typing import Any

from celery import Celery, chord
from celery.contrib.testing.worker import start_worker

app = Celery("redoubt-test")


@app.task
def add(x: int, y: int) -> int:
    """Succeed."""
    return x + y


@app.task
def divide(x: int, y: int) -> float:
    """Fail if ``y`` is 0."""
    return x / y


@app.task(bind=True, max_retries=3)
def succeed_at_last_retry(self: Any) -> int:
    """Succeed at the third retry; return the number of retries."""
    if self.request.retries < self.max_retries:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@app.task
def total(numbers: list[int]) -> int:
    """Add the results of other tasks."""
    return sum(numbers)


def main() -> None:
    """Run all tasks and print their results."""
    connection = json.load(sys.stdin)
    url = f"redis://{connection['username']}:{connection['password']}@127.0.0.1:{connection['port']}/0"
    transport = {"global_keyprefix": "celery:"}
    app.conf.update(
        broker_url=url,
        result_backend=url,
        broker_transport_options=transport,
        result_backend_transport_options=transport,
        worker_hijack_root_logger=False,
        worker_pool="threads",
    )
    with start_worker(app, perform_ping_check=False, pool="threads", concurrency=2, shutdown_timeout=20) as worker:
        failed = divide.apply_async((1, 0))
        revoked = add.apply_async((1, 1), countdown=60)
        revoked.revoke()
        results = {
            "added": add.delay(2, 3).get(timeout=20),
            "retried": succeed_at_last_retry.delay().get(timeout=20),
            "later": add.apply_async((1, 2), countdown=1).get(timeout=20),
            "chord": chord([add.s(1, 2), add.s(2, 4)])(total.s()).get(timeout=20),
            "failed": type(failed.get(timeout=20, propagate=False)).__name__,
            "pinged": len(app.control.ping(timeout=2)),
            "revoked": _is_revoked(worker, revoked.id),
        }
    print(json.dumps(results))


def _is_revoked(worker: object, task: str) -> bool:
    """Say whether the worker reports a task as revoked, within some seconds."""
    for _ in range(20):
        if task in str(app.control.inspect(timeout=1).revoked()):
            return True
        time.sleep(0.2)
    return False


if __name__ == "__main__":
    main()
