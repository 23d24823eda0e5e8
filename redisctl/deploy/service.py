"""Brings the Compose project of an instance up and waits until Redis is healthy.

One transaction: the configuration is tried first, in a container of its own, while the old Redis serves. A host that
goes down in the middle finishes the start at boot. An upgrade whose new version is not healthy is rolled back.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from redis.exceptions import RedisError

from redisctl import paths, schema
from redisctl.core import (
    docker,
    journal,
    mounts,
    network_filter,
    process,
    publishing,
    service,
    transaction,
)
from redisctl.core.docker import RestartGuard
from redisctl.core.errors import Failure
from redisctl.core.files import sync
from redisctl.core.instance import Instance
from redisctl.core.journal import Journal, Kind, Stage
from redisctl.core.server_changes import LockedOut
from redisctl.data.layout import upgrade_in_progress
from redisctl.deploy import configuration, containers, preview, upgrade
from redisctl.schema import Result, StartRequest

# Lines of logs that explain a failed start.
_LOG_LINES = 20


class RolledBack(Failure):
    """An upgrade failed, and the previous version serves its data again."""


def start(instance: Instance, request: StartRequest) -> Result:
    """Bring the project up and wait until it is healthy.

    Replaces containers, and on a failed upgrade puts the previous version back. Raises Failure with the reason and the
    last log lines.
    """
    replacing = configuration.replacing(instance)
    if replacing is None:
        journal.ensure_none(instance)
        configuration.discard(instance)
    try:
        check_data_directory(instance)
        addresses = _check_project(instance)
        preview.check_config(instance, request.image, request.owner)
        # A recovery continues with these files, so they must have reached the disk.
        sync(instance.root)
        record = transaction.begin(
            instance,
            f"start of {instance.name}",
            Kind.SERVICE,
            replacing=replacing,
            addresses=addresses,
            request=dataclasses.asdict(request),
        )
    except Failure:
        # If this fails as well, the recovery repeats it: the journal is still open.
        with contextlib.suppress(Failure):
            if replacing:
                configuration.put_back(instance)
        raise
    return Result(changed=True, messages=tuple(_run(instance, request, record, at_boot=False).splitlines()))


def recover(instance: Instance, record: Journal, *, at_boot: bool) -> str:
    """Finish an interrupted start, or the rollback of an upgrade that had begun.

    Returns what was done. Raises Failure if neither the new nor the old state runs.
    """
    if record.stage is Stage.REPLACING_FILES:
        configuration.put_back(instance)
        return (
            f"{record.operation} was interrupted before {instance.name} restarted: the previous configuration is back"
        )
    request = schema.from_dict(StartRequest, record.request)
    if record.stage is Stage.FINISHING:
        upgrade.complete(instance, record)
        return f"{record.operation} had finished"
    if record.stage in (Stage.ROLLING_BACK, Stage.RESTARTING_OLD):
        compose = _Compose(instance, request, at_boot=at_boot)
        message = RestartGuard().call(lambda: upgrade.roll_back(instance, compose))
        return f"an upgrade of {instance.name} was interrupted: {message}"
    try:
        _run(instance, request, record, at_boot=at_boot)
    except RolledBack as error:
        return f"{record.operation} was interrupted. {error}"
    return f"{record.operation} was interrupted and is finished now"


def recover_files(instance: Instance, record: Journal) -> None:
    """Put back the files that Docker must start Redis with, before Docker starts."""
    if record.stage is Stage.REPLACING_FILES:
        configuration.put_back(instance)
    else:
        upgrade.put_back_files(instance, record)


def check_data_directory(instance: Instance) -> None:
    """Raise Failure if the data is not there: Redis must not start without it."""
    mounts.ensure_mounted(instance.root)
    if not instance.live.is_dir():
        raise Failure(
            f"{instance.live} is missing, and nothing was started. If {instance.data} is a disk of its own, mount it, "
            "then try again. To start empty, deploy with --data redis_allow_data_loss=empty"
        )


def _check_project(instance: Instance) -> set[str]:
    """Return the addresses on which the project publishes Redis's ports.

    Raises Failure if Compose does not accept the project.
    """
    result = process.run(docker.compose(instance.root, instance.name, "config", "--format", "json"), timeout=None)
    if result.returncode != 0:
        raise Failure(
            f"Compose does not accept {instance.root}/compose.yml, and nothing was restarted: {result.stderr.strip()}\n"
            "Correct the service in redis_app_services, then deploy again"
        )
    ports = json.loads(result.stdout)["services"][instance.name].get("ports") or ()
    return {port["host_ip"] for port in ports}


def _run(instance: Instance, request: StartRequest, record: Journal, *, at_boot: bool) -> str:
    """Start, and commit or roll back.

    Returns Compose's output. Raises Failure, after a rollback RolledBack.
    """
    compose, guard, warning = _Compose(instance, request, at_boot=at_boot), RestartGuard(), ""
    try:
        record = guard.call(lambda: upgrade.save_data(instance, record, request))
        warning = guard.call(lambda: _stop_replaced(instance, compose))
    except Failure as error:
        _cancel_upgrade(instance, request, record, compose, error)
    record = journal.advance(instance, record, Stage.STARTING)
    try:
        output = guard.call(lambda: _bring_up(instance, request, compose))
    except Failure as error:
        reasons = _diagnose(instance, compose, str(error))
    else:
        upgrade.complete(instance, record)
        return "\n".join(filter(None, (warning, output)))
    # A service next to a healthy new version is no reason to give up what was written since.
    if upgrade_in_progress(instance) and not _is_healthy(instance):
        raise RolledBack(f"{reasons}\n{_roll_back(instance, record, compose, reasons)}")
    upgrade.complete(instance, record)
    raise Failure(reasons)


def _stop_replaced(instance: Instance, compose: "_Compose") -> str:
    """Stop a Redis whose container is replaced and that has to save.

    Returns what it may have lost. Raises Failure if it cannot save and runs on.
    """
    if not compose.replaces() or not service.must_stop_checked(instance):
        return ""
    service.hold_down(instance)
    try:
        service.stop(instance)
    except service.UncleanStop as error:
        if error.running:
            raise
        return str(error)
    return ""


def _cancel_upgrade(
    instance: Instance, request: StartRequest, record: Journal, compose: "_Compose", error: Failure
) -> NoReturn:
    """Leave the old version running, because its data cannot be kept.

    So nothing may replace it. Raises Failure.
    """
    state = docker.container(instance.name).get("State", {})
    if state.get("Running") and not state.get("Restarting"):
        service.set_restart_policy(instance, request.restart)
        configuration.restore(instance)
        upgrade.complete(instance, record)
        raise RolledBack(f"{error}. The running Redis was left alone. Solve that, then deploy again") from None
    raise RolledBack(f"{error}. {_roll_back(instance, record, compose, error)}") from None


def _roll_back(instance: Instance, record: Journal, compose: "_Compose", reason: object) -> str:
    def undo() -> str:
        journal.advance(instance, record, Stage.ROLLING_BACK)
        return RestartGuard().call(lambda: upgrade.roll_back(instance, compose))

    return transaction.roll_back(reason, undo)


def _bring_up(instance: Instance, request: StartRequest, compose: "_Compose") -> str:
    """Bring the project up, and return Compose's output.

    It ends with what the data had changed in the server. May be repeated. Raises Failure.
    """
    if not (upgrade_in_progress(instance) and upgrade.is_old_version(instance)):
        # Docker must not start the old version of an upgrade any more: its data is kept for a rollback.
        service.set_restart_policy(instance, request.restart)
    if request.paused:
        with contextlib.suppress(Failure):
            compose.run("unpause", *request.paused)
    if request.recreate_networks:
        # Compose does not change a network that exists.
        compose.run("down", "--remove-orphans")
    return compose.up(request.recreate)


class _Compose:
    """Compose commands for the project.

    They remove what an interrupted one left, and raise Failure.
    """

    def __init__(self, instance: Instance, request: StartRequest, *, at_boot: bool) -> None:
        self._instance, self._request, self._at_boot = instance, request, at_boot
        self._override = self._keeps_container()

    def _keeps_container(self) -> bool:
        """Say whether the override belongs to the container that runs and stays."""
        instance, request = self._instance, self._request
        path = instance.root / paths.COMPOSE_OVERRIDE
        replaced = request.recreate_networks or instance.name in request.recreate
        container = docker.container(instance.name)
        if not replaced and containers.override_is_for(path, container.get("Id", "")):
            hashes = containers.compose_hashes(instance, override=True)
            if hashes.get(instance.name) == container["Config"]["Labels"].get(docker.HASH_LABEL):
                return True
        return False

    def replaces(self) -> bool:
        """Say whether ``up`` replaces the container of Redis."""
        instance, request = self._instance, self._request
        container = docker.container(instance.name)
        if not container or request.recreate_networks or instance.name in request.recreate:
            return bool(container)
        hashes = containers.compose_hashes(instance, override=self._override)
        return bool(hashes.get(instance.name) != container["Config"]["Labels"].get(docker.HASH_LABEL))

    def forget_override(self) -> None:
        """The container is created from compose.yml alone."""
        self._override = False

    def run(self, *arguments: str) -> str:
        """Run a Compose command. Returns its output. Raises Failure with the output."""
        instance = self._instance
        command = docker.compose(instance.root, instance.name, *arguments, override=self._override)
        return docker.run(command)

    def up_again(self) -> str:
        """Replace all containers, see ``up``. Data that locks admin out is no failure."""
        try:
            return self.up(tuple(containers.compose_hashes(self._instance, override=self._override)))
        except LockedOut as error:
            return str(error)

    def up(self, recreate: Sequence[str] = ()) -> str:
        """Create and start containers, and wait until all are healthy.

        Replaces those of the services to ``recreate``. Returns Compose's output, and what the data had changed in the
        server. Raises Failure, and LockedOut in the end.
        """
        instance, request = self._instance, self._request
        # An interrupted Compose leaves them under names that the next one needs.
        created = docker.project_containers(instance.name, status="created")
        if created:
            process.run(["docker", "rm", *created])
        if not self._override:
            # A container that is created must not get what an older one was created with.
            (instance.root / paths.COMPOSE_OVERRIDE).unlink(missing_ok=True)
        # Redis first, and without waiting: if its data makes it a replica, it is not healthy before that is undone.
        before = {} if instance.name in recreate else docker.container(instance.name)
        self._up("--no-deps", *(("--force-recreate",) if instance.name in recreate else ()), instance.name)
        network_filter.watch(instance)
        messages, locked_out = list[str](), None
        try:
            messages = self._settle(before)
        except LockedOut as error:
            locked_out = error
        others = [service for service in recreate if service != instance.name]
        if others:
            self._up("--force-recreate", "--no-deps", *others)
        output = self._up("--remove-orphans", "--wait", "--wait-timeout", str(request.timeout))
        network_filter.watch(instance)
        if locked_out:
            raise locked_out
        return "\n".join([output, *messages])

    def _up(self, *arguments: str) -> str:
        command = ("up", "--detach", *arguments)
        return publishing.repairing(self._instance, lambda: self.run(*command), at_boot=self._at_boot)

    def _settle(self, before: dict[str, Any]) -> list[str]:
        """Undo what the data changed, and give Redis time to become healthy.

        If Redis does not serve, Compose says so. Raises Failure.
        """
        instance, request = self._instance, self._request
        _, messages = service.settle(instance, before, request.timeout)
        # Compose fails at once if the last health check failed.
        _wait_while_unhealthy(instance, service.HEALTHY_TIMEOUT if messages else 0)
        if request.recovery_seconds:
            _help_recover(instance, request.recovery_seconds)
        return messages


def _help_recover(instance: Instance, seconds: int) -> None:
    """Give an unhealthy Redis time to become healthy.

    Compose would fail at once on the last health check.
    """
    try:
        with instance.connect() as redis:
            persistence = redis.info("persistence")
            # A failed save counts until another one succeeds, which Redis may try a quarter of an hour later.
            if persistence.get("rdb_last_bgsave_status") == "err":
                instance.execute_renamed(redis, "BGSAVE")
            if persistence.get("aof_last_bgrewrite_status") == "err":
                instance.execute_renamed(redis, "BGREWRITEAOF")
    except (RedisError, Failure):
        pass
    _wait_while_unhealthy(instance, seconds)


def _wait_while_unhealthy(instance: Instance, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and _health(instance) == "unhealthy":
        time.sleep(1)


def _health(instance: Instance) -> str:
    state = docker.container(instance.name).get("State", {})
    return str(state.get("Health", {}).get("Status", "")) if state.get("Running") else ""


def _is_healthy(instance: Instance) -> bool:
    return _health(instance) == "healthy"


def _diagnose(instance: Instance, compose: _Compose, output: str) -> str:
    """Return why the start failed.

    The reason has Compose's output, the containers, the health check and the last log lines.
    """
    inspected = docker.container(instance.name)
    health = inspected.get("State", {}).get("Health") or {}
    checks = [str(entry.get("Output", "")).strip() for entry in health.get("Log") or []]
    log = instance.read_log().splitlines()[-_LOG_LINES:]
    parts = [output]
    with contextlib.suppress(Failure):
        parts.append(compose.run("ps", "--all"))
    parts.append("\n".join(check for check in checks if check))
    with contextlib.suppress(Failure):
        parts.append(compose.run("logs", "--tail", str(_LOG_LINES)))
    parts.append("\n".join(log))
    return preview.mask_secrets("\n".join(part for part in parts if part))
