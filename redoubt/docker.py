"""Where a host gets Docker from: its packages, and Docker's apt repository."""

from redoubt.facts.host import HostFacts
from redoubt.filesystem import DesiredFile
from redoubt.settings.model import Settings

# Debian and Ubuntu use different names for the command line and Compose v2. Without apparmor, Docker silently starts
# containers without its AppArmor profile.
_DISTRIBUTION = {
    "debian": ("docker.io", "docker-cli", "docker-compose", "iptables", "apparmor"),
    "ubuntu": ("docker.io", "docker-compose-v2", "iptables", "apparmor"),
}
_DOCKER = ("docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin", "iptables", "apparmor")

DOCKER_KEY = "/etc/apt/keyrings/docker.asc"


def docker_packages(source: str, facts: HostFacts) -> tuple[str, ...]:
    """Return the packages of Docker and Compose v2; none if Docker is installed."""
    if source == "present":
        return ()
    return _DOCKER if source == "docker" else _DISTRIBUTION[facts.system_id[0]]


def docker_key_url(facts: HostFacts) -> str:
    """Return the URL of Docker's signing key."""
    return f"{_url(facts)}/gpg"


def docker_repository(facts: HostFacts) -> DesiredFile:
    """Return the apt source of Docker's repository.

    It has the file and key names of https://docs.docker.com/engine/install/debian/. A host that was set up by that page
    has the same file: apt refuses a repository that two files sign differently.
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


# Supported systems (id and version), and whether their archive has a new enough Docker and Compose v2.
SUPPORTED: dict[tuple[str, str], bool] = {
    ("debian", "13"): True,
    ("debian", "12"): False,
    ("ubuntu", "22.04"): True,
    ("ubuntu", "24.04"): True,
}


def docker_source(settings: Settings, facts: HostFacts) -> str:
    """Return where Docker comes from on this host.

    The result is ``present``, ``distribution``, ``docker`` or ``none``. If the distribution's Docker lacks Compose v2,
    as after an interrupted deploy, the distribution completes it. Any other Docker stays as it is, because the wrong
    package would replace it.
    """
    has_packages = SUPPORTED.get(facts.system_id, True)
    if facts.docker is not None:
        is_incomplete = facts.compose is None and facts.docker_package == "docker.io" and has_packages
        return "distribution" if is_incomplete and settings.redis_docker_source != "none" else "present"
    if settings.redis_docker_source != "auto":
        return settings.redis_docker_source
    return "distribution" if has_packages else "docker"
