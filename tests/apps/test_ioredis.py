"""ioredis, as users with the roles session and queue."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.apps.conftest import run_app
from tests.apps.node import Node
from tests.deployed_redis import Instance


@pytest.fixture(scope="module")
def results(redis: Instance, connection: Callable[[str], str], installed_node: Node) -> Iterator[dict[str, Any]]:
    """Run the application once, and check that Redis denied it nothing."""
    connections = {"session": json.loads(connection("express")), "queue": json.loads(connection("orders"))}
    redis.call("ACL LOG RESET")
    yield run_app(*installed_node.command("ioredis_app.js"), connection=json.dumps(connections))
    assert redis.call("ACL LOG") == [""]


def test_sessions_expire_and_the_application_hears_of_it(results: dict[str, Any]) -> None:
    assert results["session"] == {"expired": "express:session:ioredis", "value": "value", "ttl": 120, "deleted": 1}


def test_jobs_are_queued_and_reported(results: dict[str, Any]) -> None:
    """A worker waits for a job, and a subscriber for its end.

    Hashes, sorted sets and streams hold what they need.
    """
    assert results["queue"] == {"job": "first", "tries": 2, "next": "second", "entries": 1, "done": "first"}


def test_custom_commands_are_refused_and_scripts_work(results: dict[str, Any]) -> None:
    """Redis refuses EVAL, and runs a script that the application loads itself.

    A command of defineCommand sends EVAL first.
    """
    assert results["scripts"]["refused"].startswith("ERR unknown command 'eval'")
    assert results["scripts"]["doubled"] == 2
