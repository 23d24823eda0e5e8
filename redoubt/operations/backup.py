"""The operations for the backup timer."""

from pyinfra import host
from pyinfra.api import operation

from redoubt import backup_units
from redoubt.operations.common import Commands, command, instance_state, note_change
from redoubt.operations.files import files
from redoubt.operations.units import unit_differences
from redoubt.settings.model import Settings


@operation()
def backup_timer(settings: Settings) -> Commands:
    """Have systemd take backups by the units on the host, now and after every boot.

    A changed schedule that has an elapsed time since the last backup takes one soon.
    """
    timer, job = backup_units.timer(settings), backup_units.job(settings)
    present = instance_state(settings)
    reasons = unit_differences(present, [timer], active=True)
    if (unit := present.units.get(job)) and unit.outdated:
        reasons.append(f"{job} has changed since systemd loaded it")
    if not reasons:
        host.noop("up to date")
        return
    for reason in reasons:
        note_change(reason)
    yield command(f"systemctl daemon-reload && systemctl enable --quiet {timer} && systemctl restart {timer}")


@operation()
def remove_backup_timer(settings: Settings) -> Commands:
    """Remove the units that take backups. A running backup finishes first."""
    timer, job = backup_units.timer(settings), backup_units.job(settings)
    note_change(f"{settings.redis_name}: redis_backup_schedule is empty")
    yield command(
        f"systemctl disable --quiet --now {timer}; systemctl clean --what=state {timer}; "
        f"systemctl reset-failed {job} 2>/dev/null; true"
    )
    yield from files._inner(entries=backup_units.files(settings))
    yield command("systemctl daemon-reload")
