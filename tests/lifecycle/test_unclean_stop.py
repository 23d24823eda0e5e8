"""Stops that cannot save Redis's newest writes.

Nothing is replaced before a person has agreed to lose them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from redisctl.core.journal import Stage
from sandbox.hosts import Host
from tests.deployed_redis import Instance, redisctl, refused, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import empty_instance
from tests.lifecycle.interruption import Step, interrupt

ROOT = "/srv/redis"
DATA = f"{ROOT}/data"
KEYS = 300
RDB_ONLY: dict[str, Any] = {
    "redis_appendonly": False,
    "redis_save": "3600 1000000000",
    "redis_allow_data_loss": "persistence",
}
# Leaves room for the journal, and for nothing that Redis writes.
FILL = f"head -c $(($(stat -f --format '%a * %S' {DATA}) - 131072)) /dev/zero >{DATA}/filler"

# A write that the AOF has no room for.
UNWRITABLE = (
    'printf "AUTH admin %s\\nSET rq:lost %s\\n" "$(cat /srv/redis/secrets/admin)" '
    '"$(head -c 300000 /dev/zero | tr "\\0" x)" | docker exec -i redis redis-cli -s /run/redis/redis.sock\nsleep 2'
)


def write_unsaved(redis: Instance) -> None:
    """Write more than a full disk takes, and hard to compress."""
    redis.call("SET app:session:new 1 EX 72000")
    with redis.client("queues") as client:
        client.set("rq:large", os.urandom(1_000_000))


@contextmanager
def instance_on_tmpfs(host: Host, deployer: Deployer, **settings: Any) -> Iterator[Instance]:
    """Deploy an instance whose data is on a small disk of its own.

    It has some sessions and a backup of them.
    """
    host.run(f"docker rm -f redis; rm -rf {DATA} {ROOT}/backups; mkdir -p {DATA}", check=True)
    # A deploy does not start without the data of an earlier one.
    host.run(f"mount -t tmpfs -o size=128m,mode=0700 tmpfs {DATA} && mkdir {DATA}/live", check=True)
    try:
        instance = deployer.instance(host, redis_maxmemory="32mb", **settings)
        instance.call(*(f"SET app:session:{number} {number} EX 72000" for number in range(KEYS)))
        redisctl(instance, "backup --no-verify")
        yield instance
    finally:
        host.run(f"docker rm -f redis; umount {DATA}; rm -rf {DATA}/* {ROOT}/backups; mkdir {DATA}/live")


def test_previous_data_has_the_newest_writes_without_aof(host: Host, deployer: Deployer) -> None:
    """The dump.rdb that Redis writes when it stops is part of the previous data.

    This holds also while a BGSAVE writes its temporary file.
    """
    with empty_instance(host, deployer, **RDB_ONLY) as redis:
        redis.call(*(f"SET app:session:{number} {number} EX 72000" for number in range(KEYS)))
        backup = redisctl(redis, "backup --no-verify")["id"]
        # Slow enough to be under way when Redis stops; the other file is from a save that was killed.
        delay = f"{redis.secrets.renamed_command('CONFIG')} SET rdb-key-save-delay"
        redis.call("SET app:session:new 1 EX 72000", f"{delay} 100000", "BGSAVE", f"{delay} 0")
        host.run(f"touch {DATA}/live/temp-1.rdb && chown 999:999 {DATA}/live/temp-1.rdb", check=True)
        assert "rdb_bgsave_in_progress:1" in redis.call("INFO persistence")
        result = redisctl(redis, f"restore {backup} --yes")
        assert (result["warning"], redis.keys) == ("", KEYS)
        assert host.run(f"ls {DATA}/live").stdout.split() == ["dump.rdb"]
        assert "dump.rdb" in host.run(f"ls {DATA}/previous/{result['previous']}").stdout.split()
        redisctl(redis, "restore --undo --yes")
        assert (redis.keys, redis.call("GET app:session:new")) == (KEYS + 1, ["1"])

        # A Redis that does not save when it stops exits with 0, and logs no error.
        redis.call(f"{redis.secrets.renamed_command('CONFIG')} SET shutdown-on-sigterm nosave")
        message = refused(redis, f"restore {backup} --yes")
        assert f"it did not write {DATA}/live/dump.rdb" in message
        assert "Nothing was replaced, and Redis runs again as before" in message
        assert (redis.keys, redis.call("GET app:session:new")) == (KEYS + 1, ["1"])


@pytest.mark.parametrize("settings", [RDB_ONLY, {}], ids=["rdb", "aof"])
def test_restore_is_refused_if_redis_cannot_save(host: Host, deployer: Deployer, settings: dict[str, Any]) -> None:
    """A restore is refused if Redis cannot save its data.

    The disk gets full while Redis is about to stop. It keeps running with everything that it has in memory.
    """
    with instance_on_tmpfs(host, deployer, **settings) as redis:
        write_unsaved(redis)
        before = redis.identity
        backup = redisctl(redis, "backup list")["backups"][0]["id"]
        command = FILL if settings else f"{FILL}\n{UNWRITABLE}"
        interrupt(host, Step(Stage.STOPPING, command))
        message = refused(redis, f"restore {backup} --yes")
        assert "Nothing has changed" in message
        assert "--discard-unsaved" in message
        host.run(f"rm {DATA}/filler")
        assert (redis.identity, redis.call("GET app:session:new")) == (before, ["1"])
        assert host.run(f"ls -A {DATA}").stdout.split() == ["live", "staging"]
        redis.wait_until_healthy()
        # Docker still restarts it after a crash.
        host.run("kill -KILL $(docker inspect --format '{{.State.Pid}}' redis)", check=True)
        wait_until(lambda: redis.identity != before and redis.health == "healthy", "Docker restarts Redis", 120)

        write_unsaved(redis)
        interrupt(host, Step(Stage.STOPPING, command))
        result = redisctl(redis, f"restore {backup} --yes --discard-unsaved")
        assert "Redis did not stop cleanly" in result["warning"]
        host.run(f"rm {DATA}/filler")
        assert redis.keys == KEYS


def test_stop_is_refused_if_redis_cannot_save(host: Host, deployer: Deployer) -> None:
    """A stop is refused if the disks of data and log are full.

    Redis continues to serve, and Docker restarts it after a crash.
    """
    with instance_on_tmpfs(host, deployer, **RDB_ONLY) as redis:
        logs = f"{ROOT}/logs"
        host.run(
            f"mount -t tmpfs -o size=64k,mode=0700,uid=999,gid=999 tmpfs {logs} && docker restart redis", check=True
        )
        try:
            redis.wait_until_healthy()
            write_unsaved(redis)
            host.run(f"{FILL}; head -c 1M /dev/zero >>{logs}/filler", check=False)
            before = redis.identity
            for verb in ("stop", "restart"):
                message = refused(redis, verb)
                assert "it cannot save its data" in message
                assert f"redisctl {verb} --discard-unsaved" in message
                assert (redis.identity, redis.call("PING")) == (before, ["PONG"])
                assert redis.inspect()["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
                assert host.run("systemctl is-enabled redis-backup.timer").stdout == "enabled\n"
                assert host.run(f"ls {DATA}/journal.json").returncode != 0
            message = refused(redis, "remove --yes")
            assert message.startswith("redisctl: nothing was removed: Redis still runs: "), message
            assert "run 'redisctl stop --discard-unsaved'" in message
            assert (redis.identity, redis.call("PING")) == (before, ["PONG"])
            result = redisctl(redis, "stop --discard-unsaved")
            assert "It was killed" in result["messages"][0]
            assert redis.inspect()["State"]["Status"] == "exited"
        finally:
            host.run(f"docker rm -f redis; umount {logs}")


def test_restore_reports_what_a_crashed_redis_lost(host: Host, deployer: Deployer) -> None:
    """The files of a crashed Redis become the previous data as they are.

    Redis is down, or crashes again and again. The restore reports that unsaved writes are lost.
    """
    with empty_instance(host, deployer) as redis:
        redis.call(*(f"SET app:session:{number} {number} EX 72000" for number in range(KEYS)))
        backup = redisctl(redis, "backup --no-verify")["id"]
        files = f"cd {DATA}/live && find . -type f | sort | xargs sha256sum"
        host.run("docker kill redis", check=True)
        before = host.run(files, check=True).stdout
        result = redisctl(redis, f"restore {backup} --yes")
        assert "Redis was not running: it had exited with 137" in result["warning"]
        assert "writes that it had not saved are not in them" in result["warning"]
        assert host.run(files.replace("live", f"previous/{result['previous']}"), check=True).stdout == before
        assert redis.keys == KEYS

        host.run(f"docker stop redis; echo garbage >{DATA}/live/appendonlydir/appendonly.aof.manifest", check=True)
        host.run("docker start redis", check=True)
        wait_until(lambda: int(redis.inspect()["RestartCount"]) > 2, "Docker restarts it again and again", 30)
        result = redisctl(redis, f"restore {backup} --yes")
        assert "Redis was not running: it " in result["warning"]
        manifest = f"{DATA}/previous/{result['previous']}/appendonlydir/appendonly.aof.manifest"
        assert host.run(f"cat {manifest}", check=True).stdout == "garbage\n"
        assert (redis.keys, redis.inspect()["RestartCount"]) == (KEYS, 0)

        # One that a person stopped had saved everything.
        redisctl(redis, "stop")
        result = redisctl(redis, f"restore {backup} --yes")
        assert (result["warning"], redis.keys) == ("", KEYS)
        assert redis.inspect()["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
