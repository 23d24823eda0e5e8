"""Brings the Compose project of an instance up and waits until Redis is healthy.

One transaction: the configuration is tried first, in a container of its own, while the old Redis serves. A host that
goes down in the middle finishes the start at boot. An upgrade whose new version is not healthy is rolled back.
"""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import NoReturn

from redis.exceptions import RedisError

from redisctl import paths, schema
from redisctl.core import docker, journal, mounts, process, service
from redisctl.core.docker import RestartGuard
from redisctl.core.errors import Failure
from redisctl.core.files import read_end, sync
from redisctl.core.instance import Instance
from redisctl.core.journal import Journal, Kind, Stage
from redisctl.data.layout import upgrade_in_progress
from redisctl.deploy import configuration, preview, upgrade
from redisctl.schema import Result, StartRequest

_PORT_LEAKED = "port is already allocated"
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
        _check_project(instance)
        preview.check_config(instance, request.image, request.owner)
        # A recovery continues with these files, so they must have reached the disk.
        sync(instance.root)
        record = _open_journal(instance, request, replacing)
    except Failure:
        # If this fails as well, the recovery repeats it: the journal is still open.
        with contextlib.suppress(Failure):
            if replacing:
                configuration.put_back(instance)
        raise
    return Result(changed=True, messages=tuple(_run(instance, request, record, at_boot=False).splitlines()))


def _open_journal(instance: Instance, request: StartRequest, replacing: Journal | None) -> Journal:
    """Begin the transaction, or continue that of the deploy that has replaced files.

    Raises Failure.
    """
    operation, values = f"start of {instance.name}", dataclasses.asdict(request)
    if replacing is None:
        return journal.begin(instance, operation, Kind.SERVICE, request=values)
    return journal.advance(instance, replacing, Stage.PREPARED, operation=operation, request=values, run="")


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


def _check_project(instance: Instance) -> None:
    """Raise Failure if Compose does not accept the project."""
    try:
        docker.run(docker.compose(instance.root, instance.name, "config", "--quiet"))
    except Failure as error:
        raise Failure(
            f"Compose does not accept {instance.root}/compose.yml, and nothing was restarted: {error}\nCorrect the "
            "service in redis_app_services, then deploy again"
        ) from None


def _run(instance: Instance, request: StartRequest, record: Journal, *, at_boot: bool) -> str:
    """Start, and commit or roll back.

    Returns Compose's output. Raises Failure, after a rollback RolledBack.
    """
    compose, guard = _Compose(instance, request, at_boot=at_boot), RestartGuard()
    try:
        record = guard.call(lambda: upgrade.save_data(instance, record, request))
    except Failure as error:
        _cancel_upgrade(instance, request, record, compose, error)
    record = journal.advance(instance, record, Stage.STARTING)
    try:
        output = guard.call(lambda: _bring_up(instance, request, compose))
    except Failure as error:
        reasons = _diagnose(instance, compose, str(error))
    else:
        upgrade.complete(instance, record)
        return output
    # A service next to a healthy new version is no reason to give up what was written since.
    if upgrade_in_progress(instance) and not _is_healthy(instance):
        raise RolledBack(f"{reasons}\n{_roll_back(instance, record, compose)}")
    upgrade.complete(instance, record)
    raise Failure(reasons)


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
    raise RolledBack(f"{error}. {_roll_back(instance, record, compose)}") from None


def _roll_back(instance: Instance, record: Journal, compose: "_Compose") -> str:
    journal.advance(instance, record, Stage.ROLLING_BACK)
    return RestartGuard().call(lambda: upgrade.roll_back(instance, compose))


def _bring_up(instance: Instance, request: StartRequest, compose: "_Compose") -> str:
    """Bring the project up, and return Compose's output.

    May be repeated. Raises Failure.
    """
    if not (upgrade_in_progress(instance) and upgrade.is_old_version(instance)):
        # Docker must not start the old version of an upgrade any more: its data is kept for a rollback.
        service.set_restart_policy(instance, request.restart)
    if request.paused:
        with contextlib.suppress(Failure):
            compose.run("unpause", *request.paused)
    if request.recovery_seconds:
        _help_recover(instance, request.recovery_seconds)
    if request.recreate_networks:
        # Compose does not change a network that exists.
        compose.run("down", "--remove-orphans")
    if request.recreate:
        compose.up("--force-recreate", "--no-deps", *request.recreate)
    return compose.up()


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
        if not replaced and override_is_for(path, container.get("Id", "")):
            hashes = compose_hashes(instance, override=True)
            if hashes.get(instance.name) == container["Config"]["Labels"].get(docker.HASH_LABEL):
                return True
        return False

    def forget_override(self) -> None:
        """The container is created from compose.yml alone."""
        self._override = False

    def run(self, *arguments: str) -> str:
        """Run a Compose command. Returns its output. Raises Failure with the output."""
        instance = self._instance
        command = docker.compose(instance.root, instance.name, *arguments, override=self._override)
        return docker.run(command)

    def up(self, *arguments: str) -> str:
        """Create and start containers and wait until they are healthy."""
        # An interrupted Compose leaves them under names that the next one needs.
        created = docker.project_containers(self._instance.name, status="created")
        if created:
            process.run(["docker", "rm", *created])
        if not self._override:
            # A container that is created must not get what an older one was created with.
            (self._instance.root / paths.COMPOSE_OVERRIDE).unlink(missing_ok=True)
        wait = ("--wait", "--wait-timeout", str(self._request.timeout))
        command = ("up", "--detach", "--remove-orphans", *wait, *arguments)
        try:
            return self.run(*command)
        except Failure as error:
            if _PORT_LEAKED not in str(error):
                raise
            problem = self._release_leaked_port()
            if problem:
                raise Failure(f"{error}\n{problem}") from None
        return self.run(*command)

    def _release_leaked_port(self) -> str:
        """Restart Docker where that disturbs no other container.

        Returns why not, empty when it restarted. If Docker is killed while it starts a container, it may keep the port
        allocated after it comes back (moby#20486). Recreating the networks does not release it.
        """
        own = set(docker.project_containers(self._instance.name))
        running = process.check(["docker", "ps", "--quiet", "--no-trunc"]).split()
        others = docker.inspect(*(name for name in running if name not in own))
        # At boot Docker has just started the containers that it starts again.
        restarts = ("always", "unless-stopped") if self._at_boot else ()
        if any(other["HostConfig"]["RestartPolicy"]["Name"] not in restarts for other in others):
            return (
                "if no other container uses that port, Docker holds it for a container that is gone: 'systemctl "
                "restart docker' on the host, which stops and starts all containers, then deploy again"
            )
        process.check(["systemctl", "restart", "docker"], timeout=docker.RESTART_TIMEOUT)
        docker.wait_until_answers()
        return ""


def override_is_for(path: Path, container_id: str) -> bool:
    """Say whether the override file was written for this container."""
    try:
        with path.open(encoding="utf-8") as file:
            return bool(container_id) and file.readline().strip() == f"# {container_id}"
    except OSError:
        return False


def compose_hashes(instance: Instance, *, override: bool) -> dict[str, str]:
    """Return Compose's hashes of the services.

    Returns nothing if Compose does not accept the file.
    """
    result = process.run(docker.compose(instance.root, instance.name, "config", "--hash", "*", override=override))
    lines = (line.split() for line in result.stdout.splitlines())
    return {words[0]: words[1] for words in lines if len(words) == 2} if result.returncode == 0 else {}


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
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and _health(instance) == "unhealthy":
        time.sleep(1)


def _health(instance: Instance) -> str:
    return str(docker.container(instance.name).get("State", {}).get("Health", {}).get("Status", ""))


def _is_healthy(instance: Instance) -> bool:
    return _health(instance) == "healthy"


def _diagnose(instance: Instance, compose: _Compose, output: str) -> str:
    """Return why the start failed.

    The reason has Compose's output, the containers, the health check and the last log lines.
    """
    inspected = docker.container(instance.name)
    health = inspected.get("State", {}).get("Health") or {}
    checks = [str(entry.get("Output", "")).strip() for entry in health.get("Log") or []]
    log = read_end(instance.log, 0, 64 * 1024).splitlines()[-_LOG_LINES:]
    parts = [output]
    with contextlib.suppress(Failure):
        parts.append(compose.run("ps", "--all"))
    parts.append("\n".join(check for check in checks if check))
    with contextlib.suppress(Failure):
        parts.append(compose.run("logs", "--tail", str(_LOG_LINES)))
    parts.append("\n".join(log))
    return preview.mask_secrets("\n".join(part for part in parts if part))
