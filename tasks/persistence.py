"""Persistence: a switch between AOF and RDB snapshots loses no data."""

from pyinfra.api import deploy

from redoubt.data_checks import persistence_switch
from redoubt.instance import Instance
from redoubt.operations.persistence import switch_persistence


@deploy("Persistence")
def persistence(instance: Instance) -> None:
    """Have Redis write its data where the new configuration reads it.

    Does nothing if that does not change. This runs before any file is replaced, because Redis still expects the old
    password and command names.
    """
    if target := persistence_switch(instance.settings, instance.facts):
        switch_persistence(
            name="Have Redis write its data where the new configuration reads it",
            settings=instance.settings,
            target=target,
        )
