"""Network: who reaches the instance's containers, and what they reach."""

from pyinfra.api import deploy

from redoubt import network_filter
from redoubt.instance import Instance
from redoubt.operations.files import files
from redoubt.operations.network import load_network_filter
from redoubt.operations.packages import install_packages


@deploy("Network")
def network(instance: Instance) -> None:
    """Load the instance's nftables table before the port is published."""
    settings = instance.settings
    if not instance.facts.has_nft:
        install_packages(name="Install nftables", names=["nftables"])
    files(name="Write the network filter", entries=network_filter.files(settings))
    load_network_filter(name="Load the network filter", settings=settings)
