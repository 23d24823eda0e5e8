"""Restores: what comes is loaded aside first, what was there stays, and a Redis that is not well gets its data back."""

import time
from collections.abc import Callable, Iterator

import pytest
from rq import Queue

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer, empty_instance
from tests.lifecycle.deployed_redis import Instance, redisctl, refused, wait_until

KEYS = 2000
ROOT = "/srv/redis"


# On the host: restores a backup, and kills that as soon as the journal has a stage. Some last for a few milliseconds:
# where one was missed it is done again, from the same data.
KILL = """
import os, re, subprocess, sys
stage, backup = sys.argv[1:]
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
for _ in range(8):
    process = subprocess.Popen(["redisctl", "restore", backup, "--yes"], **quiet)
    hurt = False
    while process.poll() is None:
        try:
            with open("/srv/redis/replace.json") as file:
                at = re.search('"stage": "(.*)"', file.read())
        except FileNotFoundError:
            continue
        if at and at[1] == stage:
            process.kill()
        elif at and at[1] == "starting" and stage == "putting back" and not hurt:
            hurt = subprocess.run(["docker", "kill", "redis"], capture_output=True).returncode == 0
    if process.wait() == -9 and os.path.exists("/srv/redis/replace.json"):
        print("killed")
        break
    if stage != "putting back":
        subprocess.run(["redisctl", "restore", "--undo", "--yes"], check=True, stdout=subprocess.DEVNULL)
"""


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """The shared host with an empty Redis and no backups; so again afterwards."""
    with empty_instance(host, deployer) as instance:
        yield instance


@pytest.fixture
def filled(redis: Instance) -> Instance:
    """Some thousand sessions, a value of each kind, and a job."""
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
def _serves_and_is_told_so(redis: Instance) -> Iterator[None]:
    """Whatever a test does: Redis serves afterwards, nothing is under way, and a deploy has nothing to change."""
    yield
    assert redis.host.run("docker ps --all --quiet | wc -l").stdout.split() == ["1"]
    assert redis.host.run(f"ls -d {ROOT}/replace.json {ROOT}/data/.incoming {ROOT}/backups/.*.partial").stdout == ""
    assert redis.call("PING") == ["PONG"]


def test_a_backup_comes_back_and_what_it_replaced_can_come_back_as_well(filled: Instance, deployer: Deployer) -> None:
    taken = redisctl(filled, "backup --no-verify")
    filled.call("DEL app:session:1", "SET app:session:new 1 EX 7200", "RPUSH rq:list 4")
    before = filled.identity

    dry = redisctl(filled, "restore latest")
    assert (dry["dry_run"], dry["keys"]) == (True, taken["keys"])
    assert (filled.identity, filled.call("GET app:session:new")) == (before, ["1"])

    done = redisctl(filled, f"restore {taken['id']} --yes")
    print(f"did not serve for {done['down']} s")
    assert filled.call("EXISTS app:session:1", "EXISTS app:session:new", "LRANGE rq:list 0 -1") == ["1", "0", *"123"]
    assert filled.call("HGETALL rq:hash", "ZSCORE rq:zset x", "XLEN rq:stream") == ["a", "1", "b", "2", "1.5", "1"]
    assert 7000 < int(filled.call("TTL app:session:1")[0]) <= 7200
    # It is what a restart reads, too.
    filled.crash()
    filled.host.run("docker start redis", check=True)
    wait_until(lambda: filled.health == "healthy", "Redis is healthy", 30)
    assert filled.keys == taken["keys"]
    assert deployer.deploy(filled.host).changed == []

    redisctl(filled, "restore --undo --yes")
    assert filled.call("EXISTS app:session:1", "EXISTS app:session:new") == ["0", "1"]
    redisctl(filled, "restore --undo --yes")
    assert filled.call("EXISTS app:session:1", "EXISTS app:session:new") == ["1", "0"]
    assert redisctl(filled, "restore --discard-previous")["dry_run"]
    redisctl(filled, "restore --discard-previous --yes")
    assert filled.host.run(f"ls {ROOT}/data/previous").stdout == ""
    assert "there is no former data" in refused(filled, "restore --undo")


def test_a_backup_is_restored_on_another_host_with_other_secrets(
    filled: Instance, deployer: Deployer, start_host: Callable[..., Host]
) -> None:
    """As after the loss of a host; and a plain dump.rdb and an appendonlydir, as any Redis leaves them."""
    with filled.client("queues", decode_responses=False) as connection:
        job = Queue("mail", connection=connection).enqueue("builtins.abs", -1).id
    taken = redisctl(filled, "backup --no-verify")["id"]
    other = start_host("lifecycle-2")
    assert deployer.deploy(other, redis_maxmemory="64mb").returncode == 0
    second = Instance(other, deployer.secrets(other))
    # Through this machine: neither has a way to the other.
    packed = filled.host.run(f"tar -C {ROOT}/backups -cz {taken} | base64", check=True).stdout
    other.run("base64 -d | tar -C /root -xz", input=packed, check=True)
    try:
        for source in (f"/root/{taken}", f"/root/{taken}/dump.rdb", f"/root/{taken}/appendonlydir"):
            second.call(*(f"DEL app:session:{number}" for number in range(KEYS)))
            assert redisctl(second, f"restore {source} --yes")["keys"] == filled.keys
            assert second.keys == filled.keys
            with second.client("queues", decode_responses=False) as connection:
                assert Queue("mail", connection=connection).get_job_ids() == [job]
        with second.client("sessions") as connection:
            assert connection.get("app:session:7") == b"7"
    finally:
        other.run(f"rm -rf /root/{taken}; docker rm -f redis; rm -rf {ROOT}")
        filled.call("DEL rq:queues rq:queue:mail")


@pytest.mark.parametrize(
    ("path", "make", "words"),
    [
        ("/root/none.rdb", "true", "there is no such file"),
        ("/root/no.rdb", "echo Hello >/root/no.rdb", "is no snapshot of Redis"),
        ("/root/cut.rdb", "head -c 20000 {root}/data/dump.rdb >/root/cut.rdb", "it cannot be loaded"),
        ("/root/new.rdb", "sed 's/^REDIS00../REDIS0099/' {root}/data/dump.rdb >/root/new.rdb", "format version 99"),
        ("/root/empty", "mkdir -p /root/empty", "has no appendonly.aof.manifest"),
    ],
)
def test_what_cannot_be_restored_is_refused_beforehand(filled: Instance, path: str, make: str, words: str) -> None:
    filled.call("SAVE")
    filled.host.run(make.format(root=ROOT), check=True)
    before = filled.identity
    try:
        assert words in refused(filled, f"restore {path} --yes")
    finally:
        filled.host.run(f"rm -rf {path}")
    assert filled.identity == before


def test_data_that_redis_has_no_memory_for_is_refused(filled: Instance, deployer: Deployer) -> None:
    filled.call(*(f"SET app:session:{n} {'x' * 20000} EX 7200" for n in range(1500)))
    taken = redisctl(filled, "backup --no-verify")["id"]
    filled.call(*(f"DEL app:session:{n}" for n in range(1500)))
    assert deployer.deploy(filled.host, redis_maxmemory="16mb").returncode == 0
    assert "redis_maxmemory is 16.0 MiB" in refused(filled, f"restore {taken} --yes")
    assert deployer.deploy(filled.host).returncode == 0


def test_a_redis_that_does_not_stay_up_with_the_new_data_gets_the_former_back(filled: Instance) -> None:
    """It is killed as soon as it starts."""
    taken = redisctl(filled, "backup --no-verify")["id"]
    filled.call("SET app:session:new 1 EX 7200")
    before = filled.keys
    done = filled.host.run(
        f"redisctl restore {taken} --yes & p=$!; "
        f"for _ in $(seq 3000); do grep -qs starting {ROOT}/replace.json && break; sleep 0.01; done; "
        "until docker kill redis >/dev/null 2>&1; do :; done; wait $p; echo code $?"
    )
    assert done.stdout.splitlines()[-1] == "code 3", done.stderr
    assert "What was there before is back and serves" in done.stderr
    assert (filled.keys, filled.call("GET app:session:new")) == (before, ["1"])


@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_a_restore_that_is_called_off_halfway_says_what_to_do(filled: Instance, name: str) -> None:
    """By Ctrl-C or systemd, while Redis is stopped: not a word about it would leave it stopped."""
    taken = redisctl(filled, "backup --no-verify")
    before = filled.keys
    # A shell has what runs behind it ignore Ctrl-C.
    done = filled.host.run(
        "python3 -c 'import signal, os, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f'os.execvp("redisctl", ["redisctl", "restore", "{taken["id"]}", "--yes"])\' 2>/tmp/said & p=$!; '
        f"for _ in $(seq 20000); do grep -qs moving {ROOT}/replace.json && break; done; "
        f"kill -{name} $p; wait $p; echo $?; cat /tmp/said; rm /tmp/said"
    )
    assert done.stdout.splitlines()[0] == "3"
    assert "was broken off, Redis may not serve: redisctl recover" in done.stdout
    health = filled.host.run("redisctl health").stdout
    assert ("redisctl recover" in health, "docker compose up" in health) == (True, False)
    assert redisctl(filled, "recover")["recovered"]
    assert filled.keys == before
    assert not filled.host.run(f"ls -A {ROOT}/data/.incoming 2>/dev/null").stdout


@pytest.mark.parametrize("stage", ["moving away", "moving in", "starting", "putting back"])
def test_a_restore_that_is_killed_is_told_and_recovered(filled: Instance, deployer: Deployer, stage: str) -> None:
    """At any point: a journal says where it was, health tells, and one command puts the former data back."""
    taken = redisctl(filled, "backup --no-verify")
    filled.call("SET app:session:new 1 EX 7200")
    before = filled.keys
    # The way back is begun by a Redis that is killed.
    said = filled.host.run(f"python3 - '{stage}' {taken['id']}", input=KILL).stdout
    assert said == "killed\n"
    health = filled.host.run("redisctl health")
    assert (health.returncode, "redisctl recover" in health.stdout) == (2, True)
    for line in (f"restore {taken['id']} --yes", "backup"):
        assert "was broken off" in refused(filled, line)
    blocked = deployer.deploy(filled.host)
    assert blocked.returncode != 0
    assert "redisctl recover" in blocked.stderr

    assert redisctl(filled, "recover")["recovered"]
    assert (filled.keys, filled.call("GET app:session:new")) == (before, ["1"])
    assert not redisctl(filled, "recover")["recovered"]
    assert redisctl(filled, f"restore {taken['id']} --yes")["keys"] == taken["keys"]
    redisctl(filled, "restore --discard-previous --yes")


def test_a_moment_comes_back_to_the_second(filled: Instance) -> None:
    """A counter that counts once in 100 ms, and somebody who then removes everything."""

    def clock() -> float:
        return float(filled.host.run("date +%s.%N").stdout)

    written: list[tuple[float, int]] = []
    with filled.client("sessions") as connection:
        ahead = clock() - time.time()
        for number in range(60):
            connection.set("app:session:counter", number, ex=7200)
            written.append((time.time() + ahead, number))
            time.sleep(0.1)
    accident, before = clock(), filled.keys
    time.sleep(1.1)
    filled.call(*(f"DEL app:session:{number}" for number in range(KEYS)), "DEL app:session:counter")

    moment = int(written[30][0])
    assert redisctl(filled, f"restore --to {moment} --yes")["keys"] == before
    taken = redisctl(filled, "backup list")["backups"][0]["id"]
    found = int(filled.call("GET app:session:counter")[0])
    last = max(number for at, number in written if at < moment + 1)
    print(f"asked for the end of a second in which {last} was the last; it is {found}")
    # The server's clock ticks once in 100 ms.
    assert abs(found - last) <= 2
    # The whole of it from a backup that was taken later, by the time that people write.
    words = filled.host.run(f"date -d @{int(accident)} '+%F %T'").stdout.strip()
    redisctl(filled, f"restore --to '{words}' --yes")
    assert filled.call("GET app:session:counter") == ["59"]
    # A log in two parts, as a rewrite that failed leaves it: the later one is all of a later time.
    later = f"#TS:{int(accident) + 60}\\r\\n*3\\r\\n$3\\r\\nSET\\r\\n$8\\r\\nrq:later\\r\\n$1\\r\\n1\\r\\n"
    filled.host.run(
        f"cp -r {ROOT}/backups/{taken}/appendonlydir /root/two && cd /root/two && chmod -R u+w . && "
        f"printf '{later}' >later.incr.aof && echo 'file later.incr.aof seq 99 type i' >>appendonly.aof.manifest",
        check=True,
    )
    redisctl(filled, "restore /root/two --yes")
    assert filled.call("GET rq:later") == ["1"]
    redisctl(filled, f"restore /root/two --to '{words}' --yes")
    assert filled.call("GET rq:later", "GET app:session:counter") == ["", "59"]
    filled.host.run("rm -r /root/two")
    assert "this log of writes begins at" in refused(filled, "restore --to '2026-01-01 00:00:00' --yes")
    assert "is yet to come" in refused(filled, "restore --to '2099-01-01' --yes")
    redisctl(filled, "restore --discard-previous --yes")


def test_a_log_that_was_rewritten_after_the_moment_says_what_there_is(filled: Instance) -> None:
    before = time.time() - 100
    filled.host.run(f"rm -r {ROOT}/backups/2*", check=True)
    filled.call("BGREWRITEAOF")
    wait_until(lambda: "aof_rewrite_in_progress:0" in filled.call("INFO persistence"), "no rewrite runs", 20)
    assert "when Redis last rewrote it" in refused(filled, f"restore --to {before:.0f} --yes")
