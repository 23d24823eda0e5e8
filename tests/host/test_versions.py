"""Versions: what runs has the security fixes of its branch or distribution, by the server's and the package's word."""

from typing import Any

import pytest
from testinfra.host import Host

from redoubt import versions
from redoubt.facts.host import Build
from redoubt.settings.model import Settings
from redoubt.settings.types import Engine
from tests.host.host_under_test import Target, quoted

pytestmark = pytest.mark.security("version")


@pytest.fixture(scope="module")
def label(container: dict[str, Any]) -> tuple[str, str]:
    """Name and version of what the server was built from, as the image that runs is labelled; empty where it is not."""
    name, _, version = (container["Config"]["Labels"] or {}).get("redoubt.package", "").partition("=")
    return name, version


@pytest.fixture(scope="module")
def server(target: Target) -> tuple[Engine, str]:
    """Engine and version, asked of the server that runs."""
    info = target.admin.info("server")
    return ("valkey", info["valkey_version"]) if "valkey_version" in info else ("redis", info["redis_version"])


def test_a_labelled_package_is_what_runs(
    host: Host, settings: Settings, label: tuple[str, str], server: tuple[Engine, str]
) -> None:
    """The version is judged by the label: it must be the package's in the container, and the server its file."""
    name, version = label
    engine, running = server
    assert engine == settings.redis_engine
    assert Build(engine, running).numbers == Build(engine, version or running).numbers
    if not name.endswith("-server"):
        assert name in ("", engine)
        return
    container = quoted(settings.redis_name)
    assert name == f"{engine}-server"
    installed = host.check_output(f"docker exec {container} dpkg-query --show --showformat '${{Version}}' {name}")
    assert installed == version
    # Debian keeps the server in the package of its tools.
    script = f'md5sum "$(readlink -f "$(command -v redis-server)")"; cat /var/lib/dpkg/info/{engine}-tools.md5sums'
    digest, *packaged = host.check_output(f"docker exec {container} sh -c {quoted(script)}").splitlines()
    assert digest.replace("  /", "  ") in packaged


def test_what_runs_lacks_no_fix_that_is_to_be_had(
    settings: Settings, label: tuple[str, str], server: tuple[Engine, str]
) -> None:
    """A release that the settings allow all the same proves nothing, and is no surprise either."""
    engine, running = server
    name, version = label
    build = Build(engine, version, name) if name.endswith("-server") else Build(engine, running)
    problem = versions.judge(build).problem
    # Skipped and not left out: the report then calls the control not proven, whatever else of it passed.
    if problem and settings.redis_allow_vulnerable_version:
        pytest.skip(f"redis_allow_vulnerable_version = True: {problem}")
    assert problem == ""
