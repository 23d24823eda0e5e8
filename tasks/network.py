"""Network: who reaches the published port from outside."""

from pyinfra.api import deploy

from redoubt import network as wanted
from redoubt import operations
from redoubt.instance import Instance


@deploy("Network")
def network(instance: Instance) -> None:
    """Keep all but the named networks from the port, now and at every boot; mostly nothing."""
    settings = instance.settings
    if not wanted.is_filtered(settings) and not instance.facts.network_filtered:
        return
    if wanted.is_filtered(settings):
        operations.packages(name="Install nftables", names=["nftables"])
        operations.tree(name="Write who reaches the port", entries=wanted.files(settings))
        operations.network_loaded(name="Keep others from the port", settings=settings)
    else:
        operations.network_removed(name="Let everybody reach the port", settings=settings)
