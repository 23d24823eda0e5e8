"""Data survives restarts, crashes and every switch between AOF and RDB snapshots."""

from typing import Any
from uuid import uuid4

import pytest

from sandbox.hosts import Host
from tests.deployed_redis import Instance, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import assert_no_change

# RQ writes like this all the time: Redis records the writes of a script as a transaction in the AOF.
SCRIPT = "redis.call('set',KEYS[1],'1') redis.call('set',KEYS[2],'1')"
KEYS = ("rq:plain", "rq:multi:1", "rq:multi:2", "rq:script:1", "rq:script:2", "app:session:1")
# Keys of no application: only the administrator can write them, and only while the default user is off.
FOREIGN_KEYS = ("kept:1", "kept:2")

NO_AOF: dict[str, Any] = {"redis_appendonly": False, "redis_allow_data_loss": ["persistence"]}


def wait_until_healthy(redis: Instance) -> None:
    redis.wait_until_healthy()


@pytest.mark.parametrize("default_user", [False, True], ids=["default user off", "default user on"])
def test_transactions_and_scripts_survive_a_crash(host: Host, deployer: Deployer, default_user: bool) -> None:
    """Redis replays its AOF with the default user's rights.

    Below 8.6 it drops transactions that this user may not run.
    """
    redis = deployer.instance(host, redis_enable_default_user=default_user)
    # An earlier run may have left them.
    redis.call(*(f"DEL {key}" for key in KEYS + FOREIGN_KEYS))
    expected = list(KEYS)

    redis.call("SET rq:plain 1", "MULTI", "SET rq:multi:1 1", "HSET rq:multi:2 a 1", "EXEC", user="queues")
    (digest,) = redis.call(f'SCRIPT LOAD "{SCRIPT}"', user="queues")
    redis.call(f"EVALSHA {digest} 2 rq:script:1 rq:script:2", user="queues")
    redis.call("MULTI", "SET app:session:1 x", "EXPIRE app:session:1 600", "EXEC", user="sessions")
    if not default_user:
        expected += FOREIGN_KEYS
        redis.call("MULTI", "COPY rq:plain kept:1", "SETBIT kept:2 1 1", "EXEC")
    redis.crash()
    redis.host.run("docker start redis", check=True)
    wait_until_healthy(redis)

    assert [key for key in expected if redis.call(f"EXISTS {key}") == ["0"]] == []


def test_a_truncated_aof_is_repaired_at_the_next_start(deployed: Host, deployer: Deployer) -> None:
    """Redis starts without an incomplete last write, and its log says so.

    A power cut may leave only a part of the last write.
    """
    redis = Instance(deployed, deployer.secrets(deployed))
    value = uuid4().hex
    redis.call(f"SET rq:torn {value}", "SET rq:last x", user="queues")
    redis.crash()
    deployed.run(
        "truncate --size=-3 $(ls /srv/redis/data/live/appendonlydir/*.incr.aof | tail -n 1) && "
        ">/srv/redis/logs/redis.log && docker start redis",
        check=True,
    )
    wait_until_healthy(redis)
    assert redis.call("GET rq:torn", user="queues") == [value]
    try:
        log = deployed.run("cat /srv/redis/logs/redis.log").stdout
        assert "loaded anyway because aof-load-truncated is enabled" in log
    finally:
        # For a while, health warns about the repair.
        deployed.run(": >/srv/redis/logs/redis.log", check=True)


def test_with_the_default_user_no_write_can_be_lost(host: Host, deployer: Deployer) -> None:
    """Writes that a replay of the AOF would drop are refused from the start."""
    assert deployer.deploy(host, redis_enable_default_user=True).returncode == 0
    redis = Instance(host, deployer.secrets(host))
    assert redis.call("SET kept:1 x")[0].startswith("NOPERM")
    assert redis.call("MULTI")[0].startswith("NOPERM")
    assert not redis.call("GET kept:1")[0].startswith("NOPERM")


def test_data_survives_every_switch_of_the_persistence(host: Host, deployer: Deployer) -> None:
    """Data survives when the AOF or the RDB snapshots are switched on or off.

    With the AOF on, Redis reads only the AOF, however old. With it off, it reads only the RDB snapshot.
    """
    switches: list[dict[str, Any]] = [
        {},
        {"redis_appendonly": False},
        {"redis_save": ""},
        {"redis_appendonly": False},
        {},
    ]
    keys: list[str] = []
    # Old files cannot contain this value.
    value = uuid4().hex
    for number, settings in enumerate(switches):
        redis = deployer.instance(host, redis_allow_data_loss=["persistence"], **settings)
        # The next start is what reads the files.
        host.run("docker restart redis", check=True)
        wait_until_healthy(redis)
        missing = [key for key in keys if redis.call(f"GET {key}", user="queues") != [value]]
        assert missing == [], f"lost with {settings}"
        keys.append(f"rq:switch:{number}")
        redis.call(f"SET {keys[-1]} {value}", user="queues")


def test_a_stopped_redis_does_not_start_without_its_data(deployed: Host, deployer: Deployer) -> None:
    """The deploy refuses to switch a stopped Redis to the other form of persistence.

    A stopped Redis cannot write its data in the other form, so the deploy says which setting comes first.
    """
    redis = Instance(deployed, deployer.secrets(deployed))
    value = uuid4().hex
    redis.call(f"SET rq:stopped {value}", user="queues")
    for appendonly, file in ((True, "appendonlydir"), (False, "dump.rdb")):
        current: dict[str, Any] = {} if appendonly else NO_AOF
        assert deployer.deploy(deployed, **current).returncode == 0
        deployed.run("docker stop redis", check=True)
        try:
            refused = deployer.deploy(deployed, redis_appendonly=not appendonly)
            assert refused.returncode == 1
            assert f"it would start without the data in /srv/redis/data/live/{file}" in refused.stderr
            assert f"deploy with redis_appendonly = {appendonly} first" in refused.stderr
        finally:
            deployed.run("docker start redis", check=True)
        # Nothing was changed, so the old configuration still starts.
        wait_until_healthy(redis)
    assert redis.call("GET rq:stopped", user="queues") == [value]


# Every command that can be renamed and that Redoubt itself may need.
RENAMED: dict[str, Any] = {
    "redis_renamed_commands": [
        *("CONFIG", "SHUTDOWN", "BGSAVE", "BGREWRITEAOF", "SAVE", "LASTSAVE", "SLOWLOG", "LATENCY", "MEMORY"),
        *("MONITOR", "KEYS", "DBSIZE", "SCAN", "REPLICAOF"),
    ],
    "redis_health_interval": 1,
    "redis_health_retries": 2,
}


def test_a_deploy_works_with_renamed_commands(host: Host, deployer: Deployer) -> None:
    redis = deployer.instance(host, **RENAMED, **NO_AOF)
    assert redis.call("BGSAVE")[0].startswith("ERR unknown command")
    redis.call("SET rq:renamed kept", user="queues")

    # BGSAVE: after a failed snapshot the deploy writes another one.
    host.run("chown 0:0 /srv/redis/data/live && chmod 755 /srv/redis/data/live", check=True)
    redis.call(redis.secrets.renamed_command("BGSAVE"))
    wait_until(lambda: redis.health == "unhealthy", "Redis is unhealthy without its snapshot", 20)
    result = deployer.deploy(host, **RENAMED, **NO_AOF)
    assert result.returncode == 0, result.stderr
    # CONFIG and INFO: the deploy sees a manual change, and has Redis write an AOF before it reads only that.
    redis.call(f"{redis.secrets.renamed_command('CONFIG')} SET maxmemory-samples 3")
    result = deployer.deploy(host, **RENAMED)
    assert result.returncode == 0, result.stderr
    assert "runs with maxmemory-samples = '3'" in result.stderr
    assert redis.config("maxmemory-samples") == "10"
    assert redis.call("GET rq:renamed", user="queues") == ["kept"]


def test_fewer_databases_lose_and_change_no_key(deployed: Host, deployer: Deployer) -> None:
    """An AOF selects databases that Redis no longer has.

    Redis would run the commands that follow in another database.
    """
    redis = deployer.instance(deployed, redis_databases=20)
    try:
        redis.call("SET kept:1 x", "SELECT 19", "SET kept:1 y")
        result = deployer.deploy(deployed, redis_databases=4)
        assert "redis_databases = 4, but db19 of redis has keys" in result.stderr
        assert "Nothing was changed on any host" in result.stderr
        redis.call("SELECT 19", "DEL kept:1")
        result = deployer.deploy(deployed, redis_databases=4)
        assert result.returncode == 0, result.stderr
        assert (redis.call("GET kept:1"), redis.config("databases")) == (["x"], "4")
        assert "rewrites the AOF without databases that it loses" in result.stderr
        assert_no_change(deployer, deployed, redis_databases=4)
    finally:
        redis.call("DEL kept:1")
