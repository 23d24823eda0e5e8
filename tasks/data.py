"""Data: not lost when what it is kept in changes."""

from pyinfra.api import deploy

from redoubt import operations
from redoubt.instance import Instance
from redoubt.preflight import handover


@deploy("Data")
def data(instance: Instance) -> None:
    """Have the running Redis write its data where the configuration to come reads it; mostly nothing.

    Before anything of the old configuration is replaced: it is asked with the password and the names that it knows.
    """
    if written := handover(instance.settings, instance.facts):
        operations.data_handed_over(
            name="Have Redis write its data where the new configuration reads it",
            settings=instance.settings,
            to=written,
        )
