"""Fixtures of the host suite: hosts, their settings and secrets, and clients.

A fixture of a module asks the host once, with one SSH command.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from testinfra.host import Host

from redoubt.secret_store import Secrets
from redoubt.settings.model import Settings
from tests.conftest import FLEET
from tests.host import audit, proc
from tests.host.host_under_test import Target, quoted, until
from tests.host.proc import Kernel


@pytest.fixture(scope="session", autouse=True)
def _record_junit_property(
    request: pytest.FixtureRequest, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Let the security report write properties to the file of --junitxml."""
    request.config.stash[audit.JUNIT] = record_testsuite_property


@pytest.fixture(scope="module")
def target(host: Host, request: pytest.FixtureRequest) -> Target:
    """Return the host under test with its settings, secrets and connections."""
    return request.config.stash[FLEET].targets[host.backend.get_pytest_id()]


@pytest.fixture(scope="module")
def settings(target: Target) -> Settings:
    """Return the host's settings from the inventory."""
    return target.settings


@pytest.fixture(scope="module")
def secrets(target: Target) -> Secrets:
    """Return passwords and command names from the secret store of this machine."""
    return target.secrets


@pytest.fixture(scope="module")
def container(target: Target) -> dict[str, Any]:
    """Return the Redis container, as Docker inspects it."""
    return target.inspect()


@pytest.fixture(scope="module")
def kernel(target: Target) -> Kernel:
    """Return what the host's kernel enforces on the container."""
    return kernel_of(target)


def kernel_of(target: Target) -> Kernel:
    """Return what the host's kernel enforces on the container now."""
    script = proc.SCRIPT % quoted(target.settings.redis_name)
    return proc.parse(target.host.check_output(script).splitlines())


@pytest.fixture(scope="module")
def admin(target: Target) -> Redis:
    """Return a client of the admin user."""
    return target.admin


@pytest.fixture(scope="module")
def sessions(target: Target) -> Redis:
    """Return a client of the sessions user."""
    return target.client("sessions")


@pytest.fixture(scope="module")
def queues(target: Target) -> Redis:
    """Return a client of the queues user."""
    return target.client("queues")


@pytest.fixture(scope="module")
def config(target: Target) -> dict[str, str]:
    """Return the running configuration, by CONFIG GET."""
    return target.config()


@pytest.fixture
def session_key(target: Target) -> Iterator[str]:
    """Return a key for the sessions user; it is removed afterwards."""
    key = target.settings.session_keys.replace("*", target.mark)
    yield key
    target.admin.delete(key)


@pytest.fixture
def queue_key(target: Target) -> Iterator[str]:
    """Return a key for the queues user; it is removed afterwards."""
    key = f"rq:{target.mark}"
    yield key
    target.admin.delete(key)


@pytest.fixture
def undenied(target: Target) -> Iterator[None]:
    """Fail if Redis denied anything to the test's clients.

    A client with an entry in ACL LOG works only in part.
    """
    yield
    assert target.denials() == {}


@pytest.fixture(scope="module")
def back_healthy(target: Target) -> Iterator[None]:
    """Start Redis after tests that stop it, and wait until it is healthy."""
    yield
    target.hang_up()
    name = quoted(target.settings.redis_name)
    if target.inspect()["State"]["Status"] != "running":
        target.host.check_output(f"docker start {name}")
    until(lambda: target.inspect()["State"]["Health"]["Status"] == "healthy")
