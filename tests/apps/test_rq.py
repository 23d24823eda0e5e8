"""RQ, as the user queues.

tests/host has more kinds of jobs; here clients also send commands to a running worker.
"""

from collections.abc import Callable

import pytest

from tests.apps.conftest import run_python


@pytest.mark.usefixtures("no_denials")
def test_jobs_of_every_kind_run(connection: Callable[[str], str]) -> None:
    """The worker runs, retries and schedules jobs, and obeys a client's commands.

    The commands stop a job and shut down the worker.
    """
    assert run_python("rq_app", connection("queues")) == {
        "done": 5,
        "failed": "failed",
        "kept": True,
        "retried": 3,
        "scheduled": [True, 8],
        "stopped": "stopped",
        "worker": 0,
    }
