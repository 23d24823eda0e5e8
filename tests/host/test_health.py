"""Health: a check that tells the truth, and can say no."""

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
    """The engine's own command for the check, as a shell command on the host."""
    kind, *command = container["Config"]["Healthcheck"]["Test"]
    assert kind == "CMD", "the shell form would hide the script's exit code behind a shell's"
    return f"docker exec {quoted(container['Name'].lstrip('/'), *command)}"


@pytest.fixture
def frozen(kernel: Kernel, host: Host) -> Iterator[None]:
    """Redis stands still, as when its disk hangs; it goes on afterwards."""
    pid = kernel.processes[-1].pid
    host.check_output(f"kill -STOP {pid}")
    yield
    host.check_output(f"kill -CONT {pid}")


def test_engine_says_healthy(container: dict[str, Any]) -> None:
    """What 'docker ps' shows, and what the application's services wait for."""
    assert container["State"]["Health"]["Status"] == "healthy"


@pytest.mark.parametrize(
    ("field", "setting"),
    [
        ("Interval", "redis_health_interval"),
        ("Timeout", "redis_health_timeout"),
        ("StartPeriod", "redis_health_start_period"),
    ],
)
def test_check_runs_when_the_settings_say(
    container: dict[str, Any], settings: Settings, field: str, setting: str
) -> None:
    """In the engine's own notation, nanoseconds."""
    assert container["Config"]["Healthcheck"][field] == getattr(settings, setting) * SECOND


def test_check_gives_up_when_the_settings_say(container: dict[str, Any], settings: Settings) -> None:
    """So many failures in a row."""
    assert container["Config"]["Healthcheck"]["Retries"] == settings.redis_health_retries


def test_check_succeeds_now(target: Target, host: Host, settings: Settings, check: str) -> None:
    """Run by hand, in the time that the engine gives it: the engine's last word may be as old as the interval.

    It tells how long the certificate lasts, where whoever looks at a container looks first.
    """
    done = host.run(f"timeout {settings.redis_health_timeout} {check}")
    said = "healthy"
    if target.identity:
        days = (target.identity.expires - datetime.now(UTC)).days
        said += f" (the certificate is valid for {days} days)"
    assert (done.rc, done.stdout.strip()) == (0, said)


@pytest.mark.parametrize(
    ("secret", "complaint"),
    [
        # redis-cli exits with 0 on a wrong password.
        pytest.param("/etc/hostname", "login", id="wrong password"),
        pytest.param("/dev/null", "cannot be read", id="empty"),
        pytest.param("/nowhere", "cannot be read", id="missing"),
    ],
)
def test_check_fails_without_its_password(
    host: Host, settings: Settings, check: str, secret: str, complaint: str
) -> None:
    """The very script, with another file for its secret: a check that cannot fail proves nothing."""
    script = check.rsplit(maxsplit=1)[-1]
    inside = f"sed 's#/run/secrets/health#{secret}#' {script} | sh"
    done = host.run(f"timeout 10 docker exec {quoted(settings.redis_name)} sh -c {quoted(inside)}")
    assert done.rc == 1
    assert done.stdout.startswith("unhealthy:")
    assert complaint in done.stdout


@pytest.mark.disrupts
@pytest.mark.usefixtures("frozen")
def test_check_fails_when_redis_hangs(host: Host, check: str) -> None:
    """A Redis that accepts connections and answers nothing. The engine cuts the check off after its timeout."""
    assert host.run(f"timeout 1 {check}").rc == 124
