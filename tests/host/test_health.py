"""Health: the health check succeeds for a healthy Redis and fails otherwise."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from testinfra.host import Host

from redoubt.settings.model import Settings
from tests.host.host_under_test import Target, quoted
from tests.host.proc import Kernel

SECOND = 10**9


@pytest.fixture(scope="module")
def check(container: dict[str, Any]) -> str:
    """Return Docker's command of the health check, as a shell command on the host."""
    kind, *command = container["Config"]["Healthcheck"]["Test"]
    assert kind == "CMD", "the shell form hides the exit code of the script"
    return f"docker exec {quoted(container['Name'].lstrip('/'), *command)}"


@pytest.fixture
def frozen(kernel: Kernel, host: Host) -> Iterator[None]:
    """Freeze Redis, as a disk that hangs does, and resume it afterwards."""
    pid = kernel.processes[-1].pid
    host.check_output(f"kill -STOP {pid}")
    yield
    host.check_output(f"kill -CONT {pid}")


def test_docker_reports_healthy(container: dict[str, Any]) -> None:
    """'docker ps' shows this state, and the application's services wait for it."""
    assert container["State"]["Health"]["Status"] == "healthy"


@pytest.mark.parametrize(
    ("field", "setting"),
    [
        ("Interval", "redis_health_interval"),
        ("Timeout", "redis_health_timeout"),
        ("StartPeriod", "redis_health_start_period"),
    ],
)
def test_check_has_the_times_of_the_settings(
    container: dict[str, Any], settings: Settings, field: str, setting: str
) -> None:
    """Docker counts in nanoseconds."""
    assert container["Config"]["Healthcheck"][field] == getattr(settings, setting) * SECOND


def test_check_has_the_retries_of_the_settings(container: dict[str, Any], settings: Settings) -> None:
    """So many failures in a row make Redis unhealthy."""
    assert container["Config"]["Healthcheck"]["Retries"] == settings.redis_health_retries


def test_check_succeeds_now(target: Target, host: Host, settings: Settings, check: str) -> None:
    """The check succeeds within Docker's timeout.

    Docker's own last result may be as old as the interval. With TLS the check also reports how long the certificate is
    valid.
    """
    result = host.run(f"timeout {settings.redis_health_timeout} {check}")
    expected = "healthy"
    if target.identity:
        days = (target.identity.expires - datetime.now(UTC)).days
        expected += f" (the certificate is valid for {days} days)"
    assert (result.rc, result.stdout.strip()) == (0, expected)


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        # redis-cli exits with 0 on a wrong password.
        pytest.param("/etc/hostname", "login", id="wrong password"),
        pytest.param("/dev/null", "cannot be read", id="empty"),
        pytest.param("/nowhere", "cannot be read", id="missing"),
    ],
)
def test_check_fails_without_its_password(host: Host, settings: Settings, check: str, secret: str, reason: str) -> None:
    """The deployed script fails if it reads its password from another file."""
    script = check.rsplit(maxsplit=1)[-1]
    inside = f"sed 's#/run/secrets/health#{secret}#' {script} | sh"
    result = host.run(f"timeout 10 docker exec {quoted(settings.redis_name)} sh -c {quoted(inside)}")
    assert result.rc == 1
    assert result.stdout.startswith("unhealthy:")
    assert reason in result.stdout


@pytest.mark.disrupts
@pytest.mark.usefixtures("frozen")
def test_check_fails_when_redis_hangs(host: Host, check: str) -> None:
    """The check does not end if Redis accepts connections and never answers.

    Docker ends the check after its timeout.
    """
    assert host.run(f"timeout 1 {check}").rc == 124
