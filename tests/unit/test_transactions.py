"""Transactions that fail because Docker restarts or refuses between two steps.

A real Docker cannot be made to do so at such a time.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from unittest.mock import Mock

import pytest

from redisctl import paths, schema
from redisctl.core import docker, journal, mounts, process, publishing, server_changes, service
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.core.journal import Kind, Stage
from redisctl.data import swap
from redisctl.deploy import lifecycle, owner, upgrade
from redisctl.deploy import service as deploy_service
from redisctl.migrate import migration
from redisctl.migrate.source import SourceServer
from redisctl.schema import BackupConfig, Config, OwnerRequest, StartRequest

DOWN = "Cannot connect to the Docker daemon"


def _restart(instance: Instance) -> object:
    (instance.root / paths.COMPOSE_FILE).write_text("")
    return lifecycle.restart(instance)


# A call for each kind of transaction that stops Redis and starts it again.
STOPS: dict[Kind, Callable[[Instance], object]] = {
    Kind.DATA: lambda instance: swap.swap_data(instance, instance.root / "staged", lambda _: [], "the restore"),
    Kind.SERVICE: lambda instance: deploy_service.start(instance, StartRequest("redis:8", "999:999", timeout=1)),
    Kind.OWNER: lambda instance: owner.change(instance, OwnerRequest("999:999", "20001:20002")),
    Kind.START: _restart,
}
WAIT_UNTIL_LOADED = service._wait_until_loaded


@dataclass
class FakeDocker:
    """Programs of a host with one container.

    ``fails_after`` is a command after which Docker restarts. Then the next command fails, and all that follow if
    ``stays_down``. Containers without a policy do not run again.
    """

    running: bool = True
    removed: bool = False
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
            case ["rm", "--force", "redis"]:
                self.removed, self.running = True, False
            case ["compose", *_, "up", "--detach", "redis"]:
                self.removed, self.running = False, True
            case ["compose", *_, "config", "--format", "json"]:
                return '{"services": {"redis": {}}}'
            case ["ps", *options]:
                if f"label={docker.PROJECT_LABEL}=redis" in options:
                    return " ".join((*(["redis"] if self.running else []), *self.services))
            case ["container", "inspect", *names]:
                return json.dumps([self._inspect(name) for name in names if name != "redis" or not self.removed])
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
    monkeypatch.setattr(service, "_wait_until_loaded", lambda instance, *_: instance.refresh_container() or "")
    monkeypatch.setattr(server_changes, "undo_after_start", lambda _: [])
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
    (tmp_path / paths.PROGRAM_CONFIG).write_text(schema.dump(Config("redis", tmp_path, "")))
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


def test_restart_of_a_stopped_redis_starts_nothing(instance: Instance, host: FakeDocker) -> None:
    host.running = False
    with pytest.raises(Failure, match="redis does not run, and nothing was started: redisctl start"):
        lifecycle.restart(instance)
    assert (host.running, stage(instance)) == (False, None)


def test_interrupted_restart_finishes_when_docker_is_back(instance: Instance, host: FakeDocker) -> None:
    """The recovery starts Redis with its policy."""
    host.fails_after, host.stays_down = ("docker", "update", "--restart", "no"), True
    with pytest.raises(Failure, match="Not everything runs as before"):
        _restart(instance)
    record = journal.read(instance)
    assert record is not None
    host.down = False
    lifecycle.recover(instance, record)
    assert (host.running, host.policy, stage(instance)) == (True, instance.restart, None)


def test_failed_start_schedules_backups(instance: Instance, host: FakeDocker) -> None:
    """A service of the application may have failed; Redis runs and needs its backups."""
    host.refused = ("docker", "compose")
    (instance.root / paths.COMPOSE_FILE).write_text("")
    with pytest.raises(Failure, match="refused"):
        lifecycle.start(instance)
    assert ("systemctl", "enable", "--quiet", "--now", "redis-backup.timer") in host.commands


def test_data_that_locks_admin_out_fails_the_start(
    instance: Instance, host: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis serves, so the other services start.

    A rollback has no better data.
    """

    def refuse(_: Instance) -> list[str]:
        raise server_changes.LockedOut("the AOF changes the users")

    monkeypatch.setattr(server_changes, "undo_after_start", refuse)
    (instance.root / paths.COMPOSE_FILE).write_text("")
    with pytest.raises(Failure, match="the AOF changes the users"):
        lifecycle.start(instance)
    assert any("--wait" in command for command in host.commands)
    host.commands.clear()
    compose = deploy_service._Compose(instance, StartRequest("redis:8", "999:999", timeout=1), at_boot=False)
    with pytest.raises(Failure, match="the AOF changes the users"):
        compose.up()
    assert any("--wait" in command for command in host.commands)
    assert compose.up_again() == "the AOF changes the users"


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


@pytest.mark.parametrize("kind", STOPS)
def test_redis_is_not_stopped_if_it_could_not_start(
    kind: Kind, instance: Instance, host: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every transaction that stops Redis asks Docker first.

    A stop only warns.
    """
    assert {*STOPS, Kind.STOP} == {*Kind}

    def refuse(*_: object) -> None:
        assert stage(instance) is None
        raise Failure("Docker cannot publish ports")

    monkeypatch.setattr(publishing, "ensure_restartable", refuse)
    with pytest.raises(Failure, match="Docker cannot publish ports"):
        STOPS[kind](instance)
    assert (host.running, host.removed, host.policy, stage(instance)) == (True, False, "always", None)


@pytest.mark.parametrize("kind", STOPS)
def test_redis_is_not_stopped_without_its_disks(
    kind: Kind, instance: Instance, host: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is mounted later would hide what a restore wrote."""
    monkeypatch.setattr(mounts, "unmounted", lambda _: ("/srv/redis/data",))
    with pytest.raises(Failure, match="nothing is mounted on /srv/redis/data"):
        STOPS[kind](instance)
    assert (host.running, host.policy, stage(instance)) == (True, "always", None)


@pytest.mark.parametrize(
    ("reached", "replaced", "message"),
    [
        (None, False, "the restore was interrupted. Nothing has changed"),
        (Stage.STASHING, True, "the restore was interrupted. The old state comes back by itself"),
        (None, True, "the restore had finished when it was interrupted: Redis serves the new data"),
    ],
    ids=["before", "during", "after"],
)
def test_interrupted_swap_says_which_data_redis_has(
    instance: Instance, host: FakeDocker, reached: Stage | None, replaced: bool, message: str
) -> None:
    def interrupted() -> None:
        if reached:
            journal.begin(instance, "the restore", Kind.DATA, stage=reached)
        if replaced:
            (instance.previous / "old").mkdir(parents=True)
        raise KeyboardInterrupt

    with pytest.raises(Failure, match=message), swap.interruptible(instance, "the restore", "old"):
        interrupted()


@pytest.mark.parametrize("stays_down", [False, True])
def test_unclean_stop_is_left_to_recovery_while_docker_is_down(
    instance: Instance, host: FakeDocker, monkeypatch: pytest.MonkeyPatch, stays_down: bool
) -> None:
    """Docker itself does not start a Redis without a policy when it is back."""

    def stop(*_: object, **__: object) -> None:
        host.running, host.down, host.stays_down = False, stays_down, stays_down
        raise service.UncleanStop("Redis stopped, but it did not write dump.rdb", running=False)

    monkeypatch.setattr(service, "stop", stop)
    monkeypatch.setattr(service, "start_and_check", lambda *_: ["Docker does not answer"] if stays_down else [])
    outcome = "systemd tries again every minute" if stays_down else "Nothing was replaced, and Redis runs again"
    with pytest.raises(Failure, match=outcome):
        STOPS[Kind.DATA](instance)
    assert stage(instance) is (Stage.STOPPING if stays_down else None)


@pytest.fixture
def failing_disk(host: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> list[OSError]:
    """Errors of a disk, one for each time that a file of the deploy is removed.

    Redis does not run, because no process exits on SIGTERM here.
    """
    host.running = False
    unlink, errors = Path.unlink, list[OSError]()

    def fail(path: Path, missing_ok: bool = False) -> None:
        if path.name == paths.COMPOSE_OVERRIDE and errors:
            raise errors.pop()
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", fail)
    monkeypatch.setattr(Instance, "connect", lambda *_, **__: nullcontext(Mock()))
    return errors


def test_change_of_owner_is_rolled_back_on_a_bad_disk(
    instance: Instance, host: FakeDocker, failing_disk: list[OSError]
) -> None:
    failing_disk.append(OSError(5, "Input/output error", "/srv/redis/compose.created.yml"))
    with pytest.raises(Failure, match=r"compose.created.yml: Input/output error\. Redis runs as the old user again"):
        STOPS[Kind.OWNER](instance)
    assert (host.running, stage(instance), instance.live.stat().st_uid) == (True, None, 0)
    assert '"uid": 999' in (instance.root / paths.PROGRAM_CONFIG).read_text()


def test_failed_rollback_of_the_owner_is_left_to_recovery(
    instance: Instance, host: FakeDocker, failing_disk: list[OSError]
) -> None:
    failing_disk += [OSError(5, "Input/output error"), OSError(30, "Read-only file system")]
    with pytest.raises(Failure, match=r"Read-only file system\. The rollback failed as well: .*Input/output error.*"):
        STOPS[Kind.OWNER](instance)
    record = journal.read(instance)
    assert record is not None
    assert record.stage is Stage.ROLLING_BACK
    assert "is undone now" in owner.recover(instance, record)
    assert (host.running, stage(instance)) == (True, None)


def test_failed_rollback_of_a_swap_names_both_reasons(
    instance: Instance, host: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first reason says what was wrong with the new data."""
    host.running = False
    (instance.root / "staged").mkdir()
    problems = [["the new data has no keys"], ["the old data is damaged"]]
    monkeypatch.setattr(service, "start_and_check", lambda *_: problems.pop(0))
    with pytest.raises(Failure, match=r"the new data has no keys.*failed as well: .*the old data is damaged"):
        STOPS[Kind.DATA](instance)


def test_failed_rollback_of_an_upgrade_names_both_reasons(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise Failure("port 6379 is in use")

    monkeypatch.setattr(upgrade, "roll_back", fail)
    record = journal.begin(instance, "start of redis", Kind.SERVICE)
    with pytest.raises(Failure, match=r"the new version crashes.*failed as well: port 6379 is in use"):
        deploy_service._roll_back(instance, record, Mock(), "the new version crashes")
    assert stage(instance) is Stage.ROLLING_BACK
