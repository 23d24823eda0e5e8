"""The operations that stop, start and remove an instance."""

from pyinfra import host
from pyinfra.api import operation

from redisctl import paths
from redoubt import removal
from redoubt.operations.common import Commands, RedisctlCall, fail, instance_state, note_change
from redoubt.settings.model import Settings


@operation()
def stop_instance(settings: Settings) -> Commands:
    """Stop the instance's containers and the timer of its backups.

    They stay stopped over a reboot. Fails if Redis cannot save its data.
    """
    present = instance_state(settings)
    timer = present.units.get(paths.unit(settings.redis_name, paths.BACKUP_TIMER))
    running = removal.running(present)
    if not running and not (timer and (timer.active or timer.enabled)):
        host.noop("stopped" if present.containers else "not deployed")
        return
    note_change(f"{settings.redis_name}: {', '.join(running) or 'the timer of its backups'} runs")
    yield RedisctlCall(settings, "stop", "--json")


@operation()
def start_instance(settings: Settings) -> Commands:
    """Start the instance as it is and wait until it is healthy.

    Also starts its backups, if they have a schedule.
    """
    present = instance_state(settings)
    if not present.hashes:
        yield from fail(f"there is no {settings.redis_name} in {settings.root}: deploy it")
        return
    timer = present.units.get(paths.unit(settings.redis_name, paths.BACKUP_TIMER))
    has_timer = not settings.redis_backup_schedule or (timer is not None and timer.active and timer.enabled)
    stopped = [container.name for container in present.containers if container.status != "running"]
    healthy = [container.name for container in present.containers if container.health == "healthy"]
    if settings.redis_name in healthy and not stopped and has_timer:
        host.noop("running and healthy")
        return
    unhealthy = [] if settings.redis_name in healthy else [f"{settings.redis_name} is not healthy"]
    reasons = [f"{name} is stopped" for name in stopped] or unhealthy or ["its backups are not scheduled"]
    note_change(f"{settings.redis_name}: {', '.join(reasons)}")
    yield RedisctlCall(settings, "start", "--json")


@operation()
def remove_instance(settings: Settings, confirmation: str) -> Commands:
    """Remove everything of the instance from the host except its data and backups.

    ``confirmation`` removes those as well, if it is the right sentence. Refuses before anything is removed. If it is
    interrupted, the next run finishes it. Other instances, Docker, images and kernel settings stay.
    """
    present = instance_state(settings, sizes=True)
    blockers = removal.blockers(settings, present, confirmation)
    if blockers:
        yield from fail(f"nothing was removed: {'; '.join(blockers)}")
        return
    data = bool(confirmation)
    removable = removal.removable(settings, present, data=data)
    kept = [] if data else removal.kept(settings, present)
    if not removable:
        host.noop(f"removed already; kept: {', '.join(kept) or 'nothing'}")
        return
    for item in removable:
        note_change(f"{item}: removed")
    for item in kept:
        note_change(f"{item}: kept")
    yield RedisctlCall(settings, "remove", "--yes", "--json", *(["--data", confirmation] if data else []))
