"""The lock of an instance: real flocks.

Verbs of redisctl and the heartbeat of a deploy hold it.
"""

import fcntl
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redisctl import paths
from redisctl.core import docker, lock, process
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redoubt import deploy_lock
from redoubt.deploy_lock import LockState
from redoubt.facts.instance import DeployLock
from tests.deployed_redis import wait_until

HEARTBEAT = Path(__file__).resolve().parents[2] / "files" / "deploy-lock.sh"
HOLDER = {"who": "ann@laptop", "verb": "deploy", "since": "2026-11-27T09:12:03+00:00"}


@pytest.fixture(autouse=True)
def lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Move the lock into a temporary directory, and shorten the waits for it."""
    path = tmp_path / "redoubt-redis.lock"
    monkeypatch.setattr(paths, "lock_file", lambda _: str(path))
    monkeypatch.setattr(lock, "_GRACE", 0.3)
    monkeypatch.setattr(lock, "_POLL", 0.05)
    return path


class Heartbeat:
    """The process that holds the lock on the host for as long as a deploy lives."""

    def __init__(self, file: Path, run: str) -> None:
        values = {"LOCK": str(file), "HISTORY": f"{file}.history", "RUN": run, "HOLDER": json.dumps(HOLDER)}
        self.process = subprocess.Popen(
            ["sh", str(HEARTBEAT)],
            env={**os.environ, **values, "LOCK_TIMEOUT": "30", "MAX_RECORDS": "5"},
            stdin=subprocess.PIPE,
            text=True,
        )

    def wait_until_shared(self, file: Path, run: str) -> None:
        """Wait until the deploy has written its id and shares the lock."""
        for _ in range(100):
            if file.exists() and file.read_text().startswith(run):
                time.sleep(0.1)
                return
            time.sleep(0.05)
        raise AssertionError("the heartbeat did not take the lock")

    def end(self) -> None:
        """End the deploy: its heartbeat reads the end of its input."""
        self.process.communicate(timeout=10)


@pytest.fixture
def heartbeat(lock_file: Path) -> Iterator[Heartbeat]:
    """Hold the lock by a deploy with the id ``run-1``."""
    process = Heartbeat(lock_file, "run-1")
    process.wait_until_shared(lock_file, "run-1")
    yield process
    process.process.kill()
    process.process.communicate()


def refusal(verb: str, *, run: str = "") -> str:
    """Return why a verb does not get the lock."""
    with pytest.raises(Failure) as error, lock.hold("redis", verb, run=run):
        raise AssertionError(f"{verb} got the lock")
    return str(error.value)


def test_lock_is_exclusive() -> None:
    with lock.hold("redis", "backup"):
        assert refusal("restore").startswith(
            f"redis is locked: redisctl is at work (backup, process {os.getpid()}, for"
        )
    with lock.hold("redis", "restore"):
        pass


def test_lock_file_is_only_for_root(lock_file: Path) -> None:
    with lock.hold("redis", "backup"):
        assert lock_file.stat().st_mode & 0o777 == 0o600


def test_lock_follows_no_link(lock_file: Path, tmp_path: Path) -> None:
    lock_file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), lock.hold("redis", "backup"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_waiting_verb_gets_the_lock_once_it_is_free(lock_file: Path) -> None:
    with subprocess.Popen(["flock", str(lock_file), "cat"], stdin=subprocess.PIPE, text=True) as verb:
        wait_until(lambda: lock_file.exists() and lock.holder("redis"), "the other verb holds the lock", 30)
        # It ends while this one waits.
        threading.Timer(0.3, verb.communicate).start()
        with lock.hold("redis", "recover", wait=30):
            assert verb.wait(10) == 0


def test_holder_names_the_verb() -> None:
    assert lock.holder("redis") is None
    with lock.hold("redis", "backup"):
        holder = lock.holder("redis")
        assert holder is not None
        assert (holder.run, holder.pid, holder.verb) == ("", os.getpid(), "backup")
        assert str(holder).startswith(f"redisctl is at work (backup, process {os.getpid()}, for ")
    assert lock.holder("redis") is None


def test_deploy_waits_longer_than_it_looks_for_a_holder(lock_file: Path) -> None:
    """A holder that files/lock-state.sh does not report yet does not stop a deploy."""
    with subprocess.Popen(["flock", str(lock_file), "sleep", "3"]):
        while not lock_file.exists() or lock.holder("redis") is None:
            time.sleep(0.02)
        heartbeat = Heartbeat(lock_file, "run-1")
        heartbeat.wait_until_shared(lock_file, "run-1")
    heartbeat.end()
    assert heartbeat.process.returncode == 0


def test_holder_names_the_operator_of_a_deploy(heartbeat: Heartbeat) -> None:
    holder = lock.holder("redis")
    assert holder is not None
    assert (holder.run, holder.pid, holder.who) == ("run-1", heartbeat.process.pid, "ann@laptop")
    assert str(holder).startswith(f"ann@laptop is changing it (deploy, process {heartbeat.process.pid}, for ")


def test_verbs_of_a_deploy_share_its_lock(heartbeat: Heartbeat) -> None:
    with lock.hold("redis", "start_service", run="run-1"), lock.hold("redis", "acl", run="run-1"):
        pass
    # A shared lock leaves the deploy's id where it is.
    with lock.hold("redis", "acl", run="run-1"):
        assert lock.holder("redis") is not None


def test_verb_of_another_deploy_is_refused(heartbeat: Heartbeat) -> None:
    assert "has lost its lock on redis" in refusal("acl", run="run-2")


def test_verb_of_a_deploy_is_refused_by_a_person_s_verb() -> None:
    with lock.hold("redis", "backup"):
        assert "locked by another change: redisctl is at work (backup, " in refusal("acl", run="run-1")


def test_person_s_verb_is_refused_during_a_deploy(heartbeat: Heartbeat) -> None:
    assert refusal("backup").startswith("redis is locked: ann@laptop is changing it (deploy")


def test_verb_keeps_the_lock_after_its_deploy_ended(heartbeat: Heartbeat) -> None:
    """A step keeps the lock after its deploy has ended.

    The connection of a deploy may break while redisctl replaces containers, which must finish first.
    """
    with lock.hold("redis", "start_service", run="run-1"):
        heartbeat.end()
        holder = lock.holder("redis")
        assert holder is not None
        assert holder.pid == os.getpid()
        assert str(holder).startswith(f"a step of a deploy that has ended is still at work (process {os.getpid()}")
        assert refusal("backup").startswith("redis is locked: a step of a deploy that has ended")
        answer = answer_for_a_new_deploy()
        assert (answer.state, answer.pid) == ("held", str(os.getpid()))
        assert f"kill {os.getpid()}' on the host" in deploy_lock.problem("redis", answer)
    with lock.hold("redis", "backup"):
        pass


def answer_for_a_new_deploy() -> LockState:
    """Return what the inspection of a new deploy reports of the lock.

    This does not wait for the lock.
    """
    command = DeployLock().command("redis", "").replace("seq 100", "seq 26").replace("sleep 0.1", "sleep 0.01")
    output = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    return deploy_lock.parse(output.splitlines())


def test_free_lock_is_reported_as_free(heartbeat: Heartbeat) -> None:
    answer = answer_for_a_new_deploy()
    assert (answer.state, answer.holder["who"]) == ("held", "ann@laptop")
    heartbeat.end()
    assert answer_for_a_new_deploy().state == "free"


@pytest.mark.parametrize(
    "text",
    ["", "\n", "x", "\nx\n{}\n", "\n1\n[]\n", "\n1\n{\n", '\n1\n{"since": []}\n', '\n1\n{"since": "x"}\n', "\0" * 9],
)
def test_unreadable_lock_file_still_has_a_holder(lock_file: Path, text: str) -> None:
    lock_file.write_text(text)
    with lock_file.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert str(lock.holder("redis"))


def test_lock_without_a_file_is_free() -> None:
    assert lock.holder("redis") is None


def test_clean_up_removes_what_a_killed_verb_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[Any] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "0123\n" if "ps" in command else "", "")

    monkeypatch.setattr("redisctl.core.process.run", run)
    instance = Instance("redis", tmp_path, "")
    (tmp_path / "backups" / ".20260102T030405Z.partial").mkdir(parents=True)
    (tmp_path / "data" / "staging" / "new").mkdir(parents=True)
    journal = tmp_path / "data" / "journal.json"
    journal.touch()
    with lock.locked(instance, "backup"):
        assert ["docker", "rm", "--force", "0123"] in commands
        assert list((tmp_path / "backups").iterdir()) == []
        # An interrupted transaction still needs it.
        assert (tmp_path / "data" / "staging").exists()
    journal.unlink()
    lock.clean_up(instance)
    assert not (tmp_path / "data" / "staging").exists()


def test_programs_of_a_killed_verb_keep_its_lock(lock_file: Path) -> None:
    """A Compose that a killed redisctl started still works on the containers."""
    pid = os.fork()
    if pid == 0:
        with lock.hold("redis", "start_service"):
            process.run(["sleep", "2"])
        os._exit(0)
    for _ in range(100):
        if lock.holder("redis"):
            break
        time.sleep(0.05)
    # The verb has started its program.
    time.sleep(0.5)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert lock.holder("redis") is not None
    with lock.hold("redis", "recover", wait=10):
        pass


def test_work_is_repeated_once_if_docker_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure while the same Docker runs is not repeated."""
    pid_file = tmp_path / "docker.pid"
    pid_file.write_text("1")
    monkeypatch.setattr(docker, "_PID_FILE", pid_file)
    monkeypatch.setattr(docker, "answers", lambda: True)
    calls: list[str] = []

    def fail() -> None:
        calls.append(pid_file.read_text())
        raise Failure("no")

    def restart_docker() -> str:
        calls.append(pid_file.read_text())
        if len(calls) == 1:
            pid_file.write_text("2")
            raise Failure("the connection is lost")
        return "done"

    with pytest.raises(Failure):
        docker.RestartGuard().call(fail)
    assert calls == ["1"]
    calls.clear()
    assert docker.RestartGuard().call(restart_docker) == "done"
    assert calls == ["1", "2"]
