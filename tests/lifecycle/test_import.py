"""redisctl import: from a Redis that Debian installed on the host years ago, with writers, and from others beside.

The old one is Debian 11's Redis 6.0, with users, from its own package. It does not tell the moments at which keys end.
"""

import json
import operator
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue, Worker
from rq.job import Job

from sandbox import base_image
from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer, empty_instance
from tests.lifecycle.deployed_redis import Instance, tunnel, wait_until
from tests.lifecycle.test_secrets_exposure import KnownSecrets, watch_processes

OLD = "5:6.0.16-1+deb11u2"
PORT, BESIDE = 6390, 6391
RIGHTS = "+psync +replconf +ping +info +select +time +@read"
SESSIONS, LIFETIME = 2000, 3600

# Started by the package's own unit, as somebody left it.
INSTALL = f"""
set -e
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d
echo 'deb {base_image.mirrors()["MIRROR"]} bullseye main' >/etc/apt/sources.list.d/old.list
apt-get update -qq
apt-get install -y -qq --no-install-recommends redis-server={OLD} redis-tools={OLD}
rm /usr/sbin/policy-rc.d
sed -i 's/^port .*/port {PORT}/; s/^save .*//' /etc/redis/redis.conf
{{ echo 'save ""'; cat; }} >>/etc/redis/redis.conf
systemctl restart redis-server
"""
REMOVE = """
apt-get purge -y -qq --autoremove redis-server redis-tools
rm -rf /etc/apt/sources.list.d/old.list /var/lib/apt/lists/* /var/lib/redis /var/log/redis /etc/redis
"""


@dataclass(frozen=True)
class Word:
    """What is typed where a password is asked for. An assertion that fails does not show it."""

    text: str = field(default="", repr=False)


@dataclass(frozen=True)
class Old:
    """The Redis whose data is to come, and the passwords of its users."""

    host: Host
    passwords: dict[str, str] = field(repr=False)

    def word(self, user: str) -> Word:
        """A user's password."""
        return Word(self.passwords[user])

    @contextmanager
    def client(self, db: int = 0) -> Iterator[Redis]:
        """Its administrator, from this machine."""
        with tunnel(self.host, "127.0.0.1", PORT) as path:
            options: dict[str, Any] = {"db": db, "retry": Retry(NoBackoff(), 0), "password": self.passwords["default"]}
            with Redis(unix_socket_path=str(path), **options) as client:
                yield client


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """The shared host with an empty Redis; empty again afterwards."""
    with empty_instance(host, deployer) as instance:
        yield instance
        host.run("redisctl import cancel")


@pytest.fixture(scope="module")
def old(redis: Instance) -> Iterator[Old]:
    """Debian's Redis of years ago on the host, with sessions, jobs, all types and several databases."""
    passwords = {user: secrets.token_hex(16) for user in ("default", "mover", "reader")}
    rules = {"default": "+@all", "mover": RIGHTS, "reader": "+@read +@connection +info +time"}
    users = "".join(f"user {name} on >{passwords[name]} ~* {rule}\n" for name, rule in rules.items())
    redis.host.run(INSTALL, input=users, check=True)
    found = Old(redis.host, passwords)
    fill(found)
    yield found
    redis.host.run(REMOVE, check=True)


def fill(old: Old) -> None:
    with old.client() as client, client.pipeline(transaction=False) as pipeline:
        for number in range(SESSIONS):
            pipeline.set(f"app:session:{number}", f"somebody {number}", ex=LIFETIME + number)
        # Some end while they are looked at.
        for number in range(200):
            pipeline.set(f"app:session:short{number}", "soon", px=2000 + 50 * number)
            pipeline.set(f"app:session:ended{number}", "logged out later", ex=LIFETIME)
        pipeline.execute()
        Queue("mail", connection=client).enqueue(operator.add, "moved", " here", job_id="moved")
    with old.client(3) as client, client.pipeline(transaction=False) as pipeline:
        pipeline.set("text", "caf\u00e9", px=LIFETIME * 1000)
        pipeline.set(b"\xff\x00bytes", b"\x00\xfe")
        pipeline.rpush("list", *range(50))
        pipeline.hset("hash", mapping={f"field{number}": number for number in range(700)})
        pipeline.sadd("set", *(f"member{number}" for number in range(700)))
        pipeline.sadd("numbers", *range(40))
        pipeline.zadd("zset", {"third": 1 / 3, "large": 1e300, "none": 0.0})
        for number in range(20):
            pipeline.xadd("stream", {"number": str(number)})
        pipeline.xgroup_create("stream", "readers", id="0")
        pipeline.set("large", "x" * 200_000)
        pipeline.execute()


def start(redis: Instance, password: Word, *words: str) -> subprocess.CompletedProcess[str]:
    return redis.host.run(f"redisctl import start {' '.join(words)}", input=password.text)


def said(redis: Instance, words: str) -> dict[str, Any]:
    """What a verb says in JSON, when it succeeds."""
    told: dict[str, Any] = json.loads(redis.host.run(f"redisctl import {words} --json", check=True).stdout)
    return told


def on_copy(redis: Instance, *commands: str) -> str:
    script = "\n".join([*commands, ""])
    return redis.host.run("docker exec -i redis-import redis-cli -s /run/redis/redis.sock", input=script).stdout


def nothing_is_left(redis: Instance) -> None:
    left = redis.host.run("ls -d /srv/redis/import; docker ps --all --format '{{.Names}}'").stdout.split()
    assert left == ["redis"]


@contextmanager
def writers(old: Old) -> Iterator[Callable[[], int]]:
    """Clients that log in, are renewed and enqueue all the time; call what it gives for how often."""
    ended = threading.Event()
    done = 0

    def write() -> None:
        nonlocal done
        with old.client() as client:
            while not ended.wait(0.005):
                done += 1
                client.set(f"app:session:new{done % 400}", f"{done}", ex=LIFETIME)
                client.expire(f"app:session:{done % SESSIONS}", 2 * LIFETIME)
                client.unlink(f"app:session:ended{done}")
                client.rpush("rq:queue:busy", done)
                client.ltrim("rq:queue:busy", -50, -1)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield lambda: done
    finally:
        ended.set()
        thread.join(30)
        assert done > 0


@contextmanager
def beside(redis: Instance, image: str, *options: str) -> Iterator[None]:
    """Another Redis on the host, in a container on the host's network."""
    words = " ".join([*options, "--repl-diskless-sync-delay 0"])
    redis.host.run(f"docker run -d --rm --name beside --network host {image} redis-server {words}", check=True)
    try:
        wait_until(lambda: redis.host.run(f"ss -Hltn sport = :{BESIDE}").stdout, "the other Redis listens", 10)
        yield
    finally:
        redis.host.run("docker rm -f beside", check=True)


def image(redis: Instance) -> str:
    return str(redis.inspect()["Config"]["Image"])


def test_impossible_imports_are_refused(redis: Instance, old: Old) -> None:
    there = f"--from 127.0.0.1:{PORT}"
    cases = [
        (old.word("reader"), f"{there} --user mover", "refuses user mover: Redis reports: "),
        (old.word("reader"), f"{there} --user reader", "ACL SETUSER reader +psync +replconf +ping +info"),
        (Word(), there, "refuses the default user: Redis reports: Authentication required"),
        (Word(), "--from 127.0.0.1:6", "127.0.0.1:6 cannot be reached: "),
        (Word(), f"--from redis://mover:hidden@127.0.0.1:{PORT}", "--from must be HOST:PORT and nothing else"),
        (
            Word(redis.secrets.passwords["admin"]),
            "--from 127.0.0.1:6379 --user admin",
            "127.0.0.1:6379 is this instance itself",
        ),
    ]
    for password, words, why in cases:
        done = start(redis, password, words)
        assert (done.returncode, done.stdout) == (3, "")
        assert why in done.stderr
        assert "hidden" not in done.stderr
        assert KnownSecrets({**old.passwords, **redis.secrets.passwords}).found_in(done.stderr) == []
    assert redis.host.run("redisctl import status").stderr.startswith("redisctl: no import is running")
    nothing_is_left(redis)


def test_blockers_of_this_instance_are_reported(redis: Instance, old: Old) -> None:
    words = (f"--from 127.0.0.1:{PORT}", "--user", "mover")
    assert redis.call("SET precious 1") == ["OK"]
    assert "this instance has 1 keys already" in start(redis, old.word("mover"), *words).stderr
    assert redis.call("DEL precious") == ["1"]
    # As a deploy writes it; Redis itself is not asked.
    conf = "/srv/redis/config/redis.conf"
    redis.host.run(f"cp -p {conf} /root/kept && sed -i 's/^maxmemory .*/maxmemory 100000/' {conf}", check=True)
    redis.host.run(f"sed -i 's/^databases .*/databases 2/' {conf}", check=True)
    try:
        told = start(redis, old.word("mover"), *words).stderr
    finally:
        redis.host.run(f"mv /root/kept {conf}", check=True)
    assert "has keys in db3, but this instance has 2 databases: set redis_databases = 4" in told
    assert "redis_maxmemory is 97.7 KiB, so Redis would evict keys" in told
    nothing_is_left(redis)


def test_source_without_replication_is_refused(redis: Instance) -> None:
    options = (f"--port {BESIDE}", "--save ''", "--rename-command PSYNC nobody", "--rename-command SYNC nothing")
    with beside(redis, image(redis), *options):
        done = start(redis, Word(), f"--from 127.0.0.1:{BESIDE}")
    assert (done.returncode, "unknown command 'PSYNC'" in done.stderr) == (3, True), done.stderr
    assert "redis-cli --rdb), copy it to this host, and run redisctl restore FILE" in done.stderr
    nothing_is_left(redis)


def test_source_with_tls_and_client_certificates(redis: Instance) -> None:
    redis.host.run(
        "mkdir /root/tls && cd /root/tls && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "
        "-days 2 -subj /CN=old -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out ca.pem && chown 999 *",
        check=True,
    )
    try:
        mount = f"-v /root/tls:/tls:ro {image(redis)}"
        files = ("--tls-cert-file /tls/ca.pem", "--tls-key-file /tls/key.pem", "--tls-ca-cert-file /tls/ca.pem")
        with beside(redis, mount, "--port 0", f"--tls-port {BESIDE}", *files, "--save ''"):
            there, ca = f"--from 127.0.0.1:{BESIDE}", "--tls --ca /root/tls/ca.pem"
            assert "If it uses TLS, set --tls --ca FILE" in start(redis, Word(), there).stderr
            assert "client certificates, set --cert and --key" in start(redis, Word(), there, ca).stderr
            done = start(redis, Word(), there, ca, "--cert /root/tls/ca.pem --key /root/tls/key.pem")
            assert done.returncode == 0, done.stderr
            assert said(redis, "finish")["problems"] == []
            redis.host.run("redisctl import cancel", check=True)
            cli = f"redis-cli -p {BESIDE} --tls --cacert /tls/ca.pem --cert /tls/ca.pem --key /tls/key.pem"
            redis.host.run(f"docker exec beside {cli} CONFIG SET tls-auth-clients no", check=True)
            done = start(redis, Word(), there, ca)
            assert done.returncode == 0, done.stderr
            redis.host.run("redisctl import cancel", check=True)
    finally:
        redis.host.run("rm -r /root/tls")
    nothing_is_left(redis)


@pytest.fixture(scope="module")
def following(redis: Instance, old: Old) -> Instance:
    """An import under way: begun while clients write, with all processes looked at, which show no password."""
    passwords = KnownSecrets({**old.passwords, **redis.secrets.passwords})
    with watch_processes(redis.host) as seen, writers(old):
        done = start(redis, old.word("mover"), f"--from 127.0.0.1:{PORT}", "--user mover")
        assert done.returncode == 0, done.stderr
        told = redis.host.run("redisctl import status; redisctl import finish; docker inspect redis-import").stdout
        processes = seen()
    assert "redisctl import finish" in processes
    assert passwords.found_in(processes + told + done.stdout + done.stderr) == []
    files = redis.host.run("grep -rlF -f - /srv/redis --exclude-dir=secrets", input=old.passwords["mover"]).stdout
    assert sorted(files.split()) == ["/srv/redis/import/data/scratch.conf", "/srv/redis/import/state.json"]
    listed = redis.host.run(f"stat -c '%a %u' /srv/redis/import {files.replace(chr(10), ' ')}").stdout.splitlines()
    assert sorted(listed) == ["400 0", "400 999", "700 0"]
    return redis


def test_finish_compares_but_waits_for_writers(following: Instance, old: Old) -> None:
    before = following.identity
    with writers(old) as written:
        told = said(following, "finish --full")
        assert told["problems"] == []
        assert told["compared"] > SESSIONS
        assert told["length_only"] == 1
        assert {"set", "expire", "rpush"} <= set(told["written"])
        refused = following.host.run("redisctl import finish --yes")
        assert written() > 100
    assert refused.returncode == 3
    assert f"127.0.0.1:{PORT} gets writes (" in refused.stderr
    assert following.identity == before
    assert following.keys == 0


def test_lost_link_is_reported_and_restored(following: Instance, old: Old) -> None:
    with old.client() as client, writers(old):
        for _ in range(3):
            client.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")
            time.sleep(0.3)
        client.execute_command("ACL", "SETUSER", "mover", "-psync")
        client.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")
        try:
            wait_until(lambda: "NOPERM" in said(following, "status")["trouble"], "the refusal is told", 10)
            assert "ACL SETUSER mover +psync" in said(following, "status")["next"]
            refused = following.host.run("redisctl import finish --yes")
        finally:
            client.execute_command("ACL", "SETUSER", "mover", "+psync")
    assert (refused.returncode, "the copy is not complete: down" in refused.stderr) == (3, True), refused.stderr
    wait_until(lambda: said(following, "status")["stage"] == "follows", "the link is back", 15)
    wait_until(lambda: said(following, "status")["lag"] == 0, "the copy has all", 15)
    told = said(following, "finish --full")
    assert told["problems"] == []
    # What this Redis sent as a time that is left came late.
    assert 0 < told["late_by"] < 60


def test_differences_are_reported(following: Instance) -> None:
    """A value, an end, a name, and one key more: each is told, with its name where that is asked for."""
    ends = on_copy(following, "SELECT 3", "PEXPIRETIME text").split()[-1]
    changes = ("HSET hash field1 other", "PEXPIRE text 1800000", "RENAME list elsewhere", "SET more 1")
    answers = on_copy(following, "CONFIG SET replica-read-only no", "SELECT 3", *changes).split()
    assert answers == ["OK", "OK", "0", "1", "OK", "OK"]
    try:
        done = following.host.run("redisctl import finish --full --names --yes")
    finally:
        changes = ("HSET hash field1 1", f"PEXPIREAT text {ends}", "RENAME elsewhere list", "DEL more")
        on_copy(following, "SELECT 3", *changes, "CONFIG SET replica-read-only yes")
    assert done.returncode == 3
    told = done.stderr.partition("not finished: ")[2].strip().split("; ")
    assert told[0] == "db3 has 9 keys there and 10 here"
    assert sorted(told[1:]) == [
        "1 keys differ: expiry (string in db3)",
        "1 keys differ: missing (list in db3)",
        "1 keys differ: value (hash in db3)",
    ]
    assert sorted(re.findall(r"differs: (.*)", done.stdout)) == ["hash", "list", "text"]
    assert following.keys == 0


def test_finish_succeeds_after_a_kill(following: Instance, old: Old) -> None:
    host = following.host
    with old.client() as client:
        # Sessions that end by themselves are no writes.
        for number in range(300):
            client.set(f"app:session:last{number}", "soon", px=3000 + 30 * number)
        before = {number: int(client.pexpire(f"app:session:{number}", LIFETIME * 1000)) for number in range(5)}
    assert before == dict.fromkeys(range(5), 1)
    host.run("cp -a /srv/redis/import /root/kept", check=True)
    killed = host.run(
        "redisctl import finish --yes >/root/said 2>&1 & while ! [ -e /srv/redis/data/journal.json ]; do "
        "kill -0 $! || break; sleep 0.01; done; kill -9 $! && touch /root/killed; wait $!; "
        "cat /root/said; rm /root/said"
    )
    assert host.run("rm /root/killed").returncode == 0, f"it ended before it replaced anything: {killed.stdout}"
    # systemd starts the recovery by itself.
    wait_until(lambda: host.run("test -e /srv/redis/data/journal.json").returncode, "the swap is recovered", 60)
    assert following.keys == 0

    told = said(following, "finish --yes")
    print(f"not writable for {told['blocked']} s, not served for {told['down']} s")
    assert (told["done"], told["problems"], told["written"], told["late"]) == (True, [], {}, {})
    assert told["down"] < told["blocked"] < 30
    nothing_is_left(following)

    # What a kill behind the last step leaves: it is not done again.
    assert following.call("SET app:session:here yes EX 600", user="sessions") == ["OK"]
    state = json.loads(host.run("cat /root/kept/state.json", check=True).stdout)
    host.run(
        "mv /root/kept /srv/redis/import && cat >/srv/redis/import/state.json",
        input=json.dumps({**state, "stage": "swapping"}),
        check=True,
    )
    assert "had already finished" in said(following, "finish --yes")["message"]
    assert following.call("GET app:session:here", user="sessions") == ["yes"]
    nothing_is_left(following)

    with old.client(3) as there, following.client(db=3) as here:
        assert here.dbsize() == there.dbsize() == 9
        assert (here.hgetall("hash"), here.smembers("set")) == (there.hgetall("hash"), there.smembers("set"))
        assert here.xrange("stream") == there.xrange("stream")
        assert here.xinfo_groups("stream")[0]["name"] == b"readers"
        assert abs(here.pttl("text") - there.pttl("text")) < 1000
    assert LIFETIME - 60 < int(following.call("TTL app:session:3", user="sessions")[0]) <= LIFETIME
    with following.client("queues") as connection:
        assert Job.fetch("moved", connection=connection).get_status() == "queued"
    work(following)
    with following.client("queues") as connection:
        assert Job.fetch("moved", connection=connection).return_value() == "moved here"

    # The old one has all it had, and so has this instance.
    with old.client() as client:
        assert client.lrange("rq:queue:mail", 0, -1) == [b"moved"]
    assert "is back" in host.run("redisctl restore --undo --yes", check=True).stdout
    assert following.keys == 0
    host.run("redisctl restore --discard-previous --yes", check=True)


def work(redis: Instance) -> None:
    """A worker works off what came."""
    process = get_context("fork").Process(target=_work, args=(redis,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def _work(redis: Instance) -> None:
    with redis.client("queues") as connection:
        Worker([Queue("mail", connection=connection)], connection=connection).work(burst=True, logging_level="CRITICAL")
