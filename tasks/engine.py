"""Engine: the container engine and Compose v2, on a host that has none."""

from pyinfra.api import deploy
from pyinfra.operations import files, systemd

from redoubt import engine as wanted
from redoubt import operations
from redoubt.instance import Instance
from redoubt.preflight import docker_source
from redoubt.tree import Directory


@deploy("Engine")
def engine(instance: Instance) -> None:
    """Install an engine where there is none, and have it run now and at boot; else nothing."""
    facts = instance.facts
    source = docker_source(instance.settings, facts)
    if source == "docker":
        _docker_repository(instance)
    if source != "present":
        operations.packages(name="Install the engine and Compose v2", names=wanted.packages(source, facts))
    if source != "present" or not facts.engine_answers or not facts.engine_at_boot:
        systemd.service(name="Start the engine, now and at boot", service="docker", running=True, enabled=True)


def _docker_repository(instance: Instance) -> None:
    operations.packages(name="Install what fetches Docker's key", names=("ca-certificates", "curl"))
    operations.tree(
        name="Make the directory of apt's keys",
        entries=[Directory("/etc/apt/keyrings", mode=0o755, uid=0, gid=0)],
    )
    files.download(
        name="Fetch the key of Docker's repository", src=wanted.key_url(instance.facts), dest=wanted.KEY, mode="644"
    )
    operations.tree(name="Add Docker's repository", entries=[wanted.repository(instance.facts)])
