"""What was written is there after Redis was restarted, however it was written."""

from typing import Any

import pytest

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer
from tests.lifecycle.instance import Instance, wait_until

# As RQ writes all the time: what a script writes is a transaction in the AOF.
SCRIPT = "redis.call('set',KEYS[1],'1') redis.call('set',KEYS[2],'1')"
KEYS = ("rq:plain", "rq:multi:1", "rq:multi:2", "rq:script:1", "rq:script:2", "app:session:1")
# Of no application's: only the administrator writes such a key, and only where the default user is off.
FOREIGN = ("kept:1", "kept:2")


@pytest.mark.parametrize("default_user", [False, True], ids=["default user off", "default user on"])
def test_transactions_and_scripts_outlive_a_crash(host: Host, deployer: Deployer, default_user: bool) -> None:
    """Redis replays its AOF with the default user's rights, and below 8.6 drops transactions that it may not do."""
    settings: dict[str, Any] = {"redis_default_user": default_user}
    result = deployer.deploy(host, **settings)
    assert result.returncode == 0, result.stderr
    redis = Instance(host, deployer.secrets(host))
    redis.call(*(f"DEL {key}" for key in KEYS + FOREIGN))  # of an earlier run
    wanted = list(KEYS)

    redis.call("SET rq:plain 1", "MULTI", "SET rq:multi:1 1", "HSET rq:multi:2 a 1", "EXEC", user="queues")
    (digest,) = redis.call(f'SCRIPT LOAD "{SCRIPT}"', user="queues")
    redis.call(f"EVALSHA {digest} 2 rq:script:1 rq:script:2", user="queues")
    redis.call("MULTI", "SET app:session:1 x", "EXPIRE app:session:1 600", "EXEC", user="sessions")
    if not default_user:
        wanted += FOREIGN
        redis.call("MULTI", "COPY rq:plain kept:1", "SETBIT kept:2 1 1", "EXEC")
    # Killed, so that it saves nothing: what comes back is what the AOF has.
    redis.host.run("docker kill redis && docker start redis", check=True)
    wait_until(lambda: redis.health == "healthy", "Redis is healthy again", 20)

    assert [key for key in wanted if redis.call(f"EXISTS {key}") == ["0"]] == []
    again = deployer.deploy(host, **settings)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_where_the_default_user_is_on_nobody_can_write_what_would_be_lost(host: Host, deployer: Deployer) -> None:
    assert deployer.deploy(host, redis_default_user=True).returncode == 0
    redis = Instance(host, deployer.secrets(host))
    assert redis.call("SET kept:1 x")[0].startswith("NOPERM")
    assert redis.call("MULTI")[0].startswith("NOPERM")
    assert redis.call("GET kept:1")[:1] != ["NOPERM"]


def test_turning_the_aof_on_keeps_what_was_written_without_it(host: Host, deployer: Deployer) -> None:
    """A Redis that starts with the AOF on reads the AOF alone: an old one, or none."""
    assert deployer.deploy(host).returncode == 0
    assert deployer.deploy(host, redis_appendonly=False).returncode == 0
    redis = Instance(host, deployer.secrets(host))
    redis.call("SET rq:before-the-aof 1", user="queues")

    result = deployer.deploy(host)

    assert result.returncode == 0, result.stderr
    assert redis.config("appendonly") == "yes"
    assert redis.call("GET rq:before-the-aof") == ["1"]


def test_a_stopped_redis_with_a_snapshot_alone_is_not_started_empty(host: Host, deployer: Deployer) -> None:
    assert deployer.deploy(host, redis_appendonly=False).returncode == 0
    redis = Instance(host, deployer.secrets(host))
    redis.call("SET rq:in-the-snapshot 1", user="queues")
    host.run("docker stop redis && rm -r /srv/redis/data/appendonlydir", check=True)

    refused = deployer.deploy(host)

    assert refused.returncode != 0
    assert "redis_appendonly = False first" in refused.stderr
    assert deployer.deploy(host, redis_appendonly=False).returncode == 0
    assert deployer.deploy(host).returncode == 0
    assert redis.call("GET rq:in-the-snapshot") == ["1"]
