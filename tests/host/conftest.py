"""What the host tests stand on: the host, what was promised for it, and clients of its Redis.

Every fixture asks once for a module; each question is one SSH command.
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
def _junit(request: pytest.FixtureRequest, record_testsuite_property: Callable[[str, object], None]) -> None:
    """The security report's way into the file of --junitxml."""
    request.config.stash[audit.JUNIT] = record_testsuite_property


@pytest.fixture(scope="module")
def target(host: Host, request: pytest.FixtureRequest) -> Target:
    """The host under test with its settings, secrets and connections."""
    return request.config.stash[FLEET].targets[host.backend.get_pytest_id()]


@pytest.fixture(scope="module")
def settings(target: Target) -> Settings:
    """What the inventory says of the host."""
    return target.settings


@pytest.fixture(scope="module")
def secrets(target: Target) -> Secrets:
    """Passwords and command names, as this machine keeps them."""
    return target.secrets


@pytest.fixture(scope="module")
def container(target: Target) -> dict[str, Any]:
    """What the engine says of the Redis container."""
    return target.inspect()


@pytest.fixture(scope="module")
def kernel(target: Target) -> Kernel:
    """What the host's kernel says of it."""
    return kernel_of(target)


def kernel_of(target: Target) -> Kernel:
    """What the host's kernel says of the container now."""
    script = proc.SCRIPT % quoted(target.settings.redis_name)
    return proc.read(target.host.check_output(script).splitlines())


@pytest.fixture(scope="module")
def admin(target: Target) -> Redis:
    """The user who looks after the instance."""
    return target.admin


@pytest.fixture(scope="module")
def sessions(target: Target) -> Redis:
    """The application's sessions."""
    return target.client("sessions")


@pytest.fixture(scope="module")
def queues(target: Target) -> Redis:
    """RQ."""
    return target.client("queues")


@pytest.fixture(scope="module")
def config(target: Target) -> dict[str, str]:
    """The configuration that runs."""
    return target.config()


@pytest.fixture
def session_key(target: Target) -> Iterator[str]:
    """A key for the sessions user that is gone afterwards."""
    key = target.settings.session_keys.replace("*", target.mark)
    yield key
    target.admin.delete(key)


@pytest.fixture
def queue_key(target: Target) -> Iterator[str]:
    """A key for the queues user that is gone afterwards."""
    key = f"rq:{target.mark}"
    yield key
    target.admin.delete(key)


@pytest.fixture
def undenied(target: Target) -> Iterator[None]:
    """Nothing that the test's clients do may be denied: an entry in ACL LOG is a client that half works."""
    yield
    assert target.denials() == {}


@pytest.fixture(scope="module")
def back_healthy(target: Target) -> Iterator[None]:
    """For tests that stop Redis: the host is left as it was found, running and healthy."""
    yield
    target.hang_up()
    name = quoted(target.settings.redis_name)
    if target.inspect()["State"]["Status"] != "running":
        target.host.check_output(f"docker start {name}")
    until(lambda: target.inspect()["State"]["Health"]["Status"] == "healthy")
