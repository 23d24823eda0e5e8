"""Docker's health status: healthy if Redis serves, unhealthy while it does not.

A deploy relies on it alone: it fails with the reason if Redis does not become healthy, and can be run again.
"""

from typing import Any

import pytest

from sandbox.hosts import Host
from tests.deployed_redis import Instance, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import assert_no_change

# A check every second; two failures make the container unhealthy.
EAGER: dict[str, Any] = {
    "redis_health_interval": 1,
    "redis_health_timeout": 2,
    "redis_health_retries": 2,
    "redis_health_start_period": 2,
}
# Seconds: two checks that use their whole timeout, their intervals, and a slow machine.
STATUS_TIMEOUT = 20
LIVE = "/srv/redis/data/live"


@pytest.fixture(scope="module")
def eager(host: Host, deployer: Deployer) -> Instance:
    """The shared host with eager health checks."""
    return deployer.instance(host, **EAGER)


@pytest.fixture
def redis(eager: Instance, deployer: Deployer) -> Instance:
    """Redis, healthy again after the previous test."""
    if eager.health != "healthy":
        result = deployer.deploy(eager.host, **EAGER)
        assert result.returncode == 0, result.stderr
    return eager


def last_output(redis: Instance) -> str:
    """Return the output of the last health check."""
    log = redis.inspect()["State"]["Health"]["Log"]
    return str(log[-1]["Output"])


def assert_becomes(redis: Instance, status: str) -> None:
    wait_until(lambda: redis.health == status, f"Redis is {status}", STATUS_TIMEOUT)


def test_hanging_redis_is_unhealthy_until_it_answers(redis: Instance) -> None:
    server = "docker top redis -o pid,comm | awk '$2 == \"redis-server\" { print $1 }'"
    redis.host.run(f"kill -STOP $({server})", check=True)
    try:
        assert_becomes(redis, "unhealthy")
    finally:
        redis.host.run(f"kill -CONT $({server})", check=True)
    assert_becomes(redis, "healthy")


def test_deploy_repairs_a_wrong_credential(redis: Instance, deployer: Deployer) -> None:
    # In place, so that the container sees this file.
    redis.host.run("echo wrong > /srv/redis/secrets/server/health", check=True)
    assert_becomes(redis, "unhealthy")
    assert "login: WRONGPASS" in last_output(redis)

    result = deployer.deploy(redis.host, **EAGER)

    assert result.returncode == 0, result.stderr
    assert redis.health == "healthy"


def test_deploy_repairs_a_redis_that_cannot_save(redis: Instance, deployer: Deployer) -> None:
    redis.host.run(f"chown 0:0 {LIVE} && chmod 755 {LIVE}", check=True)
    redis.call("BGSAVE")
    assert_becomes(redis, "unhealthy")
    assert "MISCONF" in last_output(redis) or "rdb_last_bgsave_status: err" in last_output(redis)

    result = deployer.deploy(redis.host, **EAGER)

    assert result.returncode == 0, result.stderr
    assert redis.health == "healthy"
    # The failed save counts for Redis until another one succeeds, but not for the next deploy.
    assert_no_change(deployer, redis.host, **EAGER)


def test_unhealthy_deploy_fails_with_the_reason(redis: Instance, deployer: Deployer) -> None:
    """It can be run again, and the data is still there."""
    redis.call("SET app:session:health kept EX 600", user="sessions")
    # Redis runs and answers, but accepts no writes.
    failed = deployer.deploy(redis.host, **EAGER, redis_extra_config={"min-replicas-to-write": "1"})
    assert failed.returncode == 1
    assert "unhealthy: write: NOREPLICAS" in failed.stderr
    assert "Ready to accept connections" in failed.stderr, "the end of redis.log is not shown"

    repaired = deployer.deploy(redis.host, **EAGER)

    assert repaired.returncode == 0, repaired.stderr
    assert redis.health == "healthy"
    assert redis.call("GET app:session:health", user="sessions") == ["kept"]


@pytest.mark.parametrize(
    ("directive", "value", "message"),
    [
        ("no-such-directive", "1", "'no-such-directive 1'"),
        ("hz", "10 # a comment", "hz 10 # a comment"),
    ],
)
def test_configuration_that_does_not_start_is_refused(
    redis: Instance, deployer: Deployer, directive: str, value: str, message: str
) -> None:
    """The old Redis keeps serving."""
    before = redis.identity
    failed = deployer.deploy(redis.host, **EAGER, redis_extra_config={directive: value})
    assert failed.returncode == 1
    assert message in failed.stderr, "Redis's own error is not shown"
    assert (redis.identity, redis.health) == (before, "healthy")


def test_redis_that_keeps_crashing_is_reported(redis: Instance, deployer: Deployer) -> None:
    """After the cause is repaired, the next deploy starts it with its data."""
    redis.call("SET app:session:start kept EX 600", user="sessions")
    manifest = f"{LIVE}/appendonlydir/appendonly.aof.manifest"
    redis.host.run(f"docker stop redis && cp -p {manifest} /root/manifest && echo damaged > {manifest}", check=True)
    try:
        failed = deployer.deploy(redis.host, **EAGER)
        assert failed.returncode == 1
        assert "Invalid AOF manifest file format" in failed.stderr, "Redis's own error is not shown"
    finally:
        redis.host.run(f"mv /root/manifest {manifest}", check=True)
    repaired = deployer.deploy(redis.host, **EAGER)

    assert repaired.returncode == 0, repaired.stderr
    assert redis.call("GET app:session:start", user="sessions") == ["kept"]
    # Docker still counts the restarts, and they are no reason for another change.
    assert_no_change(deployer, redis.host, **EAGER)
