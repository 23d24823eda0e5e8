"""Clients that use too much memory: Redis disconnects only them.

Without limits for clients the kernel killed Redis, or Redis evicted every session. Scripts and copies in a transaction
have no limit: the kernel kills Redis, and Docker starts it again with its data.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from redoubt.settings.load import load
from sandbox.hosts import Host
from tests.deployed_redis import Instance, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import DISCARD_DATA
from tests.lifecycle.test_memory import assert_not_killed, fill, info

SMALL: dict[str, Any] = {"redis_maxmemory": "64mb"}
SESSIONS = 10_000

# Sends requests without reading the replies. Prints how the connection ended: "closed", "open" or an error; for a crowd
# the number of closed connections. The arguments are the user, the attack, a count and the size of a value in MiB.
ATTACK = r"""
import socket, sys, time
user, kind, count, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
password, key = sys.stdin.read().split()
MIB = b"x" * 2**20
def command(*parts):
    parts = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
def connect():
    client = socket.create_connection(("127.0.0.1", 6379), timeout=20)
    client.sendall(command("AUTH", user, password))
    assert client.recv(100) == b"+OK\r\n"
    return client
def end(client, seconds=5):
    client.settimeout(seconds)
    data = b""
    try:
        while more := client.recv(65536):
            data = data[-1000:] + more
    except ConnectionError:
        pass
    except TimeoutError:
        return "open"
    errors = [line for line in data.splitlines() if line[:1] == b"-"]
    return errors[-1].decode() if errors else "closed"
def send(client, *parts):
    try:
        for part in parts:
            client.sendall(part)
    except (ConnectionError, TimeoutError):
        pass
    return client
def set(value):
    client = send(connect(), command("SET", key, value, "EX", "600"))
    assert client.recv(100) == b"+OK\r\n"
if kind == "value":
    head = b"*5\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(key), key.encode(), count * len(MIB))
    print(end(send(connect(), head, *([MIB] * count), b"\r\n$2\r\nEX\r\n$3\r\n600\r\n")))
if kind == "transaction":
    print(end(send(connect(), command("MULTI"), *([command("SET", key, MIB, "EX", "600")] * count))))
if kind == "commands":
    print(end(send(connect(), command("MULTI"), *([command("GET", key) * 10_000] * count))))
if kind == "replies":
    set(MIB * size)
    print(end(send(connect(), command("GET", key) * count)))
if kind == "crowd":
    large = command("SET", key, MIB, "EX", "600")
    clients = [send(connect(), command("MULTI"), *([large] * size)) for _ in range(count)]
    print(sum(end(client, 0.1) == "closed" for client in clients))
"""


def attack(redis: Instance, user: str, kind: str, count: int, size: int = 0) -> str:
    """Run an attack from the host and return how it ended for the client."""
    key = {"sessions": "app:session:large", "queues": "rq:job:large"}[user]
    return redis.host.run(
        f"timeout 100 python3 -c '{ATTACK}' {user} {kind} {count} {size}",
        input=f"{redis.secrets.passwords[user]} {key}",
        check=True,
    ).stdout.strip()


@pytest.fixture(scope="module")
def small(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """Give the shared host with a Redis of 64 MiB that has sessions.

    It is empty again afterwards.
    """
    host.run(DISCARD_DATA)
    redis = deployer.instance(host, **SMALL)
    assert fill(redis, "app:session:%d", range(SESSIONS), "EX", "3600").startswith("errors: 0")
    yield redis
    host.run(DISCARD_DATA)


@pytest.fixture
def unharmed(small: Instance) -> Iterator[None]:
    """Fail if the test had Redis killed, or if a key of others is gone."""
    before, evicted = small.identity, info(small, "stats")["evicted_keys"]
    yield
    assert_not_killed(small, before)
    assert info(small, "stats")["evicted_keys"] == evicted
    assert small.keys >= SESSIONS


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    ("kind", "count", "size", "end"),
    [
        ("value", 300, 0, "-ERR Protocol error: invalid bulk length"),
        ("transaction", 300, 0, "closed"),
        ("commands", 100, 0, "closed"),
        ("replies", 200, 3, "closed"),
    ],
)
def test_large_request_closes_only_its_connection(small: Instance, kind: str, count: int, size: int, end: str) -> None:
    """A value of 300 MiB, transactions that are large or long, or unread replies."""
    assert attack(small, "sessions", kind, count, size) == end


@pytest.mark.usefixtures("unharmed")
def test_many_clients_share_one_limit(small: Instance) -> None:
    """Each of 40 clients stays below its own limit of 8 MiB.

    Two of them fill the limit of all, 16 MiB.
    """
    assert int(attack(small, "sessions", "crowd", 40, 6)) >= 38


@pytest.mark.usefixtures("unharmed")
def test_largest_value_works_and_larger_one_is_refused(small: Instance) -> None:
    """An application gets an error for one byte more, and its next request works."""
    limit = load(SMALL).max_value
    value = b"x" * limit
    with small.client("queues") as client:
        assert client.set("rq:job:large", value)
        assert client.get("rq:job:large") == value
        with client.pipeline() as transaction:
            for field in ("data", "result"):
                transaction.hset("rq:job:other", field, value[:-1000])
            assert transaction.execute() == [1, 1]
        with pytest.raises(RedisError):
            client.set("rq:job:large", value + b"x")
        assert client.delete("rq:job:large", "rq:job:other") == 2


def run_large_script(client: Redis) -> None:
    """Let a script use 256 MiB, more than the container has."""
    client.evalsha(client.script_load("return #string.rep('x', 2^28)"), 0)


def copy_in_a_transaction(client: Redis) -> None:
    """Copy a set of 16 MiB 20 times.

    Redis compares its memory with maxmemory only before EXEC.
    """
    for member in range(8):
        client.sadd("rq:set", b"%d" % member + b"x" * 2**21)
    with client.pipeline() as transaction:
        for number in range(20):
            transaction.sunionstore(f"rq:copy:{number}", ["rq:set"])
        transaction.execute()


@pytest.mark.parametrize("attack", [run_large_script, copy_in_a_transaction])
def test_unlimited_commands_cost_a_restart(small: Instance, attack: Callable[[Redis], None]) -> None:
    """The user queues can have the kernel kill Redis.

    Redis is back by itself, with its data. If Redis gets a limit for this, remove what the control availability lacks.
    """
    before = small.identity
    try:
        with small.client("queues") as client, pytest.raises((ConnectionError, TimeoutError)):
            attack(client)
        wait_until(lambda: small.identity != before and small.health == "healthy", "Redis is back by itself", 120)
        assert small.inspect()["RestartCount"] == 1
        assert small.keys >= SESSIONS
    finally:
        # Also resets Docker's count of restarts.
        small.host.run("docker restart redis", check=True)
        small.wait_until_healthy()
        small.call("DEL rq:set")


def test_script_may_store_values_above_the_limit(small: Instance) -> None:
    """Redis checks the length of a value when it reads a request."""
    with small.client("queues") as client:
        digest = client.script_load("return redis.call('SET', KEYS[1], string.rep('x', ARGV[1]))")
        assert client.evalsha(digest, 1, "rq:large", load(SMALL).max_value + 1) == b"OK"
        assert client.delete("rq:large") == 1


def test_default_instance_survives_unread_replies(small: Instance, deployer: Deployer) -> None:
    """300 replies of 10 MiB to the user queues are twice the memory of the container."""
    redis = deployer.instance(small.host)
    before = redis.identity
    assert attack(redis, "queues", "replies", 300, 10) == "closed"
    assert_not_killed(redis, before)
    assert redis.keys >= SESSIONS
    assert redis.call("DEL rq:job:large") == ["1"]
