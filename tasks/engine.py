"""Engine: the container engine and Compose v2, on a host that has none."""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.facts.server import Arch
from pyinfra.operations import apt, files, systemd

from redoubt.instance import Instance
from redoubt.preflight import docker_source

# Debian and Ubuntu name the packages alike except for Compose v2.
DISTRIBUTION_PACKAGES = {
    "debian": ["docker.io", "docker-cli", "docker-compose", "iptables"],
    "ubuntu": ["docker.io", "docker-compose-v2", "iptables"],
}
DOCKER_PACKAGES = ["docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin"]
CODENAMES = {
    ("debian", "12"): "bookworm",
    ("debian", "13"): "trixie",
    ("ubuntu", "22.04"): "jammy",
    ("ubuntu", "24.04"): "noble",
}


@deploy("Engine")
def engine(instance: Instance) -> None:
    """Install and start an engine where there is none, start one that does not answer; else nothing."""
    source = docker_source(instance.settings, instance.facts)
    system, _ = instance.facts.system_id
    if source == "distribution":
        apt.packages(
            name="Install docker.io and Compose v2 from the distribution",
            packages=DISTRIBUTION_PACKAGES[system],
            update=True,
            no_recommends=True,
        )
    elif source == "docker":
        _docker_repository(instance)
        apt.packages(
            name="Install Docker and Compose v2 from Docker's repository",
            packages=DOCKER_PACKAGES,
            update=True,
        )
    if source != "present" or not instance.facts.engine_answers:
        systemd.service(name="Start the engine, now and at boot", service="docker", running=True, enabled=True)


def _docker_repository(instance: Instance) -> None:
    """Docker's apt repository, as https://docs.docker.com/engine/install/debian/ sets it up."""
    system, _ = instance.facts.system_id
    codename = CODENAMES[instance.facts.system_id]
    apt.packages(
        name="Install what apt needs to use a repository over HTTPS",
        packages=["ca-certificates", "curl"],
        update=True,
    )
    files.directory(name="Make the directory of apt's keys", path="/etc/apt/keyrings", mode="755")
    files.download(
        name="Fetch the key of Docker's repository",
        src=f"https://download.docker.com/linux/{system}/gpg",
        dest="/etc/apt/keyrings/docker.asc",
        mode="644",
    )
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[host.get_fact(Arch)]
    apt.repo(
        name="Add Docker's repository",
        src=(
            f"deb [arch={arch} signed-by=/etc/apt/keyrings/docker.asc] "
            f"https://download.docker.com/linux/{system} {codename} stable"
        ),
        filename="docker",
    )
