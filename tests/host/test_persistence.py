"""Persistence: acknowledged writes survive a stop, a crash and a restart."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from testinfra.host import Host

from redoubt.settings.model import Settings
from tests.host.host_under_test import Target, by_redis, listed, quoted, until
from tests.host.proc import Kernel


@pytest.fixture(scope="module")
def persistence(admin: Redis) -> dict[str, Any]:
    """Return the answer to INFO persistence."""
    info: dict[str, Any] = admin.info("persistence")
    return info


@pytest.fixture(scope="module")
def data(host: Host, settings: Settings) -> dict[str, str]:
    """Return the owner of each file below data/live, by relative path."""
    find = f"find {quoted(settings.root)}/data/live -ignore_readdir_race -type f -printf '%P %U:%G\\0'"
    return dict(entry.rsplit(" ", 1) for entry in listed(host, find))


@pytest.mark.parametrize("status", ["rdb_last_bgsave_status", "aof_last_bgrewrite_status", "aof_last_write_status"])
def test_last_write_to_disk_succeeded(persistence: dict[str, Any], status: str) -> None:
    """A full disk fails here first."""
    assert persistence[status] == "ok"


def test_aof_is_on_or_off_as_the_settings_say(persistence: dict[str, Any], settings: Settings) -> None:
    """INFO reports it: CONFIG GET says yes even if the first rewrite failed."""
    assert bool(persistence["aof_enabled"]) == settings.redis_appendonly


def test_aof_is_complete_on_disk(host: Host, settings: Settings, data: dict[str, str]) -> None:
    """Each file in the manifest exists and belongs to Redis.

    Redis does not start without these files.
    """
    # Of data/, only root can enter it.
    read = by_redis(
        settings,
        "find appendonlydir -type f -name '*.manifest' -exec cat {} + | head -c 1048576",
        directory=f"{settings.root}/data/live",
    )
    manifest = host.run(read).stdout
    names = re.findall(r"^file (\S+) seq \d+ type [bi]", manifest, re.MULTILINE)
    # A base and at least one increment, or no AOF at all.
    assert len(names) >= 2 * settings.redis_appendonly
    assert [name for name in names if data.get(f"appendonlydir/{name}") != settings.owner] == []


@pytest.mark.writes
def test_save_writes_a_valid_rdb_snapshot(
    host: Host, target: Target, settings: Settings, sessions: Redis, session_key: str
) -> None:
    """redis-check-rdb accepts the snapshot."""
    inode = host.run(f"stat -c %i {quoted(settings.root)}/data/live/dump.rdb").stdout.strip()
    sessions.set(session_key, "v", ex=60)
    target.save()
    assert target.admin.info("persistence")["rdb_last_bgsave_status"] == "ok"
    attributes = host.check_output(f"stat -c '%i %u:%g %a' {quoted(settings.root)}/data/live/dump.rdb")
    new_inode, owner, mode = attributes.split()
    assert new_inode != inode
    assert (owner, mode) == (settings.owner, "600")
    check = host.run(f"docker exec {quoted(settings.redis_name)} redis-check-rdb /data/dump.rdb")
    assert check.rc == 0
    assert "RDB looks OK" in check.stdout


@pytest.fixture
def acknowledged(
    sessions: Redis, queues: Redis, session_key: str, queue_key: str, target: Target
) -> Callable[[], bool]:
    """Write as both applications do, and return a check of these writes.

    The check fails unless all acknowledged writes are present. Redis gets commands, a transaction and a script, as from
    Flask-Session and RQ. The AOF keeps the two writes of a transaction or a script together. Without an AOF the writes
    are saved to a snapshot.
    """
    assert sessions.set(session_key, target.mark, ex=600)
    assert queues.rpush(queue_key, *map(str, range(100))) == 100
    with queues.pipeline(transaction=True) as transaction:
        transaction.rpush(queue_key, "in a")
        transaction.rpush(queue_key, "transaction")
        transaction.execute()
    script = "redis.call('RPUSH', KEYS[1], 'by a') return redis.call('RPUSH', KEYS[1], 'script')"
    queues.evalsha(queues.script_load(script), 1, queue_key)
    if not target.settings.redis_appendonly:
        target.save()

    def is_present() -> bool:
        values = target.client("sessions").get(session_key), target.client("queues").llen(queue_key)
        assert values == (target.mark, 104)
        return True

    return is_present


@pytest.mark.writes
@pytest.mark.disrupts
@pytest.mark.usefixtures("back_healthy")
def test_acknowledged_writes_survive_a_crash(target: Target, kernel: Kernel, acknowledged: Callable[[], bool]) -> None:
    """After SIGKILL, Redis starts again by itself and has everything."""
    restarts = target.inspect()["RestartCount"]
    target.host.check_output(f"kill -KILL {kernel.processes[-1].pid}")
    until(lambda: target.inspect()["RestartCount"] > restarts)
    target.hang_up()
    until(acknowledged)


@pytest.mark.writes
@pytest.mark.disrupts
@pytest.mark.usefixtures("back_healthy")
def test_stop_is_clean_and_keeps_all_writes(
    target: Target, settings: Settings, acknowledged: Callable[[], bool]
) -> None:
    """Redis exits with 0 when Docker stops it, as a reboot does.

    Docker's SIGKILL would make it 137.
    """
    target.host.check_output(f"docker stop {quoted(settings.redis_name)}")
    assert target.inspect()["State"]["ExitCode"] == 0
    target.host.check_output(f"docker start {quoted(settings.redis_name)}")
    target.hang_up()
    until(acknowledged)
