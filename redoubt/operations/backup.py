"""The operations for the backup timer."""

from pyinfra import host
from pyinfra.api import StringCommand, operation

from redoubt import backup_units
from redoubt.facts.units import TimerState
from redoubt.operations.common import Commands, note_change
from redoubt.operations.files import files
from redoubt.settings.model import Settings


@operation()
def backup_timer(settings: Settings) -> Commands:
    """Have systemd take backups by the units that are there, now and after every boot, where it does not yet.

    Another calendar that would have come since the last backup has one taken soon.
    """
    timer, job = backup_units.timer(settings), backup_units.job(settings)
    differing = host.get_fact(TimerState, timer=timer, job=job)
    if not differing:
        host.noop("as wanted")
        return
    for why in differing:
        note_change(why)
    yield StringCommand(f"systemctl daemon-reload && systemctl enable --quiet {timer} && systemctl restart {timer}")


@operation()
def remove_backup_timer(settings: Settings) -> Commands:
    """Take the units away that take backups. One that is being taken is finished."""
    timer, job = backup_units.timer(settings), backup_units.job(settings)
    note_change(f"{settings.redis_name}: redis_backup_schedule is empty")
    yield StringCommand(
        f"systemctl disable --quiet --now {timer}; systemctl clean --what=state {timer}; "
        f"systemctl reset-failed {job} 2>/dev/null; true"
    )
    yield from files._inner(entries=backup_units.files(settings))
    yield StringCommand("systemctl daemon-reload")
