"""Configured users: they are isolated, and changes need no restart.

tests/apps has the clients that they serve.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import NoPermissionError, RedisError

from redisctl import schema
from redisctl.schema import AclRequest
from redoubt.settings.load import load
from sandbox.hosts import Host
from tests.deployed_redis import Connect, Instance, clients
from tests.deployer import Deployer
from tests.lifecycle.expected_files import digests

USERS: dict[str, dict[str, Any]] = {
    "shop": {"role": "session", "keys": ["shop:session:*"], "channels": ["__keyevent@*__:expired"]},
    "blog": {"role": "session", "keys": ["blog:session:*"]},
    "pages": {"role": "cache", "keys": ["pages:*"]},
    "celery": {
        "role": "queue",
        "keys": ["celery:*"],
        "channels": ["celery:*", "celery:/0.celery.pidbox", "celery:/0.celeryev/*"],
    },
    "reports": {"role": "read-only", "keys": ["shop:session:*", "pages:*"]},
    "exporter": {"role": "metrics"},
    "slowlog": {"role": "metrics", "rules": "+slowlog|get"},
    "ours": {"role": "custom", "keys": ["ours:*"], "rules": "+@geo -georadius"},
}
WITH_USERS: dict[str, Any] = {"redis_users": USERS}


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Instance:
    """Give the shared host with these users."""
    return deployer.instance(host, **WITH_USERS)


@pytest.fixture(scope="module")
def connect(redis: Instance) -> Iterator[Connect]:
    with clients(redis) as connect:
        yield connect


# -- Commands that each user must not run

REFUSED = {
    "shop": ["GET blog:session:x", "GET app:session:x", "GET pages:x", "SCAN 0", "RANDOMKEY", "SUBSCRIBE rq:x"],
    "blog": ["GET shop:session:x", "DEL shop:session:x", "SUBSCRIBE __keyevent@0__:expired"],
    "pages": ["GET shop:session:x", "SCAN 0", "KEYS *", "SUBSCRIBE pages:x", "EVALSHA 0 0", "SORT pages:x", "FLUSHALL"],
    "celery": ["GET rq:x", "GET shop:session:x", "SCAN 0", "PUBLISH rq:x v", "CONFIG GET dir", "FUNCTION LIST"],
    "reports": [
        "SET shop:session:x v",
        "DEL pages:x",
        "EXPIRE pages:x 1",
        "GET blog:session:x",
        "SCAN 0",
        "DBSIZE",
        "KEYS *",
        "XREAD BLOCK 1 STREAMS pages:x 0",
    ],
    "exporter": ["GET pages:x", "SLOWLOG GET", "MONITOR", "MEMORY USAGE pages:x", "CLIENT KILL ID 1", "SCAN 0"],
    "slowlog": ["GET pages:x", "SLOWLOG RESET", "MONITOR"],
    "ours": ["GET ours:x", "GEORADIUS ours:places 1 1 1 m", "GEOADD pages:x 1 1 here"],
}
# Other ways to run scripts, to read data of other users, or to get more rights.
ESCALATIONS = [
    "SCRIPT FLUSH",
    "SCRIPT KILL",
    "FUNCTION LOAD x",
    "FUNCTION RESTORE x",
    "FCALL x 0",
    "EVAL_RO x 0",
    "EVALSHA_RO x 0",
    "MIGRATE 127.0.0.1 6379 x 0 10",
    "RESTORE {own} 0 x",
    "DUMP blog:session:x",
    "COPY blog:session:x {own}",
    "MODULE LOAD /x",
    "REPLICAOF 127.0.0.1 6379",
    "ACL LIST",
    "ACL SETUSER shop +@all",
    "ACL WHOAMI",
    "CLIENT KILL ID 1",
    "CLIENT PAUSE 1",
    "SHUTDOWN",
    "DEBUG SLEEP 0",
    "SWAPDB 0 1",
]


@pytest.mark.parametrize("user", USERS)
def test_user_is_refused_everything_else(connect: Connect, user: str) -> None:
    client = connect(user)
    key = USERS[user].get("keys", ["x"])[0].replace("*", "x")
    for command in (*REFUSED[user], *ESCALATIONS):
        with pytest.raises((NoPermissionError, RedisError), match=r"(?i)no permissions|unknown command|not allowed"):
            _call(client, command.format(own=key))


def _call(client: Redis, command: str) -> None:
    if command.startswith("SUBSCRIBE"):
        with client.pubsub() as subscriber:
            subscriber.subscribe(command.split()[1])
            subscriber.get_message(timeout=2)
    else:
        client.execute_command(*command.split())


def test_script_has_only_the_rights_of_its_user(connect: Connect) -> None:
    """SCRIPT LOAD and EVALSHA work although EVAL is disabled."""
    client = connect("celery")
    assert client.evalsha(client.script_load("return redis.call('SET', KEYS[1], 'v')"), 1, "celery:x") == b"OK"
    for code in ("return redis.call('GET', 'shop:session:x')", "return redis.call('KEYS', '*')"):
        with pytest.raises(RedisError, match=r"(?i)permissions|acl failure|unknown redis command"):
            client.evalsha(client.script_load(code), 0)
    client.delete("celery:x")


# -- Changes of users


def test_users_are_added_changed_removed_without_restart(redis: Instance, deployer: Deployer, connect: Connect) -> None:
    before = redis.identity
    with connect("sessions") as session_client, connect("blog") as removed_client:
        number = session_client.client_id()
        removed_client.ping()
        remaining = {name: user for name, user in USERS.items() if name != "blog"}
        changed = {**remaining, "pages": {"role": "read-only", "keys": ["pages:*"]}, "new": {"role": "metrics"}}
        result = deployer.deploy(redis.host, redis_users=changed)
        assert result.returncode == 0, result.stderr
        assert "redis has the user blog, which is not in the settings" in result.reasons
        assert "redis lacks the user new" in result.reasons
        assert session_client.client_id() == number
        with pytest.raises(Lost):
            removed_client.ping()
    assert redis.identity == before
    with pytest.raises(NoPermissionError):
        connect("pages").set("pages:x", "v")
    assert redis.host.run("ls /srv/redis/secrets/blog").returncode != 0

    result = deployer.deploy(redis.host, **WITH_USERS)
    assert result.returncode == 0, result.stderr
    # The secret store still has the password of blog.
    connect("blog").ping()
    assert redis.identity == before


def test_unknown_rule_is_refused_and_users_stay(redis: Instance, deployer: Deployer) -> None:
    before = redis.identity, redis.call("ACL LIST"), digests(redis.host)
    invalid = {**USERS, "ours": {"role": "custom", "keys": ["ours:*"], "rules": "+nosuchcommand"}}
    result = deployer.deploy(redis.host, redis_users=invalid)
    assert result.returncode == 1
    assert "ours: rules: 'nosuchcommand' is not a command of Redis 8.0" in result.stderr
    # A server may know less than its version says.
    container = redis.inspect()["Config"]
    request = AclRequest("user ours on +nosuchcommand\n", image=container["Image"], owner=load({}).owner)
    refused = redis.host.run("redisctl deploy check-acl", input=schema.dump(request))
    assert "refuses these users. Those on the host were left alone" in refused.stdout + refused.stderr
    assert "+nosuchcommand" in refused.stdout + refused.stderr
    assert (redis.identity, redis.call("ACL LIST"), digests(redis.host)) == before


def test_users_survive_a_restart(redis: Instance, connect: Connect) -> None:
    before = redis.call("ACL LIST")
    redis.host.run("cd /srv/redis && docker compose up --detach --force-recreate --wait redis", check=True)
    assert redis.call("ACL LIST") == before
    assert connect("ours").ping()
