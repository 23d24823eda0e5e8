"""The operation for the units that finish interrupted transactions."""

from pyinfra import host
from pyinfra.api import operation

from redoubt import recovery_units
from redoubt.operations.common import Commands, command, instance_state, note_change
from redoubt.operations.units import unit_differences
from redoubt.settings.model import Settings


@operation()
def enable_recovery(settings: Settings) -> Commands:
    """Have systemd run ``redisctl recover`` at boot and whenever the process of a transaction dies."""
    watcher, at_boot = recovery_units.enabled(settings)
    present = instance_state(settings)
    reasons = unit_differences(present, [watcher], active=True) + unit_differences(present, [at_boot], active=False)
    if not reasons:
        host.noop("up to date")
        return
    for reason in reasons:
        note_change(reason)
    yield command(
        f"systemctl daemon-reload && systemctl enable --quiet {watcher} {at_boot} && systemctl restart {watcher}"
    )
