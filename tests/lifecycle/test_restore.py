"""Restores: the data is test loaded first, and the previous data stays.

The previous data comes back if Redis is not healthy.
"""

import time
from collections.abc import Callable, Iterator

import pytest
from rq import Queue

from redisctl.core.journal import Stage
from sandbox.hosts import Host
from tests.deployed_redis import Instance, redisctl, refused, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import empty_instance, remove_instance
from tests.lifecycle.interruption import PAUSE, Step, interrupt, until_paused

KEYS = 2000
ROOT = "/srv/redis"


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """Yield the shared host with an empty Redis and no backups.

    Data and backups are removed again afterwards.
    """
    with empty_instance(host, deployer, "/root/two") as instance:
        yield instance


@pytest.fixture
def filled(redis: Instance) -> Instance:
    """Give the instance with some thousand sessions, and a value of each type."""
    redis.call(*(f"DEL app:session:{number}" for number in range(KEYS + 10)))
    redis.call(
        *(f"SET app:session:{number} {number} EX 7200" for number in range(KEYS)),
        "DEL rq:hash rq:list rq:set rq:zset rq:stream",
        "HSET rq:hash a 1 b 2",
        "RPUSH rq:list 1 2 3",
        "SADD rq:set x y",
        "ZADD rq:zset 1.5 x 2 y",
        "XADD rq:stream 1-1 a b",
    )
    return redis


@pytest.fixture(autouse=True)
def _leaves_a_serving_redis(redis: Instance) -> Iterator[None]:
    """Check that Redis serves after every test, and that nothing is left over.

    No transaction may be unfinished.
    """
    yield
    assert redis.host.run("docker ps --all --quiet | wc -l").stdout.split() == ["1"]
    leftovers = f"ls -d {ROOT}/data/journal.json {ROOT}/data/staging/* {ROOT}/backups/.*.partial"
    assert redis.host.run(leftovers).stdout == ""
    assert redis.call("PING") == ["PONG"]


@pytest.mark.core
def test_backup_is_restored_and_restore_is_undone(filled: Instance) -> None:
    """A backup comes back with every value and TTL.

    The restore can be undone, and the undo as well.
    """
    keys = filled.keys
    backup = redisctl(filled, "backup --no-verify")
    filled.call("DEL app:session:1", "SET app:session:new 1 EX 7200", "RPUSH rq:list 4")
    before = filled.identity

    dry = redisctl(filled, "restore latest")
    assert (dry["dry_run"], dry["keys"]) == (True, keys)
    assert (filled.identity, filled.call("GET app:session:new")) == (before, ["1"])

    result = redisctl(filled, f"restore {backup['id']} --yes")
    print(f"Redis was down for {result['downtime']} s")
    assert result["warning"] == ""
    assert filled.call("EXISTS app:session:1", "EXISTS app:session:new", "LRANGE rq:list 0 -1") == ["1", "0", *"123"]
    assert filled.call("HGETALL rq:hash", "ZSCORE rq:zset x", "XLEN rq:stream") == ["a", "1", "b", "2", "1.5", "1"]
    assert 7000 < int(filled.call("TTL app:session:1")[0]) <= 7200
    # A restart reads the same data.
    filled.crash()
    filled.host.run("docker start redis", check=True)
    filled.wait_until_healthy()
    assert filled.keys == keys

    redisctl(filled, "restore --undo --yes")
    assert filled.call("EXISTS app:session:1", "EXISTS app:session:new") == ["0", "1"]
    redisctl(filled, "restore --undo --yes")
    assert filled.call("EXISTS app:session:1", "EXISTS app:session:new") == ["1", "0"]
    assert redisctl(filled, "restore --discard-previous")["dry_run"]
    redisctl(filled, "restore --discard-previous --yes")
    assert filled.host.run(f"ls {ROOT}/data/previous").stdout == ""
    assert "there is no previous data" in refused(filled, "restore --undo")


def test_backup_is_restored_on_another_host(
    filled: Instance, deployer: Deployer, start_host: Callable[..., Host]
) -> None:
    """A backup is restored on another host, as after the loss of a host.

    A plain dump.rdb and an appendonlydir of any Redis work, too.
    """
    with filled.client("queues", decode_responses=False) as connection:
        job = Queue("mail", connection=connection).enqueue("builtins.abs", -1).id
    backup = redisctl(filled, "backup --no-verify")["id"]
    other = start_host("lifecycle-2")
    assert deployer.deploy(other, redis_maxmemory="64mb").returncode == 0
    second = Instance(other, deployer.secrets(other))
    # Through this machine, because neither host reaches the other.
    archive = filled.host.run(f"tar -C {ROOT}/backups -cz {backup} | base64", check=True).stdout
    other.run("base64 -d | tar -C /root -xz", input=archive, check=True)
    try:
        for source in (f"/root/{backup}", f"/root/{backup}/dump.rdb", f"/root/{backup}/appendonlydir"):
            second.call(*(f"DEL app:session:{number}" for number in range(KEYS)))
            assert redisctl(second, f"restore {source} --yes")["keys"] == filled.keys
            assert second.keys == filled.keys
            with second.client("queues", decode_responses=False) as connection:
                assert Queue("mail", connection=connection).get_job_ids() == [job]
        with second.client("sessions") as connection:
            assert connection.get("app:session:7") == b"7"
    finally:
        remove_instance(other)
        other.run(f"rm -rf /root/{backup}")
        filled.call("DEL rq:queues rq:queue:mail")


@pytest.mark.parametrize(
    ("path", "create", "message"),
    [
        ("/root/none.rdb", "true", "there is no such file"),
        ("/root/no.rdb", "echo Hello >/root/no.rdb", "is neither an RDB snapshot nor an AOF"),
        ("/root/cut.rdb", "head -c 20000 {root}/data/live/dump.rdb >/root/cut.rdb", "it is truncated"),
        (
            "/root/new.rdb",
            "sed 's/^REDIS00../REDIS0099/' {root}/data/live/dump.rdb >$f",
            "in RDB format 99",
        ),
        ("/root/empty", "mkdir -p /root/empty", "has no AOF manifest"),
    ],
)
def test_unusable_data_is_refused_before_redis_stops(filled: Instance, path: str, create: str, message: str) -> None:
    filled.call("SAVE")
    filled.host.run(f"f={path}; {create.format(root=ROOT)}", check=True)
    before = filled.identity
    try:
        assert message in refused(filled, f"restore {path} --yes")
    finally:
        filled.host.run(f"rm -rf {path}")
    assert filled.identity == before


def test_data_larger_than_maxmemory_is_refused(filled: Instance, deployer: Deployer) -> None:
    filled.call(*(f"SET app:session:{n} {'x' * 20000} EX 7200" for n in range(1500)))
    backup = redisctl(filled, "backup --no-verify")["id"]
    filled.call(*(f"DEL app:session:{n}" for n in range(1500)))
    assert deployer.deploy(filled.host, redis_maxmemory="16mb").returncode == 0
    assert "redis_maxmemory is 16.0 MiB" in refused(filled, f"restore {backup} --yes")
    assert deployer.deploy(filled.host).returncode == 0


def test_old_data_returns_if_redis_crashes_with_the_new(filled: Instance) -> None:
    """Redis is killed as soon as it starts with the restored data."""
    backup = redisctl(filled, "backup --no-verify")["id"]
    filled.call("SET app:session:new 1 EX 7200")
    before = filled.keys
    result = filled.host.run(
        f"redisctl restore {backup} --yes & p=$!; "
        f"for _ in $(seq 3000); do grep -qs '\"starting\"' {ROOT}/data/journal.json && break; sleep 0.01; done; "
        "timeout 60 sh -c 'until docker kill redis >/dev/null 2>&1; do :; done'; wait $p; echo code $?"
    )
    assert result.stdout.splitlines()[-1] == "code 3", result.stderr
    assert "The old data is back and Redis serves it" in result.stderr
    assert (filled.keys, filled.call("GET app:session:new")) == (before, ["1"])


@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_cancelled_restore_is_rolled_back(filled: Instance, name: str) -> None:
    """systemd brings the old data back within seconds after a restore is cancelled.

    Ctrl-C or systemd cancels it while Redis is down.
    """
    backup = redisctl(filled, "backup --no-verify")["id"]
    before = filled.keys
    interrupt(filled.host, Step(Stage.STOPPED, PAUSE))
    # A background process of a shell ignores Ctrl-C unless it says otherwise.
    result = filled.host.run(
        "python3 -c 'import signal, os; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f'os.execvp("redisctl", ["redisctl", "restore", "{backup}", "--yes"])\' 2>/tmp/message & p=$!; '
        f"{until_paused(60)}; kill -{name} $p; wait $p; echo $?; cat /tmp/message; rm /tmp/message"
    )
    assert result.stdout.splitlines()[0] == "3"
    assert "was interrupted. The old state comes back by itself within seconds" in result.stdout
    redisctl(filled, "recover")
    filled.wait_until_healthy()
    assert filled.keys == before
    assert redisctl(filled, "recover")["changed"] is False


def test_point_in_time_restore_is_exact_to_the_second(filled: Instance) -> None:
    """A counter counts every 100 ms, and then a person removes everything."""

    def clock() -> float:
        return float(filled.host.run("date +%s.%N").stdout)

    writes: list[tuple[float, int]] = []
    with filled.client("sessions") as connection:
        offset = clock() - time.time()
        for number in range(60):
            connection.set("app:session:counter", number, ex=7200)
            writes.append((time.time() + offset, number))
            time.sleep(0.1)
    accident, before = clock(), filled.keys
    time.sleep(1.1)
    filled.call(*(f"DEL app:session:{number}" for number in range(KEYS)), "DEL app:session:counter")

    second = int(writes[30][0])
    assert redisctl(filled, f"restore --to {second} --yes")["keys"] == before
    backup = redisctl(filled, "backup list")["backups"][0]["id"]
    restored = int(filled.call("GET app:session:counter")[0])
    newest = max(number for at, number in writes if at < second + 1)
    print(f"the last write of the second was {newest}, the restored one is {restored}")
    # The clock of Redis ticks every 100 ms.
    assert abs(restored - newest) <= 2
    # Everything, from a backup that was taken later, by local time.
    local_time = filled.host.run(f"date -d @{int(accident)} '+%F %T'").stdout.strip()
    redisctl(filled, f"restore --to '{local_time}' --yes")
    assert filled.call("GET app:session:counter") == ["59"]
    # An AOF with two increments, as a failed rewrite leaves it. All of the second one is later.
    later = f"#TS:{int(accident) + 60}\\r\\n*3\\r\\n$3\\r\\nSET\\r\\n$8\\r\\nrq:later\\r\\n$1\\r\\n1\\r\\n"
    filled.host.run(
        f"cp -r {ROOT}/backups/{backup}/appendonlydir /root/two && cd /root/two && chmod -R u+w . && "
        f"printf '{later}' >later.incr.aof && echo 'file later.incr.aof seq 99 type i' >>appendonly.aof.manifest",
        check=True,
    )
    redisctl(filled, "restore /root/two --yes")
    assert filled.call("GET rq:later") == ["1"]
    redisctl(filled, f"restore /root/two --to '{local_time}' --yes")
    assert filled.call("GET rq:later", "GET app:session:counter") == ["", "59"]
    assert "this AOF begins at" in refused(filled, "restore --to '2026-01-01 00:00:00' --yes")
    assert "is in the future" in refused(filled, "restore --to '2099-01-01' --yes")
    redisctl(filled, "restore --discard-previous --yes")


def test_point_before_the_last_aof_rewrite_is_refused(filled: Instance) -> None:
    before = time.time() - 100
    filled.host.run(f"rm -r {ROOT}/backups/2*", check=True)
    filled.call("BGREWRITEAOF")
    wait_until(lambda: "aof_rewrite_in_progress:0" in filled.call("INFO persistence"), "no rewrite runs", 20)
    assert "when Redis last rewrote it" in refused(filled, f"restore --to {before:.0f} --yes")
