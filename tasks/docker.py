"""Docker: Docker and Compose v2, on a host that has none."""

from pyinfra.api import deploy
from pyinfra.operations import files as pyinfra_files

from redoubt.docker import DOCKER_KEY, docker_key_url, docker_packages, docker_repository, docker_source
from redoubt.filesystem import DesiredDirectory
from redoubt.instance import Instance
from redoubt.operations.docker import start_docker
from redoubt.operations.files import files
from redoubt.operations.packages import install_packages


@deploy("Docker")
def docker(instance: Instance) -> None:
    """Install Docker if the host has none, and have it run now and at boot."""
    facts = instance.facts
    source = docker_source(instance.settings, facts)
    if source == "docker":
        _docker_repository(instance)
    if source != "present":
        install_packages(name="Install Docker and Compose v2", names=docker_packages(source, facts))
    if source != "present" or not facts.docker_answers or not facts.docker_at_boot:
        start_docker(name="Start Docker, now and at boot", answers=facts.docker_answers, at_boot=facts.docker_at_boot)


def _docker_repository(instance: Instance) -> None:
    install_packages(name="Install what downloads Docker's key", names=("ca-certificates", "curl"))
    files(
        name="Create the directory of apt's keys",
        entries=[DesiredDirectory("/etc/apt/keyrings", mode=0o755, uid=0, gid=0)],
    )
    pyinfra_files.download(
        name="Download the key of Docker's repository", src=docker_key_url(instance.facts), dest=DOCKER_KEY, mode="644"
    )
    files(name="Add Docker's repository", entries=[docker_repository(instance.facts)])
