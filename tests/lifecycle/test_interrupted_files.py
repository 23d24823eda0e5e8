"""Deploys that end while they replace the files of a running Redis.

The previous files are back before any start. Otherwise Docker would start the old container with half of the new
configuration, for example after a power cut.
"""

import signal
from typing import Any

import pytest

from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.deployer import BackgroundDeploy, Deployer
from tests.lifecycle.expected_files import digests
from tests.lifecycle.interruption import cut_power, is_finished, wait_until_recovered

pytestmark = pytest.mark.usefixtures("without_traces")

# Redis does not start with this.
UNKNOWN: dict[str, Any] = {"redis_extra_config": {"no-such-directive": "1"}, "redis_app_name": "shop"}
COMPOSE = "Service | Write the Compose project"
START = "Service | Start Redis and wait until it is healthy"


def halt(deployer: Deployer, host: Host, operation: str, **settings: Any) -> BackgroundDeploy:
    """Start a deploy and halt its process when it begins an operation."""
    running = deployer.start(host, **settings)
    running.wait_for(f"Starting operation: {operation}")
    running.signal(signal.SIGSTOP)
    return running


def end(running: BackgroundDeploy) -> None:
    running.signal(signal.SIGKILL)
    assert running.wait().returncode == -signal.SIGKILL


def assert_previous_state(redis: Instance, deployer: Deployer, container: str, files: dict[str, str]) -> None:
    """Check that the same container is healthy with its files and data.

    A deploy must have nothing to do.
    """
    assert is_finished(redis.host)
    redis.wait_until_healthy()
    assert redis.inspect()["Id"] == container
    assert digests(redis.host) == files
    assert redis.call("GET app:session:kept", user="sessions") == ["1"]
    again = deployer.deploy(redis.host)
    assert (again.returncode, again.changed) == (0, []), again.stderr


@pytest.mark.parametrize("operation", [COMPOSE, START])
def test_power_cut_while_files_are_replaced(operation: str, redis: Instance, deployer: Deployer) -> None:
    """The files are back before Docker starts the container of the previous settings."""
    container, files = redis.inspect()["Id"], digests(redis.host)
    running = halt(deployer, redis.host, operation, **UNKNOWN)
    assert digests(redis.host) != files
    cut_power(redis.host)
    end(running)
    assert_previous_state(redis, deployer, container, files)


@pytest.mark.core
def test_killed_deploy_leaves_the_previous_files(redis: Instance, deployer: Deployer) -> None:
    """systemd puts the previous files back as soon as the lock is free.

    So Redis can crash and start again.
    """
    container, files = redis.inspect()["Id"], digests(redis.host)
    running = halt(deployer, redis.host, COMPOSE, **UNKNOWN)
    assert redis.host.run("redisctl health").returncode == 0
    end(running)
    wait_until_recovered(redis.host, 60)
    redis.crash()
    redis.host.run("docker start redis", check=True)
    assert_previous_state(redis, deployer, container, files)


def test_refused_configuration_leaves_the_previous_files(redis: Instance, deployer: Deployer) -> None:
    container, files = redis.inspect()["Id"], digests(redis.host)
    refused = deployer.deploy(redis.host, **UNKNOWN)
    assert (refused.returncode, f"operation: {START}" in refused.stderr) == (1, True), refused.stderr
    assert "The running Redis was left alone" in refused.stderr
    redis.host.run("docker restart redis", check=True)
    assert_previous_state(redis, deployer, container, files)


def test_power_cut_during_a_live_change_is_harmless(redis: Instance, deployer: Deployer) -> None:
    """After a power cut, Redis starts with the new files in the old container.

    The next deploy finishes the change.
    """
    container = redis.inspect()["Id"]
    running = halt(deployer, redis.host, "Service | Change the running Redis", redis_maxmemory="300mb")
    cut_power(redis.host)
    end(running)
    redis.wait_until_healthy()
    assert redis.inspect()["Id"] == container
    assert redis.config("maxmemory") == str(300 * 1024**2)
    assert redis.call("GET app:session:kept", user="sessions") == ["1"]
    finished = deployer.deploy(redis.host, redis_maxmemory="300mb")
    assert finished.returncode == 0, finished.stderr
    assert redis.inspect()["HostConfig"]["Memory"] < 1024**3
    again = deployer.deploy(redis.host, redis_maxmemory="300mb")
    assert (again.returncode, again.changed) == (0, []), again.stderr
