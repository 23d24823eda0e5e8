"""redisctl sessions: real sessions of Flask-Session, and a million keys."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import flask
import pytest
from flask.testing import FlaskClient
from flask_session import Session

from tests.redisctl.local_redis import LocalRedis

LIFETIME = 7200
MILLION = 1_000_000


@contextmanager
def browsers(redis: LocalRedis, count: int) -> Iterator[list[FlaskClient]]:
    """Browsers that are logged in to a real application."""
    with redis.client("sessions") as connection:
        app = flask.Flask("redoubt_test")
        app.config.update(
            SESSION_TYPE="redis",
            SESSION_REDIS=connection,
            SESSION_KEY_PREFIX="app:session:",
            PERMANENT_SESSION_LIFETIME=LIFETIME,
        )
        Session(app)

        @app.post("/login")
        def login() -> str:
            flask.session["user"] = "somebody"
            return "in"

        @app.get("/")
        def user() -> str:
            return str(flask.session.get("user", "anonymous"))

        clients = [app.test_client() for _ in range(count)]
        for client in clients:
            client.post("/login")
        try:
            yield clients
        finally:
            connection.unlink(*(key_of(client) for client in clients))


def key_of(browser: FlaskClient) -> str:
    cookie = browser.get_cookie("session")
    assert cookie is not None
    return f"app:session:{cookie.value}"


def test_sessions_are_counted_limited_and_removed_by_rule(redis: LocalRedis) -> None:
    """No other session is logged out. Deployed: lifecycle/test_redisctl.py."""
    with browsers(redis, 4) as clients, redis.client() as admin:
        _, unused, endless, _ = clients
        # As if the last use was 100 minutes ago; and as an application leaves it that sets no TTL.
        admin.expire(key_of(unused), LIFETIME - 6000)
        admin.persist(key_of(endless))

        report = redis.report("sessions")
        assert (report["count"], report["without_ttl"]) == (4, 1)
        assert 6000 <= report["longest_unused"] < 6060
        assert report["memory"]["all"] == pytest.approx(
            sum(admin.memory_usage(key_of(client)) or 0 for client in clients), abs=4
        )
        output = redis.redisctl("sessions").stdout
        assert "without a TTL   1: they never expire" in output
        assert not [client for client in clients if key_of(client)[12:] in output + json.dumps(report)]

        both = "sessions expire --no-ttl --older-than 90min"
        expected = {"checked": 4, "removed": 1, "limited": 1}
        assert redis.report(both) == {"instance": redis.settings.redis_name, "dry_run": True, **expected}
        assert (admin.ttl(key_of(endless)), admin.exists(key_of(unused))) == (-1, 1), "a dry run changed something"

        assert redis.report(f"{both} --yes") == {"instance": redis.settings.redis_name, "dry_run": False, **expected}
        assert 0 <= LIFETIME - int(admin.ttl(key_of(endless))) < 60
        users = [client.get("/").text for client in clients]
        assert users == ["somebody", "anonymous", "somebody", "somebody"]


@dataclass(frozen=True)
class Measured:
    """A program that ran next to another client.

    ``memory`` is the program's peak memory in bytes, ``worst`` the client's worst PING in seconds, ``seconds`` how long
    the program ran.
    """

    output: str
    memory: int
    worst: float
    seconds: float


def run_next_to_pings(redis: LocalRedis, *command: str) -> Measured:
    """Run a program while another client sends PINGs."""
    worst, memory = 0.0, 0
    with redis.client("queues") as client:
        client.ping()
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            start = time.perf_counter()
            client.ping()
            worst = max(worst, time.perf_counter() - start)
            peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
            memory = max(memory, int(peak[1]) * 1024 if peak else 0)
            time.sleep(0.001)
        seconds = time.perf_counter() - began
        assert process.stdout is not None
        output = process.stdout.read()
    assert process.returncode == 0
    return Measured(output, memory, worst, seconds)


def test_a_million_sessions_cause_no_stall_and_need_no_memory(redis: LocalRedis) -> None:
    """Another client waits next to nothing while redisctl reads a million sessions.

    It waits much longer for a client that takes all keys in one step.
    """
    fill(redis)
    program = (sys.executable, "-m", "tests.redisctl.program", str(redis.root))
    small = run_next_to_pings(redis, *program, "latency", "--seconds", "1", "--json")
    careful = run_next_to_pings(redis, *program, "sessions", "--json")
    with redis.client() as client:
        start = time.perf_counter()
        client.execute_command("SCAN", 0, "COUNT", 10 * MILLION, "MATCH", "nothing")
        greedy = time.perf_counter() - start

    print(f"worst PING next to redisctl sessions: {careful.worst * 1000:.1f} ms in {careful.seconds:.1f} s")
    print(f"SCAN of all keys at once: {greedy * 1000:.1f} ms")
    print(f"memory: {careful.memory / 1024**2:.0f} MiB, of another verb {small.memory / 1024**2:.0f} MiB")
    report = json.loads(careful.output)
    assert (report["count"], report["without_ttl"]) == (MILLION, 0)
    assert report["memory"]["sampled"] == 1000
    assert careful.worst < greedy / 4, (careful.worst, greedy)
    # The names alone are 45 MB, and twice that as strings in Python.
    assert careful.memory - small.memory < 16 * 1024**2


def fill(redis: LocalRedis) -> None:
    """Write a million sessions.

    It needs no answers and turns persistence off, because both would take most of the time.
    """
    redis.execute_renamed("CONFIG", "SET", "save", "", "appendonly", "no")
    value = b"x" * 32
    command = b"*5\r\n$3\r\nSET\r\n$44\r\napp:session:%032d\r\n$32\r\n%s\r\n$2\r\nEX\r\n$4\r\n%d\r\n"
    with redis.client(socket_timeout=60) as client:
        connection = client.connection_pool.get_connection()
        connection.send_command("CLIENT", "REPLY", "OFF")
        for start in range(0, MILLION, 10_000):
            numbers = range(start, start + 10_000)
            connection.send_packed_command([b"".join(command % (n, value, 1000 + n % 6000) for n in numbers)])
        connection.send_command("CLIENT", "REPLY", "ON")
        assert connection.read_response() == b"OK"
        client.connection_pool.release(connection)
        assert client.dbsize() == MILLION
