"""Deploys of tests end with their test, also if they hang."""

import signal
import subprocess
from pathlib import Path

import pytest

from sandbox.hosts import Host
from tests import deployer
from tests.deployer import Deployer

HOST = Host("lifecycle-1", "container", "host", 22001)


def test_halted_deploy_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only deploys that still run are killed, and only their hosts may be locked."""
    program = tmp_path / "pyinfra"
    monkeypatch.setattr(deployer, "PYINFRA", program)
    monkeypatch.setattr(Host, "deploy_data", lambda _: {})
    tests = Deployer(tmp_path)
    program.write_text("#!/bin/sh\nseq 100000; echo end >&2\n")
    program.chmod(0o755)
    result = tests.start(HOST, is_forked=False).wait()
    assert (result.returncode, result.stdout[-7:], result.stderr) == (0, "100000\n", "end\n")
    assert tests.kill_running() == []
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    halted = tests.start(HOST, is_forked=False)
    halted.signal(signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        halted.wait(0.1)
    assert tests.kill_running() == [HOST]
    assert halted.process.returncode == -signal.SIGKILL
    assert tests.kill_running() == []
