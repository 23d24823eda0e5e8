"""Network: which networks may connect to the published port."""

from pyinfra.api import deploy

from redoubt import firewall
from redoubt.instance import Instance
from redoubt.operations.files import files
from redoubt.operations.network import load_firewall, remove_firewall
from redoubt.operations.packages import install_packages


@deploy("Network")
def network(instance: Instance) -> None:
    """Load the instance's firewall now and at every boot.

    Does nothing unless the settings restrict who may connect.
    """
    settings = instance.settings
    if firewall.is_filtered(settings):
        install_packages(name="Install nftables", names=["nftables"])
        files(name="Write the firewall", entries=firewall.files(settings))
        load_firewall(name="Load the firewall", settings=settings)


@deploy("Previous firewall")
def previous_firewall(instance: Instance) -> None:
    """Remove a firewall that the settings no longer ask for.

    This runs once Redis has started with them: a container of the previous ones may publish a port to all networks.
    """
    settings = instance.settings
    if not firewall.is_filtered(settings) and instance.facts.has_unit(firewall.unit(settings)):
        remove_firewall(name="Remove the firewall", settings=settings)
