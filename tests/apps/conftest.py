"""Fixtures of the tests of client libraries: an instance, and ways to connect.

The instance has a user for each library. Every module tests one library. A library that needs a process of its own has
a small application next to the module. Applications read the connection as JSON from standard input: arguments and
environments are visible to others.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from sandbox.hosts import Host
from tests.apps import node
from tests.apps.node import Node
from tests.deployed_redis import Connect, Instance, clients, tcp_tunnel
from tests.deployer import ROOT, Deployer

# RQ uses the instance's own user `queues`.
USERS: dict[str, dict[str, Any]] = {
    "flask": {"role": "session", "keys": ["flask:session:*"]},
    "express": {"role": "session", "keys": ["express:session:*"], "channels": ["__keyevent@*__:expired"]},
    "pages": {"role": "cache", "keys": ["pages:*"]},
    "celery": {
        "role": "queue",
        "keys": ["celery:*"],
        "channels": ["celery:*", "celery:/0.celery.pidbox", "celery:/0.celeryev/*"],
    },
    "orders": {"role": "queue", "keys": ["orders:*"]},
    "reports": {"role": "read-only", "keys": ["pages:*"]},
    "exporter": {"role": "metrics"},
    "slowlog": {"role": "metrics", "rules": "+slowlog|get"},
    "map": {"role": "custom", "keys": ["map:*"], "rules": "+@geo"},
}


@pytest.fixture(scope="module")
def host(start_host: Callable[..., Host]) -> Host:
    """Give the host that the lifecycle tests of this worker share as well."""
    return start_host("lifecycle-1")


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Instance:
    """Give the instance with these users.

    After another module of this tier, the deploy changes nothing.
    """
    settings: dict[str, Any] = {"redis_users": USERS}
    return deployer.instance(host, **settings)


@pytest.fixture(scope="module")
def connect(redis: Instance) -> Iterator[Connect]:
    with clients(redis) as connect:
        yield connect


@pytest.fixture(scope="module")
def connection(redis: Instance) -> Iterator[Callable[[str], str]]:
    """Give a function that returns a user's connection.

    The connection is for the standard input of an application.
    """
    with tcp_tunnel(redis.host, "127.0.0.1", 6379) as port:
        yield lambda user: json.dumps({"port": port, "username": user, "password": redis.secrets.passwords[user]})


@pytest.fixture
def no_denials(redis: Instance) -> Iterator[None]:
    """Fail if Redis denies anything.

    A client that lacks a right often fails only in part.
    """
    redis.call("ACL LOG RESET")
    yield
    assert redis.call("ACL LOG") == [""]


@pytest.fixture(scope="session")
def installed_node() -> Node:
    return node.install()


def run_app(*command: str, connection: str, timeout: float = 90) -> dict[str, Any]:
    """Run an application of tests/apps and return its result.

    The application must succeed. Its result is the JSON that it prints as its last line. ``timeout`` is in seconds.
    """
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(connection, timeout=timeout)
    finally:
        # An application that fails or hangs may leave its workers.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, stderr
    results: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    return results


def run_python(module: str, connection: str) -> dict[str, Any]:
    """Run an application in Python, such as ``celery_app``."""
    return run_app(sys.executable, "-m", f"tests.apps.{module}", connection=connection)
