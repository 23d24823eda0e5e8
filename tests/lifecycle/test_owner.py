"""The user that Redis runs as, and what it leaves on the host."""

from collections.abc import Iterator
from typing import Any

import pytest

from redisctl.core.journal import Stage
from sandbox.hosts import Host
from tests.deployed_redis import Instance, redisctl, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import assert_no_change
from tests.lifecycle.interruption import KILL, Step, interrupt, is_finished, wait_until_recovered

LIVE = "/srv/redis/data/live"
CHANGE = "Owner | Give the files to the user of Redis"
# No account of the image and of the host has these numbers.
OTHER: dict[str, Any] = {"redis_uid": 20001, "redis_gid": 20002}


@pytest.fixture
def backup(redis: Instance, deployer: Deployer) -> Iterator[str]:
    """Give the id of a backup with the kept session.

    The files belong to 999 again afterwards.
    """
    yield str(redisctl(redis, "backup")["id"])
    assert deployer.deploy(redis.host).returncode == 0
    redis.host.run("rm -r /srv/redis/backups/2*", check=True)


def owners(redis: Instance) -> set[str]:
    """Return the owners of all files below the root that are not root's."""
    listing = redis.host.run("find /srv/redis -not -user 0 -printf '%U:%G\\n'", check=True).stdout
    return set(listing.split())


def test_account_with_redis_number_is_refused(deployed: Host, deployer: Deployer) -> None:
    """A deploy names the account and a free number, and changes nothing."""
    deployed.run("useradd --uid 999 --no-create-home intruder", check=True)
    try:
        result = deployer.deploy(deployed)
    finally:
        deployed.run("userdel intruder", check=True)
    assert result.returncode == 1
    assert "redis_uid = 999 is the account intruder of the host" in result.stderr
    assert "set redis_uid and redis_gid to a free number, such as 59999" in result.stderr
    assert "Nothing was changed on any host" in result.stderr


def test_crash_leaves_no_core_dump(redis: Instance) -> None:
    """Its dump would hold all sessions. Docker starts Redis again."""
    before = redis.host.run(f"ls -A {LIVE}", check=True).stdout
    restarts = redis.inspect()["RestartCount"]
    redis.host.run("kill -SEGV $(pgrep --exact redis-server)", check=True)
    wait_until(lambda: redis.inspect()["RestartCount"] > restarts, "Docker starts Redis again", 30)
    redis.wait_until_healthy()
    redis.host.run("grep -q 'crashed by signal: 11' /srv/redis/logs/redis.log", check=True)
    assert redis.host.run(f"ls -A {LIVE}", check=True).stdout == before
    assert redis.call("GET app:session:kept") == ["1"]


def test_change_of_the_user_survives_a_kill(redis: Instance, deployer: Deployer, backup: str) -> None:
    """A change that is killed between two files finishes by itself.

    The next deploy finishes the rest, and a backup with other owners can be verified and restored.
    """
    # As if the power had failed between two files: the new user owns one of them.
    half = f"chown {OTHER['redis_uid']} {LIVE}/appendonlydir/*.manifest"
    interrupt(redis.host, Step(Stage.GIVING_FILES, half), Step(Stage.STARTING, KILL))
    result = deployer.deploy(redis.host, **OTHER)
    assert result.returncode == 1
    assert "Killed" in result.stderr
    wait_until_recovered(redis.host)
    redis.wait_until_healthy()
    assert owners(redis) == {"20001:20002"}
    assert redis.call("GET app:session:kept") == ["1"]

    result = deployer.deploy(redis.host, **OTHER)
    assert result.returncode == 0, result.stderr
    assert CHANGE not in result.changed
    assert redis.inspect()["Config"]["User"] == "20001:20002"
    assert owners(redis) == {"20001:20002"}
    assert_no_change(deployer, redis.host, **OTHER)

    redis.host.run(f"chown -R 999:999 /srv/redis/backups/{backup}", check=True)
    redis.call("DEL app:session:kept")
    redis.host.run(f"redisctl restore {backup} --yes", check=True)
    assert redis.call("GET app:session:kept") == ["1"]
    redis.host.run(f"redisctl backup verify {backup}", check=True)
    assert owners(redis) == {"20001:20002"}


def test_change_of_the_user_is_rolled_back(redis: Instance, deployer: Deployer) -> None:
    """If Redis does not start as the new user, it runs as the old one again."""
    interrupt(
        redis.host,
        Step(Stage.STARTING, "chmod 000 /srv/redis/config"),
        Step(Stage.ROLLING_BACK, "chmod 700 /srv/redis/config"),
    )
    result = deployer.deploy(redis.host, **OTHER)
    assert result.returncode == 1
    assert "Redis does not start as 20001:20002" in result.stderr
    assert "Redis runs as the old user again, with its files" in result.stderr
    assert is_finished(redis.host)
    redis.wait_until_healthy()
    assert (redis.health, redis.inspect()["Config"]["User"], owners(redis)) == ("healthy", "999:999", {"999:999"})
    assert redis.call("GET app:session:kept") == ["1"]
