"""Docker's packages and repository, for every supported system."""

from dataclasses import replace

import pytest

from redoubt import docker
from redoubt.docker import docker_source
from redoubt.facts.host import HostFacts
from redoubt.settings.load import load
from tests.unit.good_host import FACTS

SYSTEMS = [
    (("debian", "12"), "bookworm"),
    (("debian", "13"), "trixie"),
    (("ubuntu", "22.04"), "jammy"),
    (("ubuntu", "24.04"), "noble"),
]


def bare(system_id: tuple[str, str], codename: str) -> HostFacts:
    return replace(FACTS, system_id=system_id, codename=codename, docker=None, compose=None, docker_package="")


@pytest.mark.parametrize(("system_id", "codename"), SYSTEMS)
def test_repository_is_that_of_dockers_documentation(system_id: tuple[str, str], codename: str) -> None:
    facts = bare(system_id, codename)
    file = docker.docker_repository(facts)
    assert file.path == "/etc/apt/sources.list.d/docker.sources"
    assert file.content.splitlines() == [
        "Types: deb",
        f"URIs: https://download.docker.com/linux/{system_id[0]}",
        f"Suites: {codename}",
        "Components: stable",
        "Signed-By: /etc/apt/keyrings/docker.asc",
    ]
    assert docker.docker_key_url(facts) == f"https://download.docker.com/linux/{system_id[0]}/gpg"
    assert {"docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin"} <= set(
        docker.docker_packages("docker", facts)
    )


@pytest.mark.parametrize(
    ("system_id", "compose"), [(("debian", "13"), "docker-compose"), (("ubuntu", "24.04"), "docker-compose-v2")]
)
def test_distribution_packages_include_compose(system_id: tuple[str, str], compose: str) -> None:
    facts = bare(system_id, "")
    source = docker_source(load({}), facts)
    assert {"docker.io", compose} <= set(docker.docker_packages(source, facts))


@pytest.mark.parametrize("source", ["distribution", "docker"])
def test_docker_comes_with_apparmor(source: str) -> None:
    """Without it, Docker starts containers without its profile."""
    assert "apparmor" in docker.docker_packages(source, bare(("debian", "13"), ""))


def test_installed_docker_is_left_alone() -> None:
    assert docker.docker_packages(docker_source(load({}), FACTS), FACTS) == ()


def test_distribution_docker_is_completed() -> None:
    half = replace(FACTS, compose=None, docker_package="docker.io")
    assert docker_source(load({}), half) == "distribution"
    assert docker_source(load({"redis_docker_source": "none"}), half) == "present"
    assert docker_source(load({}), replace(half, docker_package="docker-ce")) == "present"
