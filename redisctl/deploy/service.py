"""Brings the Compose project of an instance up and waits until Redis is healthy.

One transaction: the configuration is tried first, in a container of its own, while the old Redis serves. A host that
goes down in the middle finishes the start at boot. An upgrade whose new version is not healthy is rolled back.
"""

import dataclasses
import time
from pathlib import Path

from redis.exceptions import RedisError

from redisctl import paths, schema
from redisctl.core import docker, journal, process, service
from redisctl.core.docker import RestartGuard
from redisctl.core.errors import Failure
from redisctl.core.files import read_end
from redisctl.core.instance import Instance
from redisctl.core.journal import Journal, Kind, Stage
from redisctl.deploy import preview, upgrade
from redisctl.schema import Result, StartRequest

_PORT_LEAKED = "port is already allocated"
# Lines of logs that explain a failed start.
_LOG_LINES = 20


def start(instance: Instance, request: StartRequest) -> Result:
    """Bring the project up and wait until it is healthy. Raises Failure with the reason and the last log lines.

    Replaces containers, and on a failed upgrade puts the previous version back.
    """
    journal.ensure_none(instance)
    preview.check_config(instance, request.image, request.owner)
    record = journal.begin(instance, f"start of {instance.name}", Kind.SERVICE, request=dataclasses.asdict(request))
    return _run(instance, request, record, at_boot=False)


def recover(instance: Instance, record: Journal, *, at_boot: bool) -> str:
    """Finish an interrupted start, or the rollback of an upgrade that had begun. Returns what was done."""
    request = schema.from_dict(StartRequest, record.request)
    if record.stage in (Stage.ROLLING_BACK, Stage.RESTARTING_OLD):
        message = upgrade.roll_back(instance, record, _Compose(instance, request, at_boot=at_boot))
        return f"an upgrade of {instance.name} was interrupted: {message}"
    _run(instance, request, record, at_boot=at_boot)
    return f"{record.operation} was interrupted and is finished now"


def recover_files(instance: Instance, record: Journal) -> Journal:
    """Finish the file moves of an interrupted rollback, before Docker starts."""
    return upgrade.put_back_files(instance, record) if record.stage is Stage.ROLLING_BACK else record


def _run(instance: Instance, request: StartRequest, record: Journal, *, at_boot: bool) -> Result:
    compose = _Compose(instance, request, at_boot=at_boot)
    try:
        record = upgrade.save_data(instance, record, request)
    except Failure:
        # The old version runs again; its own files must be there when it starts the next time.
        upgrade.restore_config(instance)
        upgrade.discard_saved(instance)
        journal.end(instance)
        raise
    record = journal.advance(instance, record, Stage.STARTING)
    done, output = _bring_up(instance, request, compose)
    if done:
        upgrade.discard_saved(instance)
        journal.end(instance)
        return Result(changed=True, messages=tuple(output.splitlines()))
    reasons = _diagnose(instance, compose, output)
    # A service next to a healthy new version is no reason to give up what was written since.
    if upgrade.has_saved_data(instance) and not _is_healthy(instance):
        # Docker must not start the new version on the old data at boot.
        service.hold_down(instance)
        record = journal.advance(instance, record, Stage.ROLLING_BACK)
        reasons += f"\n{upgrade.roll_back(instance, record, compose)}"
    else:
        if upgrade.has_saved_config(instance) and not upgrade.has_saved_data(instance):
            upgrade.restore_config(instance)
            upgrade.discard_saved(instance)
        journal.end(instance)
    raise Failure(reasons)


def _bring_up(instance: Instance, request: StartRequest, compose: "_Compose") -> tuple[bool, str]:
    service.set_restart_policy(instance, request.restart)
    if request.paused:
        compose.run("unpause", *request.paused)
    if request.recovery_seconds:
        _help_recover(instance, request.recovery_seconds)
    if request.recreate_networks:
        # Compose does not change a network that exists.
        done, output = compose.run("down", "--remove-orphans")
        if not done:
            return False, output
    if request.recreate:
        done, output = compose.up("--force-recreate", "--no-deps", *request.recreate)
        if not done:
            return False, output
    return compose.up()


class _Compose:
    """Compose commands for the project. They survive a restart of Docker and remove what an interrupted one left."""

    def __init__(self, instance: Instance, request: StartRequest, *, at_boot: bool) -> None:
        self._instance, self._request, self._at_boot = instance, request, at_boot
        self._guard = RestartGuard()
        self._override = self._keeps_container()

    def _keeps_container(self) -> bool:
        """Say whether the override belongs to the container that runs and stays; remove the file otherwise."""
        instance, request = self._instance, self._request
        path = instance.root / paths.COMPOSE_OVERRIDE
        replaced = request.recreate_networks or instance.name in request.recreate
        if not replaced and override_is_for(path, docker.container(instance.name).get("Id", "")):
            return True
        path.unlink(missing_ok=True)
        return False

    def forget_override(self) -> None:
        """The container is created from compose.yml alone."""
        (self._instance.root / paths.COMPOSE_OVERRIDE).unlink(missing_ok=True)
        self._override = False

    def run(self, *arguments: str) -> tuple[bool, str]:
        """Run a Compose command. Returns whether it succeeded, and its output."""
        instance = self._instance
        return self._guard.run(docker.compose(instance.root, instance.name, *arguments, override=self._override))

    def up(self, *arguments: str) -> tuple[bool, str]:
        """Create and start containers and wait until they are healthy."""
        # An interrupted Compose leaves them under names that the next one needs.
        created = docker.project_containers(self._instance.name, status="created")
        if created:
            process.run(["docker", "rm", *created])
        wait = ("--wait", "--wait-timeout", str(self._request.timeout))
        done, output = self.run("up", "--detach", "--remove-orphans", *wait, *arguments)
        if done or _PORT_LEAKED not in output:
            return done, output
        problem = self._release_leaked_port()
        if problem:
            return False, f"{output}\n{problem}"
        return self.run("up", "--detach", "--remove-orphans", *wait, *arguments)

    def _release_leaked_port(self) -> str:
        """Restart Docker where that disturbs no other container. Returns why not, empty when it restarted.

        If Docker is killed while it starts a container, it may keep the port allocated after it comes back
        (moby#20486). Recreating the networks does not release it.
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


def _help_recover(instance: Instance, seconds: int) -> None:
    """Give an unhealthy Redis time to become healthy: Compose would fail at once on the last health check."""
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
    """Return why the start failed: Compose's output, the containers, the health check and the last log lines."""
    inspected = docker.container(instance.name)
    health = inspected.get("State", {}).get("Health") or {}
    checks = [str(entry.get("Output", "")).strip() for entry in health.get("Log") or []]
    log = read_end(instance.root / paths.LOGS / "redis.log", 0, 64 * 1024).splitlines()[-_LOG_LINES:]
    parts = (
        output,
        compose.run("ps", "--all")[1],
        "\n".join(check for check in checks if check),
        compose.run("logs", "--tail", str(_LOG_LINES))[1],
        "\n".join(log),
    )
    return preview.mask_secrets("\n".join(part for part in parts if part))
