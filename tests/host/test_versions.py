"""Versions: the server has the security fixes of its branch or distribution."""

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
    """Return name and version of the package in the running image's label.

    Both are empty without a label.
    """
    name, _, version = (container["Config"]["Labels"] or {}).get("redoubt.package", "").partition("=")
    return name, version


@pytest.fixture(scope="module")
def server(target: Target) -> tuple[Engine, str]:
    """Return engine and version, as the running server reports them."""
    info = target.admin.info("server")
    return ("valkey", info["valkey_version"]) if "valkey_version" in info else ("redis", info["redis_version"])


def test_label_names_the_running_package(
    host: Host, settings: Settings, label: tuple[str, str], server: tuple[Engine, str]
) -> None:
    """The label names the installed package and the running program.

    The version check uses the label.
    """
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
    # Debian ships the server in the package of its tools.
    script = f'md5sum "$(readlink -f "$(command -v redis-server)")"; cat /var/lib/dpkg/info/{engine}-tools.md5sums'
    digest, *packaged = host.check_output(f"docker exec {container} sh -c {quoted(script)}").splitlines()
    assert digest.replace("  /", "  ") in packaged


def test_running_version_has_all_security_fixes(
    settings: Settings, label: tuple[str, str], server: tuple[Engine, str]
) -> None:
    """The version table accepts the running version.

    If the settings allow a vulnerable release, the test is skipped, and the report says "not proven".
    """
    engine, running = server
    name, version = label
    build = Build(engine, version, name) if name.endswith("-server") else Build(engine, running)
    problem = versions.judge(build).problem
    if problem and settings.redis_allow_vulnerable_version:
        pytest.skip(f"redis_allow_vulnerable_version = True: {problem}")
    assert problem == ""
