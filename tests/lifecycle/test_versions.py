"""Versions that lack security fixes.

They are refused with a clear error, before anything changes.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox import images
from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.deployer import Deployer, DeployResult
from tests.lifecycle.conftest import assert_no_change, remove_instance, settings_for
from tests.lifecycle.expected_files import digests

LACKS = "Redis 8.0.2 lacks CVE-2025-32023, CVE-2025-48367, CVE-2025-49844"
ALLOW = "redis_allow_vulnerable_version = True deploys it anyway"


@pytest.fixture(scope="module")
def vulnerable() -> dict[str, Any]:
    """Return settings for upstream's 8.0.2, compiled here.

    Debian's build of that number is patched, this one is not.
    """
    return settings_for("redis-jemalloc")


def warnings(result: DeployResult) -> list[str]:
    """Return the warnings about the version, each with its host."""
    return [
        line.strip() for line in result.stderr.splitlines() if "because redis_allow_vulnerable_version = True" in line
    ]


def test_vulnerable_archive_is_refused_with_all_other_problems(
    undeployed_host: Host, deployer: Deployer, vulnerable: dict[str, Any], fingerprint: Callable[[Host], list[str]]
) -> None:
    remove_instance(undeployed_host, image=True)
    before = fingerprint(undeployed_host)
    result = deployer.deploy(undeployed_host, **vulnerable, redis_port=22)
    assert result.returncode == 1
    message = result.stderr.partition("Nothing was changed on any host. Fix these problems first:")[2]
    problems = [line.strip() for line in message.splitlines() if line.startswith(f"  {undeployed_host.name}: ")]
    assert len(problems) == 2
    assert f"{undeployed_host.name}: redis_image = '{vulnerable['redis_image']}': {LACKS}" in problems[0]
    assert "and its branch 8.0 is no longer maintained" in problems[0]
    assert ALLOW in problems[0]
    assert "127.0.0.1:22 is in use by sshd" in problems[1]
    assert fingerprint(undeployed_host) == before


def test_allowed_vulnerable_version_warns_once_for_each_host(
    undeployed_host: Host, start_host: Callable[..., Host], deployer: Deployer, vulnerable: dict[str, Any]
) -> None:
    hosts = (undeployed_host, start_host("lifecycle-2"))
    remove_instance(hosts[1])
    result = deployer.deploy(*hosts, **vulnerable, redis_allow_vulnerable_version=True)
    assert result.returncode == 0, result.stderr
    lines = warnings(result)
    # pyinfra keeps them in no order.
    assert sorted(line.partition(" ")[0] for line in lines) == sorted(f"[{host.name}]" for host in hosts)
    assert all(LACKS in line for line in lines)
    assert Instance(undeployed_host, deployer.secrets(undeployed_host)).health == "healthy"
    # The patched package of the same number is deployed without a warning.
    result = deployer.deploy(*hosts)
    assert (result.returncode, warnings(result)) == (0, []), result.stderr


@pytest.fixture
def unnamed(deployed: Host) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Yield a function that makes an image whose name and labels show no version.

    The image is on the host. The function returns the settings for it.
    """
    name = "registry.example.com/cache:blue"

    def make(change: str) -> dict[str, Any]:
        deployed.run(
            f"docker create --name donor {images.redis_reference()} && docker commit --change {change!r} donor {name}; "
            "docker rm donor",
            check=True,
        )
        return {"redis_image_source": "registry", "redis_image_archive": None, "redis_image": name}

    yield make
    deployed.run(f"docker rmi {name}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # It has Debian's patches, but no label proves that.
        ("LABEL redoubt.package=", LACKS),
        # Copied from elsewhere: the server has another number.
        ("LABEL redoubt.package=redis-server=5:8.0.6-3", LACKS),
        ("LABEL redoubt.package=redis-server=5:8.0.2-3+deb13u2", "+deb13u2 of Debian 13 (trixie) lacks CVE-2026-25243"),
        # Its server does not start.
        ("ENV PATH=/nowhere", "does not report its version: 'redis-server --version' fails in it"),
    ],
)
def test_unnamed_vulnerable_image_is_refused_on_the_host(
    deployed: Host, deployer: Deployer, unnamed: Callable[[str], dict[str, Any]], change: str, message: str
) -> None:
    redis = Instance(deployed, deployer.secrets(deployed))
    before = redis.identity, digests(deployed)
    result = deployer.deploy(deployed, **unnamed(change))
    assert result.returncode == 1
    assert message in result.stderr
    assert "operation: Image | Check the version in the image" in result.stderr
    assert "operation: Secrets" not in result.stderr, "the deploy went on with this image"
    assert (redis.identity, digests(deployed)) == before
    assert redis.health == "healthy"


def test_unnamed_image_is_deployed_if_safe_or_allowed(
    deployed: Host, deployer: Deployer, unnamed: Callable[[str], dict[str, Any]]
) -> None:
    safe = unnamed("ENV ANY=thing")
    result = deployer.deploy(deployed, **safe)
    assert (result.returncode, warnings(result)) == (0, []), result.stderr

    vulnerable = unnamed("LABEL redoubt.package=")
    result = deployer.deploy(deployed, **vulnerable, redis_allow_vulnerable_version=True)
    assert result.returncode == 0, result.stderr
    assert [LACKS in line for line in warnings(result)] == [True]
    # Every deploy warns, also one that changes nothing.
    assert len(warnings(assert_no_change(deployer, deployed, **vulnerable, redis_allow_vulnerable_version=True))) == 1
    assert deployer.deploy(deployed).returncode == 0
