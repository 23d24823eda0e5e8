"""Transactions that fail because Docker restarts or refuses between two steps.

A real Docker cannot be made to do so at such a time.
"""

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from unittest.mock import Mock

import pytest

from redisctl import paths
from redisctl.core import docker, journal, process, service
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.core.journal import Kind, Stage
from redisctl.data import swap
from redisctl.deploy import lifecycle
from redisctl.deploy import service as deploy_service
from redisctl.migrate import migration
from redisctl.migrate.source import SourceServer
from redisctl.schema import BackupConfig, StartRequest

DOWN = "Cannot connect to the Docker daemon"
WAIT_UNTIL_LOADED = service._wait_until_loaded


@dataclass
class FakeDocker:
    """Programs of a host with one container.

    ``fails_after`` is a command after which Docker restarts. Then the next command fails, and all that follow if
    ``stays_down``. Containers without a policy do not run again.
    """

    running: bool = True
    restarts: int = 0
    policy: str = "always"
    down: bool = False
    fails_after: tuple[str, ...] = ()
    stays_down: bool = False
    refused: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    commands: list[tuple[str, ...]] = field(default_factory=list)

    def run(self, command: Sequence[str], **_: Any) -> CompletedProcess[str]:
        """Answer a command."""
        self.commands.append(tuple(command))
        if command[0] == "docker" and self.down:
            self.down = self.stays_down
            return CompletedProcess(command, 1, "", DOWN)
        if self.refused and tuple(command[: len(self.refused)]) == self.refused:
            return CompletedProcess(command, 1, "", "refused")
        output = self._docker(command[1:]) if command[0] == "docker" else ""
        if self.fails_after and tuple(command[: len(self.fails_after)]) == self.fails_after:
            self.down, self.running, self.fails_after = True, False, ()
        return CompletedProcess(command, 0, output, "")

    def _docker(self, words: Sequence[str]) -> str:
        match words:
            case ["update", "--restart", policy, "redis"]:
                self.policy = policy
            case ["start", "redis"]:
                self.running = True
            case ["stop", "redis"]:
                self.running = False
            case ["ps", *options]:
                if f"label={docker.PROJECT_LABEL}=redis" in options:
                    return " ".join((*(["redis"] if self.running else []), *self.services))
            case ["container", "inspect", *names]:
                return json.dumps([self._inspect(name) for name in names])
        return ""

    def _inspect(self, name: str) -> dict[str, Any]:
        return {
            "Id": name,
            # Of no process.
            "State": {"Running": self.running, "Pid": 2**30 if self.running else 0, "ExitCode": 0},
            "RestartCount": self.restarts,
            "HostConfig": {"RestartPolicy": {"Name": self.policy}},
            "Config": {"Labels": {docker.SERVICE_LABEL: name}},
        }


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """A host with a Redis that serves whenever its container runs."""
    fake = FakeDocker()
    monkeypatch.setattr(process, "run", fake.run)
    monkeypatch.setattr(docker, "RESTART_TIMEOUT", 0)
    monkeypatch.setattr(service, "_wait_until_loaded", lambda instance, _: instance.refresh_container() or "")
    return fake


@pytest.fixture
def instance(tmp_path: Path, host: FakeDocker) -> Instance:
    """An instance with data and a password."""
    instance = Instance("redis", tmp_path, "", backup=BackupConfig(scheduled=True))
    instance.live.mkdir(parents=True)
    for name in ("config", "secrets", "logs"):
        (tmp_path / name).mkdir()
    (tmp_path / "secrets/admin").write_text("password\n")
    (tmp_path / "config/redis.conf").write_text("")
    return instance


def stage(instance: Instance) -> Stage | None:
    """Return the stage of the journal; None if there is none."""
    record = journal.read(instance)
    return record.stage if record else None


@pytest.mark.parametrize("reached", [Stage.PREPARED, Stage.STOPPED, Stage.RESTARTING_OLD])
def test_recovery_waits_for_docker(instance: Instance, host: FakeDocker, reached: Stage) -> None:
    """A recovery fails while Docker is down, and succeeds once it is back.

    After a power cut Docker may fail to start at first. It does not start a Redis without a policy.
    """
    journal.begin(instance, "the restore", Kind.DATA, stage=reached, restart_policy="always")
    host.running, host.policy, host.down, host.stays_down = False, "no", True, True
    record = journal.read(instance)
    assert record is not None
    with pytest.raises(Failure, match=rf"{DOWN}.* systemd tries again every minute"):
        swap.recover(instance, record)
    assert stage(instance) is reached
    host.down = False
    swap.recover(instance, record)
    assert (host.running, host.policy, stage(instance)) == (True, "always", None)


def test_start_survives_a_restart_of_docker(instance: Instance, host: FakeDocker) -> None:
    host.running, host.policy, host.down = False, "no", True
    host.refused = ("docker", "version")
    service.start(instance, "always")
    assert (host.running, host.policy) == (True, "always")


@pytest.mark.parametrize("reached", [Stage.STASHING, Stage.INSTALLING, Stage.STARTING, Stage.ROLLING_BACK])
def test_interrupted_repair_is_left_to_recovery(instance: Instance, host: FakeDocker, reached: Stage) -> None:
    """Redis must not start with data that moved, and the staged data must stay."""
    host.running = False
    staged = instance.root / paths.STAGING / "new"
    staged.mkdir(parents=True)

    def repair() -> None:
        with swap.redis_stopped(instance, "the repair") as record:
            journal.advance(instance, record, reached, staged="data/staging/new", previous="data/previous/x")
            raise KeyboardInterrupt

    with pytest.raises(Failure, match="the repair was interrupted"):
        repair()
    assert (stage(instance), staged.is_dir(), host.policy) == (reached, True, "no")


def test_examined_redis_gets_its_policy_back(instance: Instance, host: FakeDocker) -> None:
    host.running = False
    with swap.redis_stopped(instance, "the repair"):
        assert host.policy == "no"
    assert (stage(instance), host.policy) == (None, "always")


@pytest.mark.parametrize(("earlier", "crashes"), [(3, 0), (3, 1), (0, 1)])
def test_only_a_new_crash_is_a_failed_start(
    instance: Instance, host: FakeDocker, monkeypatch: pytest.MonkeyPatch, earlier: int, crashes: int
) -> None:
    """A recovery may start a Redis that runs, and that Docker restarted before."""
    host.restarts = earlier
    monkeypatch.setattr(service, "_wait_until_loaded", WAIT_UNTIL_LOADED)
    monkeypatch.setattr(Instance, "connect", lambda *_, **__: nullcontext(Mock()))
    monkeypatch.setattr(time, "sleep", lambda _: setattr(host, "restarts", earlier + crashes))
    problems = service.start_and_check(instance, lambda _: [], "always")
    assert ["does not stay up" in problem for problem in problems] == [True] * crashes


def test_swap_is_recovered_if_docker_restarts(instance: Instance, host: FakeDocker) -> None:
    """Redis was stopped by Docker, and its policy alone would not start it."""
    host.fails_after = ("docker", "update", "--restart", "no")
    with (
        pytest.raises(Failure, match=f"{DOWN}.* The old state comes back by itself"),
        swap.redis_stopped(instance, "the repair"),
    ):
        pytest.fail("Redis was not stopped")
    record = journal.read(instance)
    assert record is not None
    assert record.stage is Stage.STOPPING
    swap.recover(instance, record)
    assert (host.running, host.policy, stage(instance)) == (True, "always", None)


def test_failed_stop_starts_redis_again(instance: Instance, host: FakeDocker) -> None:
    """A stop that fails because Docker restarts in the middle starts Redis again.

    Docker does not start a Redis without a policy.
    """
    host.fails_after = ("docker", "update", "--restart", "no")
    with pytest.raises(Failure, match=DOWN):
        lifecycle.stop(instance)
    assert (host.running, host.policy, stage(instance)) == (True, "always", None)


def test_failed_stop_of_a_stopped_redis_starts_nothing(instance: Instance, host: FakeDocker) -> None:
    host.running = False
    host.fails_after = ("docker", "update", "--restart", "no")
    with pytest.raises(Failure, match=DOWN):
        lifecycle.stop(instance)
    assert (host.running, host.policy, stage(instance)) == (False, "always", None)


def test_stop_finishes_when_docker_is_back(instance: Instance, host: FakeDocker) -> None:
    host.fails_after, host.stays_down = ("docker", "update", "--restart", "no"), True
    with pytest.raises(Failure, match="Not everything runs as before"):
        lifecycle.stop(instance)
    record = journal.read(instance)
    assert record is not None
    host.down = False
    lifecycle.recover(instance, record)
    assert (host.running, host.policy, stage(instance)) == (False, "no", None)


def test_interrupted_stop_finishes_without_a_recreated_service(instance: Instance, host: FakeDocker) -> None:
    """The container that the journal names is gone."""
    request = {"running": True, "services": ["old"], "discard_unsaved": False}
    record = journal.begin(instance, "stop", Kind.STOP, restart_policy="always", request=request)
    host.running, host.services, host.refused = False, ("new",), ("docker", "stop", "old")
    lifecycle.recover(instance, record)
    assert ("docker", "stop", "new") in host.commands
    assert (host.policy, stage(instance)) == ("no", None)


def test_failed_stop_schedules_backups_again(instance: Instance, host: FakeDocker) -> None:
    """Even if a service of the application does not start again."""
    host.services, host.refused = ("web",), ("docker", "start", "web")
    host.fails_after = ("docker", "stop", "web")
    with pytest.raises(Failure, match=r"Not everything runs as before: .*docker start web"):
        lifecycle.stop(instance)
    assert ("systemctl", "enable", "--quiet", "--now", "redis-backup.timer") in host.commands


def test_failed_start_schedules_backups(instance: Instance, host: FakeDocker) -> None:
    """A service of the application may have failed; Redis runs and needs its backups."""
    (instance.root / paths.COMPOSE_FILE).write_text("")
    host.refused = ("docker", "compose")
    with pytest.raises(Failure, match="refused"):
        lifecycle.start(instance)
    assert ("systemctl", "enable", "--quiet", "--now", "redis-backup.timer") in host.commands


@pytest.mark.parametrize("replaced", [True, False])
def test_import_is_done_if_its_switch_replaced_the_data(instance: Instance, host: FakeDocker, replaced: bool) -> None:
    """The previous data of a later restore does not look like that of the switch."""
    state = migration.State(SourceServer("old", 6379), time.time(), False, 0, replaced="20260102T030405Z")
    (instance.root / paths.IMPORT).mkdir()
    (instance.previous / (state.replaced if replaced else "20260102T030406Z")).mkdir(parents=True)
    assert migration.recover(instance, state) == replaced
    assert (instance.root / paths.IMPORT).exists() != replaced


def test_removal_leaves_no_copy_of_the_secrets(instance: Instance, host: FakeDocker) -> None:
    """As after a kill while the saved configuration was removed."""
    host.running = False
    (instance.root / paths.ROLLBACK_PARTIAL / paths.SECRETS).mkdir(parents=True)
    lifecycle.remove(instance, data=True)
    assert not instance.root.exists()


def test_start_that_replaces_nothing_keeps_the_override(instance: Instance, host: FakeDocker) -> None:
    """A cancelled upgrade leaves the container, which the override defines."""
    override = instance.root / paths.COMPOSE_OVERRIDE
    override.write_text("# redis\n")
    request = StartRequest("redis:8", "999:999", timeout=1, recreate=("redis",))
    compose = deploy_service._Compose(instance, request, at_boot=False)
    assert override.exists()
    compose.up()
    assert not override.exists()
    assert not any(str(override) in command for command in host.commands)
