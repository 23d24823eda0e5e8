"""Network: who reaches the published port from outside."""

from pyinfra.api import deploy

from redoubt import firewall
from redoubt.instance import Instance
from redoubt.operations.files import files
from redoubt.operations.firewall import load_firewall, remove_firewall
from redoubt.operations.packages import install_packages


@deploy("Network")
def network(instance: Instance) -> None:
    """Keep all but the named networks from the port, now and at every boot; mostly nothing."""
    settings = instance.settings
    if not firewall.is_filtered(settings) and not instance.facts.has_unit(firewall.unit(settings)):
        return
    if firewall.is_filtered(settings):
        install_packages(name="Install nftables", names=["nftables"])
        files(name="Write who reaches the port", entries=firewall.files(settings))
        load_firewall(name="Keep others from the port", settings=settings)
    else:
        remove_firewall(name="Let everybody reach the port", settings=settings)
