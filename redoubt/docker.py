"""The container engine's packages, and Docker's apt repository where they come from there."""

from redoubt.facts.host import HostFacts
from redoubt.filesystem import DesiredFile
from redoubt.settings.model import Settings

# Debian and Ubuntu name the packages alike except for the command line and Compose v2.
_DISTRIBUTION = {
    "debian": ("docker.io", "docker-cli", "docker-compose", "iptables"),
    "ubuntu": ("docker.io", "docker-compose-v2", "iptables"),
}
_DOCKER = ("docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin", "iptables")

DOCKER_KEY = "/etc/apt/keyrings/docker.asc"


def docker_packages(source: str, facts: HostFacts) -> tuple[str, ...]:
    """The packages of the engine and Compose v2; none where the engine is there already."""
    if source == "present":
        return ()
    return _DOCKER if source == "docker" else _DISTRIBUTION[facts.system_id[0]]


def docker_key_url(facts: HostFacts) -> str:
    """Where Docker's signing key is."""
    return f"{_url(facts)}/gpg"


def docker_repository(facts: HostFacts) -> DesiredFile:
    """Docker's repository, in the file and with the key's name of https://docs.docker.com/engine/install/debian/.

    Whoever followed that page has the same file: apt refuses a repository that two files sign differently.
    """
    text = f"""\
Types: deb
URIs: {_url(facts)}
Suites: {facts.codename}
Components: stable
Signed-By: {DOCKER_KEY}
"""
    return DesiredFile("/etc/apt/sources.list.d/docker.sources", text, mode=0o644, uid=0, gid=0)


def _url(facts: HostFacts) -> str:
    return f"https://download.docker.com/linux/{facts.system_id[0]}"


# id and version of systems that a deploy may change, and whether their archive has an engine and Compose v2
# that are new enough.
SUPPORTED: dict[tuple[str, str], bool] = {
    ("debian", "13"): True,
    ("debian", "12"): False,
    ("ubuntu", "22.04"): True,
    ("ubuntu", "24.04"): True,
}


def docker_source(settings: Settings, facts: HostFacts) -> str:
    """Where the engine comes from on this host: ``present``, ``distribution``, ``docker`` or ``none``.

    An engine of the distribution without Compose v2 is completed from the distribution, whether somebody left it
    so or an interrupted deploy. Another one is never added to: the wrong package would replace it.
    """
    has_packages = SUPPORTED.get(facts.system_id, True)
    if facts.docker is not None:
        completed = facts.compose is None and facts.docker_package == "docker.io" and has_packages
        return "distribution" if completed and settings.redis_docker_source != "none" else "present"
    if settings.redis_docker_source != "auto":
        return settings.redis_docker_source
    return "distribution" if has_packages else "docker"
