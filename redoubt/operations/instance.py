"""The operations that stop, start and remove an instance, and run redisctl."""

import shlex

from pyinfra import host, state
from pyinfra.api import StringCommand, operation

from redoubt import backup_units, host_files, removal, service_drift
from redoubt.facts.service import Redisctl
from redoubt.facts.units import InstancePresence, InstanceState
from redoubt.operations.common import Commands, fail, note_change, with_instance_lock
from redoubt.settings.model import Settings


@operation()
def run_redisctl(settings: Settings, line: str) -> Commands:
    """Run redisctl on the host with the words of a line, and say what it prints. Fails when it does not end with 0."""
    if not state.is_executing:
        yield StringCommand("true")
        return
    # Split here, so that the host's shell makes nothing else of it.
    said = host.get_fact(Redisctl, program=host_files.redisctl_path(settings), words=shlex.split(line))
    for one in said.lines:
        note_change(one)
    if said.code != 0:
        yield from fail(f"redisctl ended with {said.code}")


@operation()
def stop_instance(settings: Settings) -> Commands:
    """Stop the instance's containers within their grace, and the timer of its backups. Fails where Redis was killed."""
    there = _present(settings)
    units = {backup_units.timer(settings), service_drift.unit(settings)}
    left = sorted(units & (there.active | there.enabled))
    if not there.running and not left:
        host.noop("stopped" if there.containers else "there is none")
        return
    if there.running_verb:
        yield from fail(f"nothing was stopped: {removal.busy_message(settings, there)}")
        return
    note_change(f"{settings.redis_name}: {', '.join(there.running or left)} runs")
    yield StringCommand(
        with_instance_lock(
            settings,
            "stop-instance.sh",
            UNITS=" ".join(sorted(units)),
            GRACE=str(settings.stop_grace_period),
        )
    )


@operation()
def start_instance(settings: Settings) -> Commands:
    """Start the instance as it is and wait until it is healthy; its backups as well, where it has a schedule."""
    there = _present(settings)
    timer = backup_units.timer(settings) if settings.redis_backup_schedule else ""
    if not any(path == f"{settings.root}/compose.yml" for path, _ in there.paths):
        yield from fail(f"there is no {settings.redis_name} in {settings.root}: deploy it")
        return
    stopped = [name for name, status in there.containers if status != "running"]
    if settings.redis_name in there.healthy and not stopped and (not timer or timer in there.active & there.enabled):
        host.noop("runs, and is healthy")
        return
    note_change(f"{settings.redis_name}: {', '.join(stopped) or 'not all of it'} is stopped, or not healthy")
    wait = service_drift.wait_timeout(settings)
    yield StringCommand(
        with_instance_lock(
            settings,
            "start-instance.sh",
            TIMER=timer,
            WAIT=str(wait),
        )
    )


@operation()
def remove_instance(settings: Settings, asked: str) -> Commands:
    """Remove all that is the instance's on the host but its data and backups; ``asked`` in the right words, those too.

    Refuses before anything is removed; ended halfway, it is finished by the next run. Other instances, the engine,
    images and the kernel's settings stay.
    """
    there = _present(settings)
    refusals = removal.refusals(settings, there, asked)
    if refusals:
        yield from fail(f"nothing was removed: {'; '.join(refusals)}")
        return
    data = bool(asked)
    left = removal.left(settings, there, data=data)
    kept = [] if data else removal.kept(settings, there)
    if not left:
        host.noop(f"gone; kept: {', '.join(kept) or 'nothing'}")
        return
    for one in left:
        note_change(f"{one}: removed")
    for one in kept:
        note_change(f"{one}: kept")
    yield StringCommand(
        with_instance_lock(
            settings,
            "remove-instance.sh",
            UNITS=" ".join(removal.units(settings)),
            GRACE=str(settings.stop_grace_period),
            PATHS=" ".join(removal.paths(settings, data=data)),
        )
    )


def _present(settings: Settings) -> InstancePresence:
    present: InstancePresence = host.get_fact(
        InstanceState,
        instance=settings.redis_name,
        root=settings.root,
        units=removal.units(settings),
        paths=removal.paths(settings, data=True),
    )
    return present
