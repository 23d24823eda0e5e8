"""The engine's verdict is the truth: unhealthy when Redis does not serve, healthy again when it does.

A deploy believes nothing else: it fails, with the reason, when Redis does not become healthy, and can be run again.
"""

from typing import Any

import pytest

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer
from tests.lifecycle.deployed_redis import Instance, wait_until

# A check every second and two failures to a verdict.
EAGER: dict[str, Any] = {
    "redis_health_interval": 1,
    "redis_health_timeout": 2,
    "redis_health_retries": 2,
    "redis_health_start_period": 2,
}
# Two checks that take as long as they may, their intervals, and a slow machine.
VERDICT = 20


@pytest.fixture(scope="module")
def eager(host: Host, deployer: Deployer) -> Instance:
    """The shared host with eager health checks."""
    result = deployer.deploy(host, **EAGER)
    assert result.returncode == 0, result.stderr
    return Instance(host, deployer.secrets(host))


@pytest.fixture
def redis(eager: Instance, deployer: Deployer) -> Instance:
    """Redis, healthy whatever the test before left behind."""
    if eager.health != "healthy":
        result = deployer.deploy(eager.host, **EAGER)
        assert result.returncode == 0, result.stderr
    return eager


def last_words(redis: Instance) -> str:
    """What the last check said."""
    log = redis.inspect()["State"]["Health"]["Log"]
    return str(log[-1]["Output"])


def assert_turns(redis: Instance, verdict: str) -> None:
    wait_until(lambda: redis.health == verdict, f"Redis is {verdict}", VERDICT)


def test_a_redis_that_hangs_is_unhealthy_until_it_answers_again(redis: Instance) -> None:
    server = "docker top redis -o pid,comm | awk '$2 == \"redis-server\" { print $1 }'"
    redis.host.run(f"kill -STOP $({server})", check=True)
    try:
        assert_turns(redis, "unhealthy")
    finally:
        redis.host.run(f"kill -CONT $({server})", check=True)
    assert_turns(redis, "healthy")


def test_a_wrong_credential_is_unhealthy_until_a_deploy_mends_it(redis: Instance, deployer: Deployer) -> None:
    # In place: the container sees the very file.
    redis.host.run("echo wrong > /srv/redis/secrets/server/health", check=True)
    assert_turns(redis, "unhealthy")
    assert "login: WRONGPASS" in last_words(redis)

    result = deployer.deploy(redis.host, **EAGER)

    assert result.returncode == 0, result.stderr
    assert redis.health == "healthy"


def test_a_redis_that_cannot_save_is_unhealthy_until_a_deploy_mends_it(redis: Instance, deployer: Deployer) -> None:
    redis.host.run("chown 0:0 /srv/redis/data && chmod 755 /srv/redis/data", check=True)
    redis.call("BGSAVE")
    assert_turns(redis, "unhealthy")
    assert "MISCONF" in last_words(redis) or "rdb_last_bgsave_status: err" in last_words(redis)

    result = deployer.deploy(redis.host, **EAGER)

    assert result.returncode == 0, result.stderr
    assert redis.health == "healthy"
    again = deployer.deploy(redis.host, **EAGER)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_a_deploy_that_ends_unhealthy_fails_says_why_and_can_be_run_again(redis: Instance, deployer: Deployer) -> None:
    redis.call("SET app:session:health kept EX 600", user="sessions")
    # Runs and answers, but takes no writes.
    broken = deployer.deploy(redis.host, **EAGER, redis_extra_config={"min-replicas-to-write": "1"})
    assert broken.returncode == 1
    assert "unhealthy: write: NOREPLICAS" in broken.stderr
    assert "Ready to accept connections" in broken.stderr, "the end of redis.log is not shown"

    mended = deployer.deploy(redis.host, **EAGER)

    assert mended.returncode == 0, mended.stderr
    assert redis.health == "healthy"
    assert redis.call("GET app:session:health", user="sessions") == ["kept"]


@pytest.mark.parametrize(
    ("directive", "value", "words"),
    [
        ("no-such-directive", "1", "'no-such-directive 1'"),
        ("hz", "10 # a comment", "hz 10 # a comment"),
    ],
)
def test_a_configuration_that_redis_does_not_start_with_is_refused_while_the_old_one_serves(
    redis: Instance, deployer: Deployer, directive: str, value: str, words: str
) -> None:
    before = redis.identity
    broken = deployer.deploy(redis.host, **EAGER, redis_extra_config={directive: value})
    assert broken.returncode == 1
    assert words in broken.stderr, "Redis's own words are not shown"
    assert (redis.identity, redis.health) == (before, "healthy")


def test_a_redis_that_ends_again_and_again_is_shown_and_runs_after_the_cause_was_mended(
    redis: Instance, deployer: Deployer
) -> None:
    redis.call("SET app:session:start kept EX 600", user="sessions")
    manifest = "/srv/redis/data/appendonlydir/appendonly.aof.manifest"
    redis.host.run(f"docker stop redis && cp -p {manifest} /root/manifest && echo damaged > {manifest}", check=True)
    broken = deployer.deploy(redis.host, **EAGER)
    assert broken.returncode == 1
    assert "Invalid AOF manifest file format" in broken.stderr, "Redis's own last words are not shown"

    redis.host.run(f"mv /root/manifest {manifest}", check=True)
    mended = deployer.deploy(redis.host, **EAGER)

    assert mended.returncode == 0, mended.stderr
    assert redis.call("GET app:session:start", user="sessions") == ["kept"]
    again = deployer.deploy(redis.host, **EAGER)
    assert (again.returncode, again.changed) == (0, []), again.stderr
