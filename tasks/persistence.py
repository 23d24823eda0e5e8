"""Data: not lost when what it is kept in changes."""

from pyinfra.api import deploy

from redoubt.host_checks import persistence_switch
from redoubt.instance import Instance
from redoubt.operations.service import switch_persistence


@deploy("Data")
def persistence(instance: Instance) -> None:
    """Have the running Redis write its data where the configuration to come reads it; mostly nothing.

    Before anything of the old configuration is replaced: it is asked with the password and the names that it knows.
    """
    if written := persistence_switch(instance.settings, instance.facts):
        switch_persistence(
            name="Have Redis write its data where the new configuration reads it",
            settings=instance.settings,
            to=written,
        )
