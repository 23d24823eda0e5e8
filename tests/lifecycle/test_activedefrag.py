"""Active defragmentation, which is on if the image's build supports it.

A build that does not support it is never asked to defragment.
"""

from typing import Any

import pytest

from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.deployer import Deployer
from tests.lifecycle.conftest import settings_for
from tests.lifecycle.expected_files import digests

PROBE = "Config | Find out whether the image can defragment memory"


@pytest.fixture(scope="module")
def supporting() -> dict[str, Any]:
    """Return settings for a build that supports active defragmentation.

    It is upstream's source with its own allocator, compiled here. It lacks Debian's security patches, so it must be
    allowed.
    """
    return {**settings_for("redis-jemalloc"), "redis_allow_vulnerable_version": True}


def test_auto_is_on_with_a_build_that_supports_it(
    deployed: Host, deployer: Deployer, supporting: dict[str, Any]
) -> None:
    """And off again with another build, which would not start with it."""
    redis = Instance(deployed, deployer.secrets(deployed))
    assert redis.config("activedefrag") == "no"

    for value in ("auto", "yes"):
        result = deployer.deploy(deployed, **supporting, redis_activedefrag=value)
        assert result.returncode == 0, result.stderr
        assert redis.health == "healthy"
        assert redis.config("activedefrag") == "yes"

    assert deployer.deploy(deployed).returncode == 0
    assert redis.health == "healthy"
    assert redis.config("activedefrag") == "no"


def test_auto_is_off_with_a_build_that_does_not_support_it(deployed: Host, deployer: Deployer) -> None:
    """Debian's build does not."""
    redis = Instance(deployed, deployer.secrets(deployed))
    assert redis.config("activedefrag") == "no"
    answer = redis.call(f"{redis.secrets.renamed_command('CONFIG')} SET activedefrag yes")
    assert "OK" not in answer, "this build supports it: auto should have turned it on"


def test_yes_is_refused_before_redis_is_touched(deployed: Host, deployer: Deployer) -> None:
    redis = Instance(deployed, deployer.secrets(deployed))
    before = redis.identity, digests(deployed)

    result = deployer.deploy(deployed, redis_activedefrag="yes")

    assert result.returncode == 1
    assert "redis_activedefrag = 'yes', but the build in redoubt/redis:" in result.stderr
    assert "use auto or no" in result.stderr
    assert (redis.identity, digests(deployed)) == before
    assert redis.health == "healthy"


def test_no_does_not_probe_the_image(deployed: Host, deployer: Deployer) -> None:
    result = deployer.deploy(deployed, redis_activedefrag="no")
    assert result.returncode == 0, result.stderr
    assert PROBE not in [operation["name"] for operation in result.operations]
    assert Instance(deployed, deployer.secrets(deployed)).config("activedefrag") == "no"
