"""Forks of pyinfra: several at once, each with its own output and exit code."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployed_redis import wait_until
from tests.forked_pyinfra import ForkedPyinfra

HANGING = ("@local", "exec", "--", "sleep", "60")


@pytest.fixture(scope="module")
def forked() -> Iterator[ForkedPyinfra]:
    forked = ForkedPyinfra()
    yield forked
    forked.close()


def test_commands_run_at_the_same_time(forked: ForkedPyinfra) -> None:
    """A signal ends one of them, and all that it has written arrives."""
    reading, writing = os.pipe()
    hanging = forked.start(HANGING, writing, writing)
    os.close(writing)
    with os.fdopen(reading) as output:
        while "Starting operation" not in (line := output.readline()):
            assert line
        version = forked.run(("--version",))
        assert (version.returncode, version.stdout.partition(" ")[0], version.stderr) == (0, "pyinfra:", "")
        assert hanging.poll() is None
        hanging.send_signal(signal.SIGKILL)
        output.read()
    assert (hanging.wait(10), hanging.poll()) == (-signal.SIGKILL, -signal.SIGKILL)
    # Nothing gets it: the number may belong to another process.
    hanging.send_signal(signal.SIGKILL)


def test_command_is_killed_after_its_timeout(forked: ForkedPyinfra) -> None:
    """The exception has what the command has written."""
    with pytest.raises(subprocess.TimeoutExpired) as error:
        forked.run(HANGING, timeout=5)
    assert "Starting operation" in str(error.value.stderr)
    assert forked._process is not None
    children = Path(f"/proc/{forked._process.pid}/task/{forked._process.pid}/children")
    wait_until(lambda: children.read_text() == "", "the process has no forks", 10)


def test_arguments_and_environment_are_those_of_the_command(forked: ForkedPyinfra) -> None:
    refused = forked.run(("nowhere.invalid", "exec", "--", "true"), env={"NO_COLOR": "1"})
    assert (refused.returncode, "nowhere.invalid" in refused.stderr) == (1, True), refused


def test_process_that_forks_is_replaced(forked: ForkedPyinfra) -> None:
    assert forked._process is not None
    forked._process.kill()
    forked._process.wait()
    assert forked.run(("--version",)).returncode == 0
