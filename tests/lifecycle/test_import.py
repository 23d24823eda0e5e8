"""Imports from an old Redis of the host and from other Redis containers.

Clients write to the old Redis during an import. It is version 6.0 of Debian 11, with users. It cannot report when a key
expires, only the remaining TTL.
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
from tests.deployed_redis import Instance, tunnel, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import empty_instance
from tests.lifecycle.interruption import wait_until_recovered
from tests.lifecycle.test_secrets_exposure import KnownSecrets, watch_processes

OLD = "5:6.0.16-1+deb11u2"
PORT, OTHER_PORT = 6390, 6391
RIGHTS = "+psync +replconf +ping +info +select +time +@read"
SESSIONS, LIFETIME = 2000, 3600

# The package's own systemd unit starts it.
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
rm -f /usr/sbin/policy-rc.d
"""


@dataclass(frozen=True)
class Password:
    """A password for redisctl's prompt. A failed assertion does not show it."""

    text: str = field(default="", repr=False)


@dataclass(frozen=True)
class OldRedis:
    """The Redis whose data is imported, and the passwords of its users."""

    host: Host
    passwords: dict[str, str] = field(repr=False)

    def password(self, user: str) -> Password:
        """Return a user's password."""
        return Password(self.passwords[user])

    @contextmanager
    def client(self, db: int = 0) -> Iterator[Redis]:
        """Give a client on this machine that is logged in as its administrator."""
        with tunnel(self.host, "127.0.0.1", PORT) as path:
            options: dict[str, Any] = {"db": db, "retry": Retry(NoBackoff(), 0), "password": self.passwords["default"]}
            with Redis(unix_socket_path=str(path), **options) as client:
                yield client


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """Give the shared host with an empty Redis. Empties it again afterwards."""
    with empty_instance(host, deployer, "/root/saved") as instance:
        try:
            yield instance
        finally:
            host.run("redisctl import cancel")


@pytest.fixture(scope="module")
def old(redis: Instance) -> Iterator[OldRedis]:
    """Yield the old Redis on the host.

    It has sessions, jobs, all data types and several databases. It is removed afterwards.
    """
    passwords = {user: secrets.token_hex(16) for user in ("default", "mover", "reader")}
    rules = {"default": "+@all", "mover": RIGHTS, "reader": "+@read +@connection +info +time"}
    users = "".join(f"user {name} on >{passwords[name]} ~* {rule}\n" for name, rule in rules.items())
    old_redis = OldRedis(redis.host, passwords)
    try:
        redis.host.run(INSTALL, input=users, check=True)
        fill(old_redis)
        yield old_redis
    finally:
        redis.host.run(REMOVE, check=True)


def fill(old: OldRedis) -> None:
    with old.client() as client, client.pipeline(transaction=False) as pipeline:
        for number in range(SESSIONS):
            pipeline.set(f"app:session:{number}", f"somebody {number}", ex=LIFETIME + number)
        # Some expire during a comparison.
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


def start(redis: Instance, password: Password, *arguments: str) -> subprocess.CompletedProcess[str]:
    return redis.host.run(f"redisctl import start {' '.join(arguments)}", input=password.text)


def import_json(redis: Instance, arguments: str) -> dict[str, Any]:
    """Run a verb of redisctl import, which must succeed, and return its JSON."""
    document: dict[str, Any] = json.loads(redis.host.run(f"redisctl import {arguments} --json", check=True).stdout)
    return document


def call_copy(redis: Instance, *commands: str) -> str:
    script = "\n".join([*commands, ""])
    return redis.host.run("docker exec -i redis-import redis-cli -s /run/redis/redis.sock", input=script).stdout


def assert_import_is_removed(redis: Instance) -> None:
    leftovers = redis.host.run("ls -d /srv/redis/import; docker ps --all --format '{{.Names}}'").stdout.split()
    assert leftovers == ["redis"]


@contextmanager
def writers(old: OldRedis) -> Iterator[Callable[[], int]]:
    """Log in, renew, log out and enqueue all the time.

    Yields a function that returns the number of rounds.
    """
    stop = threading.Event()
    rounds = 0

    def write() -> None:
        nonlocal rounds
        with old.client() as client:
            while not stop.wait(0.005):
                rounds += 1
                client.set(f"app:session:new{rounds % 400}", f"{rounds}", ex=LIFETIME)
                client.expire(f"app:session:{rounds % SESSIONS}", 2 * LIFETIME)
                client.unlink(f"app:session:ended{rounds}")
                client.rpush("rq:queue:busy", rounds)
                client.ltrim("rq:queue:busy", -50, -1)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield lambda: rounds
    finally:
        stop.set()
        thread.join(30)
        assert rounds > 0


@contextmanager
def other_redis(redis: Instance, image: str, *options: str) -> Iterator[None]:
    """Run another Redis on the host, in a container on the host's network."""
    arguments = " ".join([*options, "--repl-diskless-sync-delay 0"])
    redis.host.run(f"docker run -d --rm --name other-redis --network host {image} redis-server {arguments}", check=True)
    try:
        wait_until(lambda: redis.host.run(f"ss -Hltn sport = :{OTHER_PORT}").stdout, "the other Redis listens", 10)
        yield
    finally:
        redis.host.run("docker rm -f other-redis", check=True)


def image(redis: Instance) -> str:
    return str(redis.inspect()["Config"]["Image"])


def test_impossible_imports_are_refused(redis: Instance, old: OldRedis) -> None:
    address = f"--from 127.0.0.1:{PORT}"
    cases = [
        (old.password("reader"), f"{address} --user mover", "refuses user mover: Redis reports: "),
        (old.password("reader"), f"{address} --user reader", "ACL SETUSER reader +psync +replconf +ping +info"),
        (Password(), address, "refuses the default user: Redis reports: Authentication required"),
        (Password(), "--from 127.0.0.1:6", "127.0.0.1:6 cannot be reached: "),
        (Password(), f"--from redis://mover:hidden@127.0.0.1:{PORT}", "--from must be HOST:PORT and nothing else"),
        (
            Password(redis.secrets.passwords["admin"]),
            "--from 127.0.0.1:6379 --user admin",
            "127.0.0.1:6379 is this instance itself",
        ),
    ]
    for password, arguments, message in cases:
        completed = start(redis, password, arguments)
        assert (completed.returncode, completed.stdout) == (3, "")
        assert message in completed.stderr
        assert "hidden" not in completed.stderr
        assert KnownSecrets({**old.passwords, **redis.secrets.passwords}).found_in(completed.stderr) == []
    assert redis.host.run("redisctl import status").stderr.startswith("redisctl: no import is running")
    assert_import_is_removed(redis)


def test_blockers_of_this_instance_are_reported(redis: Instance, old: OldRedis) -> None:
    arguments = (f"--from 127.0.0.1:{PORT}", "--user", "mover")
    assert redis.call("SET precious 1") == ["OK"]
    assert "this instance has 1 keys already" in start(redis, old.password("mover"), *arguments).stderr
    assert redis.call("DEL precious") == ["1"]
    # redisctl reads the limits from redis.conf, not from Redis.
    conf = "/srv/redis/config/redis.conf"
    redis.host.run(f"cp -p {conf} /root/saved && sed -i 's/^maxmemory .*/maxmemory 100000/' {conf}", check=True)
    redis.host.run(f"sed -i 's/^databases .*/databases 2/' {conf}", check=True)
    try:
        error = start(redis, old.password("mover"), *arguments).stderr
    finally:
        redis.host.run(f"mv /root/saved {conf}", check=True)
    assert "has keys in db3, but this instance has 2 databases: set redis_databases = 4" in error
    assert "redis_maxmemory is 97.7 KiB, so Redis would evict keys" in error
    assert_import_is_removed(redis)


def test_source_without_replication_is_refused(redis: Instance) -> None:
    options = (f"--port {OTHER_PORT}", "--save ''", "--rename-command PSYNC hidden", "--rename-command SYNC hidden2")
    with other_redis(redis, image(redis), *options):
        completed = start(redis, Password(), f"--from 127.0.0.1:{OTHER_PORT}")
    assert (completed.returncode, "unknown command 'PSYNC'" in completed.stderr) == (3, True), completed.stderr
    assert "redis-cli --rdb), copy it to this host, and run redisctl restore FILE" in completed.stderr
    assert_import_is_removed(redis)


def test_source_with_tls_and_client_certificates(redis: Instance) -> None:
    redis.host.run(
        "mkdir /root/tls && cd /root/tls && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "
        "-days 2 -subj /CN=old -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out ca.pem && chown 999 *",
        check=True,
    )
    try:
        mount = f"-v /root/tls:/tls:ro {image(redis)}"
        files = ("--tls-cert-file /tls/ca.pem", "--tls-key-file /tls/key.pem", "--tls-ca-cert-file /tls/ca.pem")
        with other_redis(redis, mount, "--port 0", f"--tls-port {OTHER_PORT}", *files, "--save ''"):
            address, ca = f"--from 127.0.0.1:{OTHER_PORT}", "--tls --ca /root/tls/ca.pem"
            assert "If it uses TLS, set --tls --ca FILE" in start(redis, Password(), address).stderr
            assert "client certificates, set --cert and --key" in start(redis, Password(), address, ca).stderr
            completed = start(redis, Password(), address, ca, "--cert /root/tls/ca.pem --key /root/tls/key.pem")
            assert completed.returncode == 0, completed.stderr
            assert import_json(redis, "finish")["problems"] == []
            redis.host.run("redisctl import cancel", check=True)
            cli = f"redis-cli -p {OTHER_PORT} --tls --cacert /tls/ca.pem --cert /tls/ca.pem --key /tls/key.pem"
            redis.host.run(f"docker exec other-redis {cli} CONFIG SET tls-auth-clients no", check=True)
            completed = start(redis, Password(), address, ca)
            assert completed.returncode == 0, completed.stderr
            redis.host.run("redisctl import cancel", check=True)
    finally:
        redis.host.run("rm -r /root/tls")
    assert_import_is_removed(redis)


@pytest.fixture(scope="module")
def importing(redis: Instance, old: OldRedis) -> Instance:
    """Start an import while clients write, and return the instance.

    Checks that no process, output or file shows a password.
    """
    passwords = KnownSecrets({**old.passwords, **redis.secrets.passwords})
    with watch_processes(redis.host) as samples, writers(old):
        completed = start(redis, old.password("mover"), f"--from 127.0.0.1:{PORT}", "--user mover")
        assert completed.returncode == 0, completed.stderr
        output = redis.host.run("redisctl import status; redisctl import finish; docker inspect redis-import").stdout
        processes = samples()
    assert "redisctl import finish" in processes
    assert passwords.found_in(processes + output + completed.stdout + completed.stderr) == []
    files = redis.host.run("grep -rlF -f - /srv/redis --exclude-dir=secrets", input=old.passwords["mover"]).stdout
    assert sorted(files.split()) == ["/srv/redis/import/data/scratch.conf", "/srv/redis/import/state.json"]
    modes = redis.host.run(f"stat -c '%a %u' /srv/redis/import {files.replace(chr(10), ' ')}").stdout.splitlines()
    assert sorted(modes) == ["400 0", "400 999", "700 0"]
    return redis


def test_finish_compares_but_waits_for_writers(importing: Instance, old: OldRedis) -> None:
    before = importing.identity
    with writers(old) as rounds:
        report = import_json(importing, "finish --full")
        assert report["problems"] == []
        assert report["compared"] > SESSIONS
        assert report["length_only"] == 1
        assert {"set", "expire", "rpush"} <= set(report["written"])
        refused = importing.host.run("redisctl import finish --yes")
        assert rounds() > 100
    assert refused.returncode == 3
    assert f"127.0.0.1:{PORT} gets writes (" in refused.stderr
    assert importing.identity == before
    assert importing.keys == 0


def test_lost_link_is_reported_and_restored(importing: Instance, old: OldRedis) -> None:
    with old.client() as client, writers(old):
        for _ in range(3):
            client.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")
            time.sleep(0.3)
        client.execute_command("ACL", "SETUSER", "mover", "-psync")
        client.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")
        try:
            wait_until(
                lambda: "NOPERM" in import_json(importing, "status")["problem"], "status reports the refusal", 10
            )
            assert "ACL SETUSER mover +psync" in import_json(importing, "status")["next"]
            refused = importing.host.run("redisctl import finish --yes")
        finally:
            client.execute_command("ACL", "SETUSER", "mover", "+psync")
    assert (refused.returncode, "the copy is not complete: down" in refused.stderr) == (3, True), refused.stderr
    wait_until(lambda: import_json(importing, "status")["stage"] == "follows", "the copy is connected again", 60)
    wait_until(lambda: import_json(importing, "status")["lag"] == 0, "the copy has caught up", 60)
    report = import_json(importing, "finish --full")
    assert report["problems"] == []
    # The old Redis sends remaining TTLs. The writes that the copy missed came late, so their keys expire later.
    assert 0 < report["ttl_drift"] < 60


def test_differences_are_reported(importing: Instance) -> None:
    """The import reports a changed value, expiry or name and an additional key.

    It shows names of keys on request. It also reports functions.
    """
    expires_at = call_copy(importing, "SELECT 3", "PEXPIRETIME text").split()[-1]
    library = """FUNCTION LOAD "#!lua name=lib\\nredis.register_function('f', function() return 1 end)\""""
    assert call_copy(importing, "CONFIG SET replica-read-only no", library).split() == ["OK", "lib"]
    changes = ("HSET hash field1 other", "PEXPIRE text 1800000", "RENAME list elsewhere", "SET more 1")
    answers = call_copy(importing, "CONFIG SET replica-read-only no", "SELECT 3", *changes).split()
    assert answers == ["OK", "OK", "0", "1", "OK", "OK"]
    try:
        completed = importing.host.run("redisctl import finish --full --names --yes")
    finally:
        changes = ("HSET hash field1 1", f"PEXPIREAT text {expires_at}", "RENAME elsewhere list", "DEL more")
        call_copy(importing, "SELECT 3", *changes)
        accepted = import_json(importing, "finish --with-functions")
        call_copy(importing, "FUNCTION DELETE lib", "CONFIG SET replica-read-only yes")
    assert accepted["problems"] == []
    assert completed.returncode == 3
    problems = completed.stderr.partition("not finished: ")[2].strip().split("; ")
    assert "functions of the libraries lib" in problems.pop()
    assert problems[0] == "db3 has 9 keys there and 10 here"
    assert sorted(problems[1:]) == [
        "1 keys differ: expiry (string in db3)",
        "1 keys differ: missing (list in db3)",
        "1 keys differ: value (hash in db3)",
    ]
    assert sorted(re.findall(r"differs: (.*)", completed.stdout)) == ["hash", "list", "text"]
    assert importing.keys == 0


def test_finish_succeeds_after_a_kill(importing: Instance, old: OldRedis) -> None:
    host = importing.host
    with old.client() as client:
        # Sessions that expire do not count as writes.
        for number in range(300):
            client.set(f"app:session:last{number}", "soon", px=3000 + 30 * number)
        renewed = {number: int(client.pexpire(f"app:session:{number}", LIFETIME * 1000)) for number in range(5)}
    assert renewed == dict.fromkeys(range(5), 1)
    host.run("cp -a /srv/redis/import /root/saved", check=True)
    killed = host.run(
        "redisctl import finish --yes >/root/output 2>&1 & while ! [ -e /srv/redis/data/journal.json ]; do "
        "kill -0 $! || break; sleep 0.01; done; kill -9 $! && touch /root/killed; wait $!; "
        "cat /root/output; rm /root/output"
    )
    assert host.run("rm /root/killed").returncode == 0, f"the import ended before it replaced data: {killed.stdout}"
    # systemd starts the recovery.
    wait_until_recovered(host, 60)
    assert importing.keys == 0

    # This instance does not save when it stops, and logs no error.
    config = importing.secrets.renamed_command("CONFIG")
    unsaving = (f"{config} SET appendonly no", f"{config} SET shutdown-on-sigterm nosave")
    assert importing.call(*unsaving) == ["OK", "OK"]
    refused = host.run("redisctl import finish --yes")
    assert (refused.returncode, "or use --discard-unsaved" in refused.stderr) == (3, True), refused.stderr
    assert importing.call(*unsaving) == ["OK", "OK"]
    report = import_json(importing, "finish --yes --discard-unsaved")
    assert "it did not write /srv/redis/data/live/dump.rdb" in report["warning"]
    print(f"not writable for {report['writers_blocked']} s, Redis down for {report['downtime']} s")
    assert (report["done"], report["problems"], report["written"], report["late_writes"]) == (True, [], {}, {})
    assert report["downtime"] < report["writers_blocked"] < 30
    assert_import_is_removed(importing)

    # A kill after the swap leaves this state. The next finish must not replace the data again.
    assert importing.call("SET app:session:here yes EX 600", user="sessions") == ["OK"]
    state = json.loads(host.run("cat /root/saved/state.json", check=True).stdout)
    replaced = host.run("ls /srv/redis/data/previous", check=True).stdout.strip()
    host.run(
        "mv /root/saved /srv/redis/import && cat >/srv/redis/import/state.json",
        input=json.dumps({**state, "replaced": replaced}),
        check=True,
    )
    assert "had already finished" in import_json(importing, "finish --yes")["message"]
    assert importing.call("GET app:session:here", user="sessions") == ["yes"]
    assert_import_is_removed(importing)

    with old.client(3) as source, importing.client(db=3) as target:
        assert target.dbsize() == source.dbsize() == 9
        assert (target.hgetall("hash"), target.smembers("set")) == (source.hgetall("hash"), source.smembers("set"))
        assert target.xrange("stream") == source.xrange("stream")
        assert target.xinfo_groups("stream")[0]["name"] == b"readers"
        assert abs(target.pttl("text") - source.pttl("text")) < 1000
    assert LIFETIME - 60 < int(importing.call("TTL app:session:3", user="sessions")[0]) <= LIFETIME
    with importing.client("queues") as connection:
        assert Job.fetch("moved", connection=connection).get_status() == "queued"
    work(importing)
    with importing.client("queues") as connection:
        assert Job.fetch("moved", connection=connection).return_value() == "moved here"

    # The old Redis still has all its data, and an undo brings back the previous data of this instance.
    with old.client() as client:
        assert client.lrange("rq:queue:mail", 0, -1) == [b"moved"]
    assert "is back" in host.run("redisctl restore --undo --yes", check=True).stdout
    assert importing.keys == 0
    host.run("redisctl restore --discard-previous --yes", check=True)


def work(redis: Instance) -> None:
    """Run an RQ worker until the imported jobs are done."""
    process = get_context("fork").Process(target=_work, args=(redis,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def _work(redis: Instance) -> None:
    with redis.client("queues") as connection:
        Worker([Queue("mail", connection=connection)], connection=connection).work(burst=True, logging_level="CRITICAL")
