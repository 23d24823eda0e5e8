"""Persistence: what Redis has acknowledged is there after a stop, a crash and a restart."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from testinfra.host import Host

from redoubt.settings.model import Settings
from tests.host.host_under_test import Target, quoted, until
from tests.host.proc import Kernel


@pytest.fixture(scope="module")
def persistence(admin: Redis) -> dict[str, Any]:
    """INFO persistence."""
    found: dict[str, Any] = admin.info("persistence")
    return found


@pytest.fixture(scope="module")
def data(host: Host, settings: Settings) -> dict[str, str]:
    """Files in the data directory: path to owner."""
    listing = host.check_output(f"find {quoted(settings.root)}/data/live -ignore_readdir_race -type f -printf '%P %U:%G\\n'")
    return dict(line.rsplit(" ", 1) for line in listing.splitlines())


@pytest.mark.parametrize("status", ["rdb_last_bgsave_status", "aof_last_bgrewrite_status", "aof_last_write_status"])
def test_nothing_failed_to_be_written(persistence: dict[str, Any], status: str) -> None:
    """A full disk shows here first."""
    assert persistence[status] == "ok"


def test_writes_are_logged_as_the_settings_say(persistence: dict[str, Any], settings: Settings) -> None:
    """On the running server: CONFIG GET may say yes while the first rewrite has failed."""
    assert bool(persistence["aof_enabled"]) == settings.redis_appendonly


def test_log_of_writes_is_complete_on_disk(host: Host, settings: Settings, data: dict[str, str]) -> None:
    """Every file that its manifest names is there and Redis's own: a missing one is fatal at the next start."""
    directory = f"{quoted(settings.root)}/data/live/appendonlydir"
    manifest = host.run(f"cat {directory}/*.manifest").stdout
    named = re.findall(r"^file (\S+) seq \d+ type [bi]", manifest, re.MULTILINE)
    # A base and what came after it; nothing where there is no log of writes.
    assert len(named) >= 2 * settings.redis_appendonly
    assert [name for name in named if data.get(f"appendonlydir/{name}") != "999:999"] == []


@pytest.mark.writes
def test_a_save_writes_a_dump_that_loads(
    host: Host, target: Target, settings: Settings, sessions: Redis, session_key: str
) -> None:
    """Checked by Redis's own reader of dumps."""
    before = host.run(f"stat -c %i {quoted(settings.root)}/data/live/dump.rdb").stdout.strip()
    sessions.set(session_key, "v", ex=60)
    target.save()
    assert target.admin.info("persistence")["rdb_last_bgsave_status"] == "ok"
    after = host.check_output(f"stat -c '%i %u:%g' {quoted(settings.root)}/data/live/dump.rdb")
    assert after.split()[0] != before
    assert after.split()[1] == "999:999"
    checked = host.run(f"docker exec {quoted(settings.redis_name)} redis-check-rdb /data/dump.rdb")
    assert checked.rc == 0
    assert "RDB looks OK" in checked.stdout


@pytest.fixture
def acknowledged(
    sessions: Redis, queues: Redis, session_key: str, queue_key: str, target: Target
) -> Callable[[], bool]:
    """Writes of both applications that Redis has acknowledged, and a look whether they are there.

    By command, in a transaction and by a script, as Flask-Session and RQ do; of two writes each, which the log keeps
    as a transaction. Without a log of writes, only what was saved has to be there.
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

    def there() -> bool:
        kept = target.client("sessions").get(session_key), target.client("queues").llen(queue_key)
        assert kept == (target.mark, 104)
        return True

    return there


@pytest.mark.writes
@pytest.mark.disrupts
@pytest.mark.usefixtures("back_healthy")
def test_acknowledged_writes_survive_a_crash(target: Target, kernel: Kernel, acknowledged: Callable[[], bool]) -> None:
    """Redis is killed as the kernel would do it, starts again by itself, and has everything."""
    restarts = target.inspect()["RestartCount"]
    target.host.check_output(f"kill -KILL {kernel.processes[-1].pid}")
    until(lambda: target.inspect()["RestartCount"] > restarts)
    target.hang_up()
    until(acknowledged)


@pytest.mark.writes
@pytest.mark.disrupts
@pytest.mark.usefixtures("back_healthy")
def test_a_stop_saves_and_ends_in_good_order(
    target: Target, settings: Settings, acknowledged: Callable[[], bool]
) -> None:
    """As a reboot or an upgrade of the engine stops it. Killed after the grace period, it would end with 137."""
    target.host.check_output(f"docker stop {quoted(settings.redis_name)}")
    assert target.inspect()["State"]["ExitCode"] == 0
    target.host.check_output(f"docker start {quoted(settings.redis_name)}")
    target.hang_up()
    until(acknowledged)
