"""Waiting for conditions, for Docker and for commands, with a limit."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import util
from sandbox.util import SandboxError


def test_wait_ends_when_ready() -> None:
    answers = iter([False, True])
    assert util.wait_until("test", "waiting", lambda: next(answers), timeout=5)


def test_wait_ends_after_its_timeout() -> None:
    assert not util.wait_until("test", "waiting", lambda: False, timeout=0.2)


def test_silent_docker_ends_the_wait() -> None:
    def call(**_: Any) -> Iterator[dict[str, Any]]:
        yield {"stream": "one"}
        over.wait(10)

    over = threading.Event()
    with pytest.raises(SandboxError, match="sent nothing for 1 s"):
        list(util.events(call, silence=1))
    over.set()


def test_error_of_docker_is_raised_in_the_caller() -> None:
    def call(**_: Any) -> Iterator[dict[str, Any]]:
        yield {"stream": "one"}
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        list(util.events(call, silence=5))


def test_failed_command_shows_the_end_of_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "STATE", tmp_path)
    with pytest.raises(SandboxError, match=r"(?s)exit code 3.*\| the reason"):
        util.run_logged("test", "trying", ["sh", "-c", "echo the reason; exit 3"], timeout=10)


def test_hanging_command_is_terminated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "STATE", tmp_path)
    with pytest.raises(SandboxError, match="not done after 0 s"):
        util.run_logged("test", "trying", ["sleep", "60"], timeout=0.2)
