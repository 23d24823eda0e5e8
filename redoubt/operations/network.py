"""The operations for the firewall before the published port."""

from pyinfra import host
from pyinfra.api import operation

from redoubt import firewall
from redoubt.operations.common import Commands, command, instance_state, note_change
from redoubt.operations.files import files
from redoubt.operations.units import unit_differences
from redoubt.settings.model import Settings


@operation()
def load_firewall(settings: Settings) -> Commands:
    """Load the instance's nftables table, now and at every boot.

    No change if the loaded table does not differ from its file. Replaces the table in one step. It affects this
    instance's port alone.
    """
    unit = firewall.unit(settings)
    present = instance_state(settings)
    reasons = [*present.firewall, *unit_differences(present, [unit], active=True)]
    if not reasons:
        host.noop("up to date")
        return
    for reason in reasons:
        note_change(f"{settings.redis_name}'s port: {reason}")
    yield command(f"systemctl daemon-reload && systemctl enable --quiet {unit} && systemctl reload-or-restart {unit}")


@operation()
def remove_firewall(settings: Settings) -> Commands:
    """Remove the instance's nftables table, its unit and its file."""
    note_change(f"{settings.redis_name}'s port: redis_allow_from is empty or no port is published")
    yield command(f"systemctl disable --quiet --now {firewall.unit(settings)}")
    yield from files._inner(entries=firewall.files(settings))
    yield command("systemctl daemon-reload")
