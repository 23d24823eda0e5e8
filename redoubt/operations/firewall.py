"""The operations for the filter before the published port."""

from pyinfra import host
from pyinfra.api import StringCommand, operation

from redoubt import firewall
from redoubt.facts.units import NetworkState
from redoubt.operations.common import Commands, note_change
from redoubt.operations.files import files
from redoubt.settings.model import Settings


@operation()
def load_firewall(settings: Settings) -> Commands:
    """Load the filter before the published port, now and at every boot, where what is loaded differs from its file.

    The table is replaced in one step. It affects this instance's port alone.
    """
    unit, rules = firewall.unit(settings), f"{settings.root}/network.nft"
    differing = host.get_fact(NetworkState, table=firewall.table(settings), unit=unit, rules=rules)
    if not differing:
        host.noop("as wanted")
        return
    for why in differing:
        note_change(f"{settings.redis_name}'s port: {why}")
    yield StringCommand(
        f"systemctl daemon-reload && systemctl enable --quiet {unit} && systemctl reload-or-restart {unit}"
    )


@operation()
def remove_firewall(settings: Settings) -> Commands:
    """Take the filter before the published port away, with its unit and its file."""
    note_change(f"{settings.redis_name}'s port: no network is named any more")
    yield StringCommand(f"systemctl disable --quiet --now {firewall.unit(settings)}")
    yield from files._inner(entries=firewall.files(settings))
    yield StringCommand("systemctl daemon-reload")
