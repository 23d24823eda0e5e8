"""Celery, as a user with the role queue."""

from collections.abc import Callable

import pytest

from tests.apps.conftest import run_python


@pytest.mark.usefixtures("no_denials")
def test_tasks_of_every_kind_run(connection: Callable[[str], str]) -> None:
    """The application uses results, retries, countdowns, chords and remote control."""
    assert run_python("celery_app", connection("celery")) == {
        "added": 5,
        "retried": 3,
        "later": 3,
        "chord": 9,
        "failed": "ZeroDivisionError",
        "pinged": 1,
        "revoked": True,
    }
