"""The container engine's packages, and Docker's apt repository where they come from there."""

from redoubt.preflight import HostFacts
from redoubt.tree import File

# Debian and Ubuntu name the packages alike except for the command line and Compose v2.
_DISTRIBUTION = {
    "debian": ("docker.io", "docker-cli", "docker-compose", "iptables"),
    "ubuntu": ("docker.io", "docker-compose-v2", "iptables"),
}
_DOCKER = ("docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin", "iptables")

KEY = "/etc/apt/keyrings/docker.asc"


def packages(source: str, facts: HostFacts) -> tuple[str, ...]:
    """The packages of the engine and Compose v2; none where the engine is there already."""
    if source == "present":
        return ()
    return _DOCKER if source == "docker" else _DISTRIBUTION[facts.system_id[0]]


def key_url(facts: HostFacts) -> str:
    """Where Docker's signing key is."""
    return f"{_url(facts)}/gpg"


def repository(facts: HostFacts) -> File:
    """Docker's repository, in the file and with the key's name of https://docs.docker.com/engine/install/debian/.

    Whoever followed that page has the same file: apt refuses a repository that two files sign differently.
    """
    text = f"""\
Types: deb
URIs: {_url(facts)}
Suites: {facts.codename}
Components: stable
Signed-By: {KEY}
"""
    return File("/etc/apt/sources.list.d/docker.sources", text, mode=0o644, uid=0, gid=0)


def _url(facts: HostFacts) -> str:
    return f"https://download.docker.com/linux/{facts.system_id[0]}"
