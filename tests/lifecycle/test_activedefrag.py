"""Active defragmentation is on where the image's build can do it, and no image that cannot is asked to."""

from typing import Any

import pytest

from sandbox import engine, image_build
from sandbox.hosts import Host
from sandbox.util import lock
from tests.lifecycle.conftest import Deployer
from tests.lifecycle.deployed_redis import Instance


@pytest.fixture(scope="module")
def able() -> dict[str, Any]:
    """Settings for a build that can: upstream's source with the allocator that it brings along, compiled here.

    Without Debian's security patches, which has to be allowed.
    """
    with lock():
        archive = image_build.ensure_redis(engine.ensure(), "redis-jemalloc")
    return {
        "redis_image": archive.reference,
        "redis_image_archive": str(archive.path),
        "redis_allow_vulnerable_version": True,
    }


def test_auto_turns_it_on_on_a_build_that_can_and_off_again_with_another(
    deployed: Host, deployer: Deployer, able: dict[str, Any]
) -> None:
    redis = Instance(deployed, deployer.secrets(deployed))
    assert redis.config("activedefrag") == "no"

    for wish in ("auto", "yes"):
        result = deployer.deploy(deployed, **able, redis_activedefrag=wish)
        assert result.returncode == 0, result.stderr
        assert redis.health == "healthy"
        assert redis.config("activedefrag") == "yes"
        again = deployer.deploy(deployed, **able, redis_activedefrag=wish)
        assert (again.returncode, again.changed) == (0, []), again.stderr

    # The answer belongs to its image: Debian's build would not start with it.
    assert deployer.deploy(deployed).returncode == 0
    assert redis.health == "healthy"
    assert redis.config("activedefrag") == "no"


def test_auto_leaves_it_off_on_a_build_that_cannot(deployed: Host, deployer: Deployer) -> None:
    """Debian's build, which would not start with it."""
    redis = Instance(deployed, deployer.secrets(deployed))
    assert redis.config("activedefrag") == "no"
    refused = redis.call(f"{redis.secrets.renamed_command('CONFIG')} SET activedefrag yes")
    assert "OK" not in refused, "this build can defragment: auto should have turned it on"


def test_yes_is_refused_in_words_before_redis_is_touched(deployed: Host, deployer: Deployer) -> None:
    redis = Instance(deployed, deployer.secrets(deployed))
    before = redis.identity

    result = deployer.deploy(deployed, redis_activedefrag="yes")

    assert result.returncode == 1
    assert "redis_activedefrag = 'yes', but the build in redoubt/redis:" in result.stderr
    assert "use auto or no" in result.stderr
    assert redis.identity == before
    assert redis.health == "healthy"
    again = deployer.deploy(deployed)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_no_asks_no_image(deployed: Host, deployer: Deployer) -> None:
    result = deployer.deploy(deployed, redis_activedefrag="no")
    assert result.returncode == 0, result.stderr
    assert not [name for name in result.changed if "defragment" in name and "Find out" in name]
    assert Instance(deployed, deployer.secrets(deployed)).config("activedefrag") == "no"
    again = deployer.deploy(deployed, redis_activedefrag="no")
    assert (again.returncode, again.changed) == (0, []), again.stderr
