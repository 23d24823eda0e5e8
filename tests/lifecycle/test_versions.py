"""A version that lacks security fixes is refused in words, before anything is changed or Redis is touched."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox import engine, image_build, images
from sandbox.hosts import Host
from sandbox.util import lock
from tests.lifecycle.conftest import Deployer, DeployResult, remove_instance
from tests.lifecycle.deployed_redis import Instance

LACKS = "Redis 8.0.2 lacks CVE-2025-32023, CVE-2025-48367, CVE-2025-49844"
ALLOW = "redis_allow_vulnerable_version = True deploys it anyway"


@pytest.fixture(scope="module")
def vulnerable() -> dict[str, Any]:
    """Settings for upstream's 8.0.2, compiled here: Debian's build of that number is patched, this one is not."""
    with lock():
        archive = image_build.ensure_redis(engine.ensure(), "redis-jemalloc")
    return {"redis_image": archive.reference, "redis_image_archive": str(archive.path)}


def warnings(result: DeployResult) -> list[str]:
    """What was said of the version, and to which host."""
    return [line.strip() for line in result.stderr.splitlines() if "redis_allow_vulnerable_version = True says" in line]


def test_an_archive_of_a_vulnerable_version_is_refused_with_everything_else_and_nothing_is_changed(
    undeployed_host: Host, deployer: Deployer, vulnerable: dict[str, Any], fingerprint: Callable[[Host], list[str]]
) -> None:
    before = fingerprint(undeployed_host)
    result = deployer.deploy(undeployed_host, **vulnerable, redis_port=22)
    assert result.returncode == 1
    message = result.stderr.partition("Nothing was changed on any host. Fix these problems first:")[2]
    said = [line.strip() for line in message.splitlines() if line.startswith(f"  {undeployed_host.name}: ")]
    assert len(said) == 2
    assert f"{undeployed_host.name}: redis_image = '{vulnerable['redis_image']}': {LACKS}" in said[0]
    assert "and its branch 8.0 is no longer maintained" in said[0]
    assert ALLOW in said[0]
    assert "127.0.0.1:22 is in use by sshd" in said[1]
    assert fingerprint(undeployed_host) == before


def test_it_is_deployed_when_that_is_asked_for_and_each_host_is_warned_once(
    undeployed_host: Host, start_host: Callable[..., Host], deployer: Deployer, vulnerable: dict[str, Any]
) -> None:
    hosts = (undeployed_host, start_host("lifecycle-2"))
    remove_instance(hosts[1])
    for number in range(2):
        result = deployer.deploy(*hosts, **vulnerable, redis_allow_vulnerable_version=True)
        assert result.returncode == 0, result.stderr
        said = warnings(result)
        # pyinfra keeps them in no order.
        assert sorted(line.partition(" ")[0] for line in said) == sorted(f"[{host.name}]" for host in hosts)
        assert all(LACKS in line for line in said)
        assert number == 0 or result.changed == []
    assert Instance(undeployed_host, deployer.secrets(undeployed_host)).health == "healthy"
    # And back to the patched package of the same number, without a word.
    result = deployer.deploy(*hosts)
    assert (result.returncode, warnings(result)) == (0, []), result.stderr


@pytest.fixture
def unnamed(deployed: Host) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Makes an image on the host whose name and labels do not tell its version; returns the settings for it."""
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
    ("change", "words"),
    [
        # Debian's patches are in it, but nothing says so.
        ("LABEL redoubt.package=", LACKS),
        # Copied from elsewhere: the server has another number.
        ("LABEL redoubt.package=redis-server=5:8.0.6-3", LACKS),
        ("LABEL redoubt.package=redis-server=5:8.0.2-3+deb13u2", "+deb13u2 of Debian 13 (trixie) lacks CVE-2026-25243"),
        # Nobody can be asked.
        ("ENV PATH=/nowhere", "does not tell its version: 'redis-server --version' fails in it"),
    ],
)
def test_an_image_that_only_the_host_can_ask_is_refused_before_redis_is_touched(
    deployed: Host, deployer: Deployer, unnamed: Callable[[str], dict[str, Any]], change: str, words: str
) -> None:
    redis = Instance(deployed, deployer.secrets(deployed))
    before = redis.identity
    result = deployer.deploy(deployed, **unnamed(change))
    assert result.returncode == 1
    assert words in result.stderr
    assert "operation: Image | Judge the version in the image" in result.stderr
    assert "operation: Secrets" not in result.stderr, "the deploy went on with this image"
    assert redis.identity == before
    assert redis.health == "healthy"
    again = deployer.deploy(deployed)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_an_image_that_only_the_host_can_ask_is_deployed_when_it_is_safe_or_allowed(
    deployed: Host, deployer: Deployer, unnamed: Callable[[str], dict[str, Any]]
) -> None:
    safe = unnamed("ENV ANY=thing")
    result = deployer.deploy(deployed, **safe)
    assert (result.returncode, warnings(result)) == (0, []), result.stderr
    again = deployer.deploy(deployed, **safe)
    assert (again.returncode, again.changed) == (0, []), again.stderr

    vulnerable = unnamed("LABEL redoubt.package=")
    result = deployer.deploy(deployed, **vulnerable, redis_allow_vulnerable_version=True)
    assert result.returncode == 0, result.stderr
    assert [LACKS in line for line in warnings(result)] == [True]
    again = deployer.deploy(deployed, **vulnerable, redis_allow_vulnerable_version=True)
    assert (again.returncode, again.changed) == (0, []), again.stderr
    assert len(warnings(again)) == 1
    assert deployer.deploy(deployed).returncode == 0
