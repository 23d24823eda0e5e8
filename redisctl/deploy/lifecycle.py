"""Stops, starts and removes a whole instance: Redis, the services of its project, its backups and its files."""

import contextlib
import os
import shutil
from pathlib import Path

from redisctl import paths
from redisctl.core import docker, journal, process, service
from redisctl.core.errors import Failure
from redisctl.core.files import read_end
from redisctl.core.instance import Instance
from redisctl.core.service import UncleanStop
from redisctl.deploy.service import check_data_directory
from redisctl.schema import Result


def stop(instance: Instance, *, discard_unsaved: bool = False) -> Result:
    """Stop the instance and its backups in order; they stay stopped over a reboot. Raises Failure.

    Fails if Redis cannot save its data; then it still runs, or its files are as it left them.
    """
    journal.ensure_none(instance)
    for unit in (paths.backup_timer(instance.name), paths.backup_service(instance.name)):
        _disable(unit)
    policy = service.restart_policy(instance)
    # Without a policy it stays down when Docker or the host restarts; a start puts the policy back.
    service.hold_down(instance)
    if not docker.project_containers(instance.name, running_only=True):
        return Result()
    _stop_services(instance)
    try:
        stopped = service.stop(instance, discard_unsaved=discard_unsaved)
    except UncleanStop as error:
        if error.running:
            service.set_restart_policy(instance, policy)
        raise Failure(
            f"{error}. Free some space, or run 'redisctl stop --discard-unsaved' on the host: it stops Redis anyway"
        ) from None
    remaining = docker.project_containers(instance.name, running_only=True)
    if remaining:
        process.check(["docker", "stop", *remaining], timeout=None)
    return Result(changed=True, messages=(stopped.warning,) if stopped.warning else ())


def start(instance: Instance) -> Result:
    """Start a stopped instance as it is and wait until it is healthy; enable its backups again. Raises Failure."""
    journal.ensure_none(instance)
    if not (instance.root / paths.COMPOSE_FILE).exists():
        raise Failure(f"there is no {instance.name} in {instance.root}: deploy it")
    check_data_directory(instance)
    service.set_restart_policy(instance, instance.restart)
    wait = ("--wait", "--wait-timeout", str(instance.start_timeout))
    command = docker.compose(instance.root, instance.name, "up", "--detach", "--no-recreate", *wait)
    done, output = docker.RestartGuard().run(command)
    if not done:
        log = read_end(instance.root / paths.LOGS / "redis.log", 0, 64 * 1024).splitlines()[-20:]
        raise Failure("\n".join([output, *log]))
    if instance.backup.scheduled:
        process.check(["systemctl", "enable", "--quiet", "--now", paths.backup_timer(instance.name)])
    return Result(changed=True)


def remove(instance: Instance, *, data: bool) -> Result:
    """Take the instance off the host; with ``data`` its data and backups as well. Raises Failure.

    Interrupted, it is finished by the next run. Other instances, Docker, images and kernel settings stay. Fails after
    another interrupted transaction, because only its recovery knows where the data is.
    """
    try:
        journal.ensure_none(instance)
    except Failure as error:
        raise Failure(f"nothing was removed: {error}") from None
    for unit in paths.units(instance.name):
        _disable(unit)
    containers = docker.project_containers(instance.name)
    if containers:
        _stop_services(instance)
        if not data:
            _stop_before_removal(instance)
        process.check(["docker", "stop", "--time", str(instance.stop_grace), *containers], timeout=None)
        process.check(["docker", "rm", "--volumes", *containers])
    command = ["docker", "network", "ls", "--quiet", "--filter", f"label={docker.PROJECT_LABEL}={instance.name}"]
    networks = process.check(command).split()
    if networks:
        process.check(["docker", "network", "rm", *networks])
    # The program goes last: while it exists, a removal can be run again.
    for path in paths.removable(instance.name, instance.root, data=data):
        _delete(path)
    process.run(["systemctl", "daemon-reload"])
    for unit in paths.units(instance.name):
        process.run(["systemctl", "reset-failed", unit])
        if unit.endswith(".timer"):
            process.run(["systemctl", "clean", "--what=state", unit])
    with contextlib.suppress(OSError):
        # It stays if it holds data or files of others.
        os.rmdir(instance.root)
    return Result(changed=True)


def _stop_before_removal(instance: Instance) -> None:
    service.hold_down(instance)
    try:
        service.stop(instance)
    except UncleanStop as error:
        if error.running:
            service.set_restart_policy(instance, instance.restart)
        raise Failure(
            f"{error}. Nothing was removed but the units. Free some space, or run 'redisctl stop --discard-unsaved' on "
            "the host; then run the removal again"
        ) from None


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _disable(unit: str) -> None:
    if process.run(["systemctl", "cat", unit]).returncode == 0:
        process.check(["systemctl", "disable", "--quiet", "--now", unit], timeout=None)


def _stop_services(instance: Instance) -> None:
    """Stop the services that need Redis first."""
    running = docker.inspect(*docker.project_containers(instance.name, running_only=True))
    services = [
        container["Id"]
        for container in running
        if container["Config"]["Labels"].get(docker.SERVICE_LABEL) != instance.name
    ]
    if services:
        process.check(["docker", "stop", *services], timeout=None)
