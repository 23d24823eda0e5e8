"""The operation for the instance's nftables table."""

from pyinfra import host
from pyinfra.api import operation

from redoubt import network_filter
from redoubt.operations.common import Commands, command, instance_state, note_change
from redoubt.operations.units import unit_differences
from redoubt.settings.model import Settings


@operation()
def load_network_filter(settings: Settings) -> Commands:
    """Load the instance's nftables tables, now and at every boot, and watch them.

    No change if the loaded tables do not differ from their files. Replaces a table in one step. It affects this
    instance alone.
    """
    unit, (timer, path, watch) = network_filter.unit(settings), network_filter.watch(settings)
    present = instance_state(settings)
    reasons = [
        *present.network_filter,
        *present.client_limits,
        *unit_differences(present.units, [unit, timer, path], active=True),
        *unit_differences(present.units, [watch], active=False),
    ]
    if not reasons:
        host.noop("up to date")
        return
    for reason in reasons:
        note_change(f"{settings.redis_name}'s network: {reason}")
    yield command(
        f"systemctl daemon-reload && systemctl enable --quiet {unit} {watch} {timer} {path} && "
        f"systemctl reload-or-restart {unit} && systemctl restart {timer} {path} && systemctl start {watch}"
    )
