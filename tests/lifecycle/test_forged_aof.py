"""Commands that a Redis that was taken over writes into its own AOF.

Redis executes them at the next start, with all rights. What they change in the server does not outlive the start.
"""

import base64
from collections.abc import Callable, Iterator

import pytest

from sandbox.hosts import Host
from tests.aof import BACKDOOR, FUNCTION, MORE_RIGHTS, REPLICA, encode
from tests.deployed_redis import Instance, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import empty_instance

USERS = ["admin", "default", "health", "queues", "sessions"]
WATCH, LOADED = "redis-network-watch.timer", "redis-loaded.service"


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """Give the shared host with a session."""
    with empty_instance(host, deployer, redis_health_interval=3) as instance:
        instance.call("SET app:session:kept 1 EX 7200")
        yield instance
        host.run(f"systemctl start {WATCH}")


def forge(redis: Instance, *commands: tuple[str, ...]) -> None:
    """Append commands to the AOF, as Redis's user in its container."""
    text = base64.b64encode(b"".join(encode(*command) for command in commands)).decode()
    script = f"echo {text} | base64 -d >>$(ls /data/appendonlydir/*.incr.aof)"
    redis.host.run("docker exec -i redis sh -e", input=script, check=True)


def forge_all(redis: Instance) -> None:
    """Forge users, a function, a link, and a configuration in MULTI."""
    config = redis.secrets.renamed_command("CONFIG")
    change = (("MULTI",), (config, "SET", "maxmemory-policy", "noeviction"), ("EXEC",))
    forge(redis, BACKDOOR, MORE_RIGHTS, *change, FUNCTION, REPLICA)


def is_clean(redis: Instance) -> bool:
    """Say whether Redis is as the deploy made it."""
    return (
        redis.call("ACL USERS") == USERS
        and "nopass" not in " ".join(redis.call("ACL LIST"))
        and redis.call("ROLE")[0] == "master"
        and redis.config("maxmemory-policy") == "volatile-lru"
    )


def assert_clean_after_restart(redis: Instance) -> None:
    """Fail if what was undone comes back, or data is lost."""
    wait_until(lambda: "aof_rewrite_in_progress:0" in redis.call("INFO persistence"), "the AOF is rewritten", 20)
    redis.host.run(f"systemctl stop {WATCH}; docker restart redis", check=True)
    redis.wait_until_healthy()
    assert is_clean(redis)
    assert redis.call("GET app:session:kept", "GET app:session:kept") == ["1", "1"]
    # The watch would look at this start later, in the next test.
    redis.host.run(f"systemctl start {WATCH} redis-network-watch.service {LOADED}", check=True)


def restart_by_docker(redis: Instance, _: Deployer) -> str:
    """Docker restarts Redis by itself: health reports it, systemd undoes it.

    The lock keeps systemd away as long as somebody changes the instance.
    """
    host = redis.host
    flock = "flock --close /run/redoubt-redis.lock sleep 600 >/dev/null 2>&1 & echo $!"
    pid = host.run(flock, check=True).stdout
    try:
        host.run("docker restart redis", check=True)
        wait_until(lambda: redis.call("ROLE")[0] == "slave", "the AOF is loaded", 20)
        report = host.run("redisctl health").stdout
        assert "other users than config/users.acl: backdoor" in report
        assert "replica of 127.0.0.1:1" in report
        host.run(f"systemctl start {LOADED}", check=True)
        assert redis.call("ROLE")[0] == "slave"
    finally:
        host.run(f"kill {pid}", check=True)
    wait_until(lambda: is_clean(redis), "systemd undoes what the AOF changed", 40)
    return host.run(f"journalctl --unit {LOADED} --lines 20 --output cat", check=True).stdout


def restart_by_redisctl(redis: Instance, _: Deployer) -> str:
    """A person stops and starts Redis."""
    redis.host.run("redisctl stop", check=True)
    return redis.host.run("redisctl start", check=True, timeout=60).stdout


def restart_by_deploy(redis: Instance, deployer: Deployer) -> str:
    """A deploy replaces the container."""
    redis.host.run("docker rm --force redis", check=True)
    result = deployer.deploy(redis.host, redis_health_interval=3)
    assert result.returncode == 0, result.stderr
    return result.stderr


@pytest.mark.parametrize("restart", [restart_by_docker, restart_by_redisctl, restart_by_deploy])
def test_forged_commands_do_not_outlive_the_start(
    restart: Callable[[Instance, Deployer], str], redis: Instance, deployer: Deployer
) -> None:
    """Users, configuration and role are as the deploy made them.

    Redis rewrites the AOF. A function is data. No user may run it, and health reports it.
    """
    assert is_clean(redis)
    forge_all(redis)
    report = restart(redis, deployer)
    wait_until(lambda: is_clean(redis), "what the AOF changed is undone", 30)
    assert "the data of redis changed the server: other users than config/users.acl: backdoor, sessions" in report
    assert "other values than redis.conf: maxmemory-policy" in report
    assert "a replica of 127.0.0.1:1" in report
    assert "no user may run evil" in redis.host.run("redisctl health").stdout
    assert redis.call("FUNCTION DELETE evil") == ["OK"]
    assert_clean_after_restart(redis)
    wait_until(lambda: "redis is ok" in redis.host.run("redisctl health").stdout, "Redis is healthy", 30)


def persistence(redis: Instance) -> list[str]:
    """Return INFO persistence; nothing while Redis does not listen."""
    try:
        return redis.call("INFO persistence")
    except AssertionError:
        return []


def test_undo_waits_for_data_that_loads_for_seconds(redis: Instance) -> None:
    """Docker starts Redis, and the commands come last."""
    # Redis must not write in between.
    redis.host.run("docker stop redis", check=True)
    text = base64.b64encode(encode(*BACKDOOR)).decode()
    script = rf"""set -e
        aof=$(ls /srv/redis/data/live/appendonlydir/*.incr.aof)
        yes '*1' | head -n 10000000 | sed 's/$/\r\n$4\r\nPING\r/' >>$aof
        echo {text} | base64 -d >>$aof
        docker start redis"""
    redis.host.run("sh", input=script, check=True)
    wait_until(lambda: "loading:1" in persistence(redis), "Redis answers while it loads", 20)
    assert redis.call("ACL USERS") == USERS
    wait_until(lambda: "loading:0" in persistence(redis), "Redis has loaded its data", 60)
    wait_until(lambda: is_clean(redis), "systemd undoes what the AOF changed", 20)
    assert_clean_after_restart(redis)


def test_look_at_a_start_is_not_repeated(redis: Instance) -> None:
    """What a deploy changes later is left to it.

    The rules of the network do not matter.
    """
    wait_until(lambda: redis.host.run("systemctl is-active redis-loaded").stdout.strip() == "inactive", "idle", 20)
    assert redis.call("ACL SETUSER later on") == ["OK"]
    pid = "$(docker inspect --format '{{.State.Pid}}' redis)"
    redis.host.run(f"nsenter --target {pid} --net nft flush ruleset; systemctl start {LOADED}", check=True)
    redis.host.run("systemctl start redis-network-watch.service", check=True)
    assert "later" in redis.call("ACL USERS")
    assert "other users than config/users.acl: later" in redis.host.run("redisctl health").stdout
    assert redis.call("ACL DELUSER later") == ["1"]


def test_admin_that_the_aof_locks_out_is_restored(redis: Instance, deployer: Deployer) -> None:
    """redisctl cannot log in then. A deploy fails and says what helps."""
    redis.host.run("redisctl backup", check=True)
    forge(redis, ("ACL", "SETUSER", "admin", "resetpass", ">another"))
    redis.host.run("docker restart redis", check=True)
    wait_until(lambda: "WRONGPASS" in redis.host.run("redisctl health").stdout, "the AOF is loaded", 20)
    assert "the AOF changes the users" in " ".join(redis.host.run("redisctl health").stdout.split())
    result = deployer.deploy(redis.host, redis_health_interval=3)
    assert result.returncode != 0
    assert "redisctl restore with a backup from before that" in " ".join(result.stderr.split())
    redis.host.run("redisctl restore latest --yes", check=True)
    redis.host.run("redisctl restore --discard-previous --yes", check=True)
    assert is_clean(redis)
    assert redis.call("GET app:session:kept") == ["1"]


def test_restarted_replica_is_a_primary(redis: Instance) -> None:
    """What the health check advises works: a person had made Redis a replica."""
    assert redis.call("ACL SETUSER admin +replicaof", " ".join(REPLICA)) == ["OK", "OK"]
    report = redis.host.run("redisctl health").stdout
    assert "replica of 127.0.0.1:1" in report
    assert "so does redisctl restart" in " ".join(report.split())
    before = redis.identity
    redis.host.run("redisctl restart", check=True)
    assert redis.identity != before
    assert is_clean(redis)
    assert redis.inspect()["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert redis.call("GET app:session:kept") == ["1"]


def test_deploy_makes_a_replica_a_primary(redis: Instance, deployer: Deployer) -> None:
    """The deploy names the role, and does not restart Redis."""
    assert redis.call("ACL SETUSER admin +replicaof", " ".join(REPLICA)) == ["OK", "OK"]
    identity = redis.identity
    result = deployer.deploy(redis.host, redis_health_interval=3)
    assert result.returncode == 0, result.stderr
    assert "redis is a replica of 127.0.0.1:1, and should be a primary" in result.reasons
    assert is_clean(redis)
    assert redis.identity == identity
