"""Stop, start and removal of a whole instance.

The instance is Redis, the services of its project, its backups and its files.
"""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from redisctl import paths
from redisctl.core import docker, journal, mounts, process, publishing, service, transaction
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.core.journal import Journal, Kind
from redisctl.core.server_changes import LockedOut
from redisctl.core.service import UncleanStop
from redisctl.core.untrusted_files import remove_tree
from redisctl.deploy.service import check_data_directory
from redisctl.schema import Result


def stop(instance: Instance, *, discard_unsaved: bool = False) -> Result:
    """Stop the instance and its backups in order; they stay stopped over a reboot.

    Raises Failure, also if Redis cannot save its data; then everything runs as before. systemd finishes an interrupted
    stop. Warns if Docker could not publish the ports of a start.
    """
    warning = publishing.restart_warning(instance)
    record = journal.try_begin(
        instance,
        f"stop of {instance.name}",
        Kind.STOP,
        restart_policy=service.restart_policy(instance),
        request={
            "running": bool(docker.container(instance.name).get("State", {}).get("Running")),
            "services": _running_services(instance),
            "discard_unsaved": discard_unsaved,
        },
    )
    result = _stop(instance, record)
    return dataclasses.replace(result, messages=(*result.messages, warning)) if warning else result


def _stop(instance: Instance, record: Journal) -> Result:
    """Do what the journal of a stop asks for, or put back what ran before it.

    May be repeated.
    """
    services = [str(name) for name in record.request.get("services", ())]
    with _transaction(instance, record):
        try:
            return _stop_all(instance, discard_unsaved=bool(record.request.get("discard_unsaved")))
        except UncleanStop as error:
            problem = _put_back(instance, services, record)
            raise Failure(
                f"{error}. {problem or 'Redis runs as before'}. Free some space and try again, or run 'redisctl stop "
                "--discard-unsaved', which stops Redis although its newest writes cannot be saved"
            ) from None
        except Failure as error:
            problem = _put_back(instance, services, record)
            raise Failure(f"{error}. {problem}".removesuffix(". ")) from None


@contextmanager
def _transaction(instance: Instance, record: Journal) -> Iterator[None]:
    """End the transaction whether it succeeded or failed.

    If it was interrupted, or Docker does not answer, systemd finishes it.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Failure(
            f"{record.operation} was interrupted. It finishes by itself within seconds; 'redisctl recover' waits for it"
        ) from None
    except Failure:
        if docker.answers():
            journal.end(instance)
        raise
    journal.end(instance)


def _stop_all(instance: Instance, *, discard_unsaved: bool) -> Result:
    for unit in (paths.unit(instance.name, paths.BACKUP_TIMER), paths.unit(instance.name, paths.BACKUP_SERVICE)):
        _disable(unit)
    # Without a policy it stays down when Docker or the host restarts; a start puts the policy back.
    service.hold_down(instance)
    if not docker.project_containers(instance.name, running_only=True):
        return Result()
    # Those of now: a recovery may come after a service was recreated.
    _stop_services(_running_services(instance))
    stopped = service.stop(instance, discard_unsaved=discard_unsaved)
    remaining = docker.project_containers(instance.name, running_only=True)
    if remaining:
        process.check(["docker", "stop", *remaining], timeout=None)
    return Result(changed=True, messages=(stopped.warning,) if stopped.warning else ())


def _put_back(instance: Instance, services: list[str], record: Journal) -> str:
    """Bring back what ran before a stop that failed.

    Returns what could not be brought back.
    """
    steps: tuple[Callable[[], object], ...] = (
        lambda: _put_redis_back(instance, record),
        lambda: process.check(["docker", "start", *services]) if services else None,
        lambda: _schedule_backups(instance),
    )
    problems = []
    for step in steps:
        try:
            step()
        except Failure as error:
            problems.append(str(error))
    return f"Not everything runs as before: {'; '.join(problems)}" if problems else ""


def _put_redis_back(instance: Instance, record: Journal) -> None:
    service.set_restart_policy(instance, record.restart_policy)
    state = docker.container(instance.name).get("State", {})
    if record.request.get("running") and not state.get("Running"):
        problems = service.start_and_check(instance, lambda _: [], record.restart_policy)
        if problems:
            raise Failure(f"Redis does not start again: {'; '.join(problems)}")


def start(instance: Instance) -> Result:
    """Start a stopped instance as it is and wait until it is healthy.

    Enables its backups again. systemd finishes an interrupted start. Raises Failure.
    """
    journal.ensure_none(instance)
    _ensure_deployed(instance)
    return _start(instance, journal.try_begin(instance, f"start of {instance.name}", Kind.START))


def _ensure_deployed(instance: Instance) -> None:
    """Raise Failure if there is nothing to start, or if its data is not there."""
    if not (instance.root / paths.COMPOSE_FILE).exists():
        raise Failure(f"there is no {instance.name} in {instance.root}: deploy it")
    check_data_directory(instance)


def restart(instance: Instance, *, discard_unsaved: bool = False) -> Result:
    """Stop a running Redis and start it again; its services keep running.

    systemd finishes an interrupted restart. Raises Failure. Redis keeps running if it could not start again, or if it
    cannot save its data.
    """
    if not docker.container(instance.name).get("State", {}).get("Running"):
        raise Failure(f"{instance.name} does not run, and nothing was started: redisctl start")
    _ensure_deployed(instance)
    record = transaction.begin(
        instance,
        f"restart of {instance.name}",
        Kind.START,
        restart_policy=service.restart_policy(instance),
        request={"running": True},
    )
    with _transaction(instance, record):
        try:
            service.hold_down(instance)
            stopped = service.stop(instance, discard_unsaved=discard_unsaved)
        except Failure as error:
            problem = _put_back(instance, [], record)
            raise Failure(
                f"{error}. {problem or 'Redis runs as before'}. If the disk is full, free some space and try again; "
                "'redisctl restart --discard-unsaved' gives up what cannot be saved"
            ) from None
        result = _start_all(instance)
    return dataclasses.replace(result, messages=(*filter(None, [stopped.warning]), *result.messages))


def _start(instance: Instance, record: Journal) -> Result:
    """Start everything. May be repeated."""
    with _transaction(instance, record):
        return _start_all(instance)


def _start_all(instance: Instance) -> Result:
    service.set_restart_policy(instance, instance.restart)
    wait = ("--wait", "--wait-timeout", str(instance.start_timeout))
    command = docker.compose(instance.root, instance.name, "up", "--detach", "--no-recreate", *wait)
    problem, locked_out, messages = "", "", list[str]()
    try:
        # Compose fails if its data makes Redis a replica, which is unhealthy.
        service.start(instance)
        try:
            _, messages = service.settle(instance, instance.container)
        except LockedOut as error:
            locked_out = str(error)
        docker.RestartGuard().call(lambda: publishing.repairing(instance, lambda: docker.run(command)))
    except Failure as error:
        problem = str(error)
    # Also if a service fails: Redis may run, and needs its backups.
    _schedule_backups(instance)
    problem = problem or locked_out
    if problem:
        log = instance.read_log().splitlines()[-20:]
        raise Failure("\n".join([problem, *log]))
    return Result(changed=True, messages=tuple(messages))


def recover(instance: Instance, record: Journal) -> str:
    """Finish a stop or a start that was interrupted.

    Returns what was done. Raises Failure.
    """
    if record.kind is Kind.START:
        _start(instance, record)
    else:
        _stop(instance, record)
    return f"{record.operation} was interrupted and is finished now"


def remove(instance: Instance, *, data: bool) -> Result:
    """Take the instance off the host; with ``data`` its data and backups as well.

    The next run finishes an interrupted removal. Other instances, Docker, images and kernel settings stay. Fails after
    another interrupted transaction, because only its recovery knows where the data is. Fails during an import, because
    its copy would stay. Fails if another disk is mounted in a directory that is removed, and if Redis cannot save data
    that stays. Raises Failure.
    """
    try:
        journal.ensure_none(instance)
        if (instance.root / paths.IMPORT).exists():
            raise Failure("an import is running: run 'redisctl import finish --yes' or 'redisctl import cancel' first")
        removable = paths.removable(instance.name, instance.root, data=data)
        if nested := mounts.inside(removable):
            raise Failure(f"{nested[0]} is a mount point, and its files would be deleted as well: unmount it first")
        if not data:
            stop(instance)
    except Failure as error:
        raise Failure(f"nothing was removed: {error}") from None
    for unit in paths.units(instance.name):
        _disable(unit)
    containers = docker.project_containers(instance.name)
    if containers:
        _stop_services(_running_services(instance))
        process.check(["docker", "stop", "--time", str(instance.stop_grace), *containers], timeout=None)
        process.check(["docker", "rm", "--volumes", *containers])
    command = ["docker", "network", "ls", "--quiet", "--filter", f"label={docker.PROJECT_LABEL}={instance.name}"]
    networks = process.check(command).split()
    if networks:
        process.check(["docker", "network", "rm", *networks])
    if shutil.which("nft"):
        # It fails if there is no table. The containers that it protected are gone.
        process.run(["nft", "delete", "table", "inet", paths.filter_table(instance.name)])
    # The program goes last: while it exists, a removal can be run again.
    for path in removable:
        _remove(path)
    process.run(["systemctl", "daemon-reload"])
    for unit in paths.units(instance.name):
        process.run(["systemctl", "reset-failed", unit])
        if unit.endswith(".timer"):
            process.run(["systemctl", "clean", "--what=state", unit])
    with contextlib.suppress(OSError):
        # It stays if it holds data or files of others.
        os.rmdir(instance.root)
    return Result(changed=True)


def _remove(path: Path) -> None:
    """Remove a file or directory; of a disk of its own, remove what is on it."""
    if not os.path.ismount(path):
        remove_tree(path)
        return
    for entry in path.iterdir():
        if entry.name != "lost+found":
            remove_tree(entry)


def _disable(unit: str) -> None:
    if process.run(["systemctl", "cat", unit]).returncode == 0:
        process.check(["systemctl", "disable", "--quiet", "--now", unit], timeout=None)


def _schedule_backups(instance: Instance) -> None:
    if instance.backup.scheduled:
        process.check(["systemctl", "enable", "--quiet", "--now", paths.unit(instance.name, paths.BACKUP_TIMER)])


def _running_services(instance: Instance) -> list[str]:
    """Return the containers of the application's services, which need Redis."""
    containers = docker.inspect(*docker.project_containers(instance.name, running_only=True))
    return [
        container["Id"]
        for container in containers
        if container["Config"]["Labels"].get(docker.SERVICE_LABEL) != instance.name
    ]


def _stop_services(services: list[str]) -> None:
    if services:
        process.check(["docker", "stop", *services], timeout=None)
