"""The operation for the backup timer."""

from pyinfra.api import operation

from redoubt import backup_units
from redoubt.operations.common import Commands, command, note_change
from redoubt.operations.files import files
from redoubt.settings.model import Settings


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
