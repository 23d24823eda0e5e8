"""What was written is there after Redis was restarted, however it was written."""

from typing import Any
from uuid import uuid4

import pytest

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer
from tests.lifecycle.deployed_redis import Instance, wait_until

# As RQ writes all the time: what a script writes is a transaction in the AOF.
SCRIPT = "redis.call('set',KEYS[1],'1') redis.call('set',KEYS[2],'1')"
KEYS = ("rq:plain", "rq:multi:1", "rq:multi:2", "rq:script:1", "rq:script:2", "app:session:1")
# Of no application's: only the administrator writes such a key, and only where the default user is off.
FOREIGN = ("kept:1", "kept:2")


@pytest.mark.parametrize("default_user", [False, True], ids=["default user off", "default user on"])
def test_transactions_and_scripts_outlive_a_crash(host: Host, deployer: Deployer, default_user: bool) -> None:
    """Redis replays its AOF with the default user's rights, and below 8.6 drops transactions that it may not do."""
    settings: dict[str, Any] = {"redis_enable_default_user": default_user}
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
    redis.crash()
    redis.host.run("docker start redis", check=True)
    wait_until(lambda: redis.health == "healthy", "Redis is healthy again", 20)

    assert [key for key in wanted if redis.call(f"EXISTS {key}") == ["0"]] == []
    again = deployer.deploy(host, **settings)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_a_log_of_writes_that_was_torn_is_mended_at_the_next_start(deployed: Host, deployer: Deployer) -> None:
    """As a power cut may leave it, with the last write there in part: without a hand on it, and not without a word."""
    redis = Instance(deployed, deployer.secrets(deployed))
    kept = uuid4().hex
    redis.call(f"SET rq:torn {kept}", "SET rq:last x", user="queues")
    redis.crash()
    deployed.run(
        "truncate --size=-3 $(ls /srv/redis/data/appendonlydir/*.incr.aof | tail -n 1) && "
        ">/srv/redis/logs/redis.log && docker start redis",
        check=True,
    )
    wait_until(lambda: redis.health == "healthy", "Redis is healthy again", 20)
    assert redis.call("GET rq:torn", user="queues") == [kept]
    assert "loaded anyway because aof-load-truncated is enabled" in deployed.run("cat /srv/redis/logs/redis.log").stdout
    again = deployer.deploy(deployed)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_where_the_default_user_is_on_nobody_can_write_what_would_be_lost(host: Host, deployer: Deployer) -> None:
    assert deployer.deploy(host, redis_enable_default_user=True).returncode == 0
    redis = Instance(host, deployer.secrets(host))
    assert redis.call("SET kept:1 x")[0].startswith("NOPERM")
    assert redis.call("MULTI")[0].startswith("NOPERM")
    assert redis.call("GET kept:1")[:1] != ["NOPERM"]


def test_data_outlives_every_change_of_what_it_is_kept_in(host: Host, deployer: Deployer) -> None:
    """With the AOF on, Redis reads nothing else, however old; with it off, it reads the snapshot, however old."""
    ways: list[dict[str, Any]] = [
        {},
        {"redis_appendonly": False},
        {"redis_save": ""},
        {"redis_appendonly": False},
        {},
    ]
    written: list[str] = []
    # Old files must not hold what this run wrote.
    kept = uuid4().hex
    for number, settings in enumerate(ways):
        result = deployer.deploy(host, redis_allow_data_loss=["persistence"], **settings)
        assert result.returncode == 0, result.stderr
        redis = Instance(host, deployer.secrets(host))
        lost = [key for key in written if redis.call(f"GET {key}", user="queues") != [kept]]
        assert lost == [], f"lost on the way to {settings}"
        written.append(f"rq:way:{number}")
        redis.call(f"SET {written[-1]} {kept}", user="queues")


def test_a_stopped_redis_is_not_started_without_its_data(deployed: Host, deployer: Deployer) -> None:
    """Nobody can ask it to write its data elsewhere: the deploy says which way to go."""
    redis = Instance(deployed, deployer.secrets(deployed))
    kept = uuid4().hex
    redis.call(f"SET rq:stopped {kept}", user="queues")
    for now, then, place in ((True, False, "appendonlydir"), (False, True, "dump.rdb")):
        assert deployer.deploy(deployed, redis_appendonly=now, redis_allow_data_loss=["persistence"]).returncode == 0
        deployed.run("docker stop redis", check=True)

        refused = deployer.deploy(deployed, redis_appendonly=then)

        assert refused.returncode == 1
        assert f"it would start without the data in /srv/redis/data/{place}" in refused.stderr
        assert f"Deploy with redis_appendonly = {now} first" in refused.stderr
        # Refused before anything was changed, so that this is the Redis of before.
        deployed.run("docker start redis", check=True)
        wait_until(lambda: redis.health == "healthy", "Redis is healthy again", 20)
    assert redis.call("GET rq:stopped", user="queues") == [kept]


# Everything that may have another name and that Redoubt itself could want to call.
RENAMED: dict[str, Any] = {
    "redis_renamed_commands": [
        *("CONFIG", "SHUTDOWN", "BGSAVE", "BGREWRITEAOF", "SAVE", "LASTSAVE", "SLOWLOG", "LATENCY", "MEMORY"),
        *("MONITOR", "KEYS", "DBSIZE", "SCAN", "REPLICAOF"),
    ],
    "redis_health_interval": 1,
    "redis_health_retries": 2,
}


def test_all_that_redoubt_does_itself_works_under_other_names(host: Host, deployer: Deployer) -> None:
    result = deployer.deploy(host, **RENAMED, redis_appendonly=False, redis_allow_data_loss="persistence")
    assert result.returncode == 0, result.stderr
    redis = Instance(host, deployer.secrets(host, **RENAMED))
    assert redis.call("BGSAVE")[0].startswith("ERR unknown command")
    redis.call("SET rq:renamed kept", user="queues")

    # A snapshot that failed is taken again: BGSAVE.
    host.run("chown 0:0 /srv/redis/data && chmod 755 /srv/redis/data", check=True)
    redis.call(redis.secrets.renamed_command("BGSAVE"))
    wait_until(lambda: redis.health == "unhealthy", "Redis is unhealthy without its snapshot", 20)
    result = deployer.deploy(host, **RENAMED, redis_appendonly=False, redis_allow_data_loss="persistence")
    assert result.returncode == 0, result.stderr
    # What was changed by hand is seen, and the AOF is written before it is read: CONFIG and INFO.
    redis.call(f"{redis.secrets.renamed_command('CONFIG')} SET maxmemory-samples 3")
    result = deployer.deploy(host, **RENAMED)
    assert result.returncode == 0, result.stderr
    assert "runs with maxmemory-samples = '3'" in result.stderr
    assert redis.config("maxmemory-samples") == "10"
    assert redis.call("GET rq:renamed", user="queues") == ["kept"]
    again = deployer.deploy(host, **RENAMED)
    assert (again.returncode, again.changed) == (0, []), again.stderr
