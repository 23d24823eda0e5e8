"""Configured users: real clients work with each role, users are isolated, and changes need no restart."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
from cachelib.redis import RedisCache
from flask_session import Session
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import LockNotOwnedError, NoPermissionError, RedisError
from redis.retry import Retry

from sandbox.hosts import Host
from tests.deployed_redis import Instance, tcp_tunnel, tunnel, wait_until
from tests.deployer import ROOT, Deployer

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

# The exporter's arguments from docs/applications.md.
ARGUMENTS = next(
    line for line in (ROOT / "docs" / "applications.md").read_text().splitlines() if line.startswith("ARGS=")
)
EXPORTER_PASSWORDS = "/etc/redis-exporter.json"
INSTALL_EXPORTER = f"""
set -e
apt-get --quiet update
apt-get --quiet --yes --no-install-recommends install prometheus-redis-exporter
echo '{ARGUMENTS.removesuffix('"')} -export-client-list"' > /etc/default/prometheus-redis-exporter
"""


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Instance:
    """Give the shared host with these users."""
    result = deployer.deploy(host, **WITH_USERS)
    assert result.returncode == 0, result.stderr
    return Instance(host, deployer.secrets(host, **WITH_USERS))


@pytest.fixture(scope="module")
def socket(redis: Instance) -> Iterator[Path]:
    with tunnel(redis.host, "127.0.0.1", 6379) as path:
        yield path


Connect = Callable[..., Redis]


@pytest.fixture
def connect(redis: Instance, socket: Path) -> Iterator[Connect]:
    """Give a function that connects a client as a user."""
    clients = []

    def connect(user: str, **options: Any) -> Redis:
        clients.append(
            Redis(
                unix_socket_path=str(socket),
                username=user,
                password=redis.secrets.passwords[user],
                retry=Retry(NoBackoff(), 0),
                socket_timeout=10,
                **options,
            )
        )
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def no_denials(redis: Instance) -> Iterator[None]:
    """Fail if Redis denies anything: a client that lacks a right often fails only in part."""
    redis.call("ACL LOG RESET")
    yield
    assert redis.call("ACL LOG") == [""]


# -- Clients that must work


@pytest.mark.usefixtures("no_denials")
@pytest.mark.parametrize("user", ["shop", "blog"])
def test_flask_session_works_with_session_role(connect: Connect, user: str) -> None:
    app = flask.Flask(user)
    app.config.update(SESSION_TYPE="redis", SESSION_REDIS=connect(user), SESSION_KEY_PREFIX=f"{user}:session:")
    Session(app)

    @app.route("/<name>")
    def visit(name: str) -> str:
        previous = flask.session.get("name", "anonymous")
        flask.session["name"] = name
        return str(previous)

    browser = app.test_client()
    assert [browser.get(f"/{name}").text for name in ("ann", "bob")] == ["anonymous", "ann"]


@pytest.mark.usefixtures("no_denials")
def test_cache_user_can_store_count_and_delete(connect: Connect) -> None:
    client = connect("pages")
    cache = RedisCache(host=client, key_prefix="pages:")
    assert cache.set("home", {"title": "Home"}, timeout=60)
    assert cache.set_many({"a": 1, "b": 2})
    assert cache.get_many("home", "a", "b") == [{"title": "Home"}, 1, 2]
    assert cache.add("home", "other") is False
    assert (cache.inc("hits", 2), cache.dec("hits")) == (2, 1)
    assert cache.has("home")
    assert cache.delete_many("home", "a", "b", "hits")
    with client.pipeline() as pipeline:
        pipeline.set("pages:x", 1, ex=5)
        pipeline.ttl("pages:x")
        assert pipeline.execute() == [True, 5]


@pytest.mark.usefixtures("no_denials")
def test_redis_py_locks_work_without_eval(connect: Connect) -> None:
    lock = connect("queues").lock("rq:lock:users", timeout=10)
    assert lock.acquire(blocking=False)
    assert lock.extend(5)
    assert lock.reacquire()
    other = connect("queues").lock("rq:lock:users", timeout=10)
    assert not other.acquire(blocking=False)
    lock.release()
    with pytest.raises(LockNotOwnedError):
        _release_lock_of_another_client(connect)


def _release_lock_of_another_client(connect: Connect) -> None:
    client = connect("queues")
    lock = client.lock("rq:lock:lost", timeout=10)
    assert lock.acquire(blocking=False)
    client.set("rq:lock:lost", "another's", ex=10)
    lock.release()


@pytest.mark.usefixtures("no_denials")
def test_celery_works_with_queue_role(redis: Instance) -> None:
    """The application uses results, retries, countdowns, chords and remote control."""
    with tcp_tunnel(redis.host, "127.0.0.1", 6379) as port:
        config = {"port": port, "username": "celery", "password": redis.secrets.passwords["celery"]}
        done = subprocess.run(
            [sys.executable, "-m", "tests.lifecycle.celery_app"],
            input=json.dumps(config),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "added": 5,
        "retried": 3,
        "later": 3,
        "chord": 9,
        "failed": "ZeroDivisionError",
        "pinged": 1,
        "revoked": True,
    }


@pytest.mark.usefixtures("no_denials")
def test_dashboard_reads_numbers_with_metrics_role(connect: Connect) -> None:
    client = connect("exporter", protocol=2)
    assert client.role()[0] == b"master"
    for command in ("INFO ALL", "LATENCY HISTORY command", "MEMORY STATS", "DBSIZE", "LASTSAVE"):
        client.execute_command(*command.split())


@pytest.fixture(scope="module")
def exporter(redis: Instance) -> Iterator[Host]:
    """Give the host with Debian's exporter as in docs/applications.md, with the client list and a second user."""
    redis.host.run(INSTALL_EXPORTER, check=True)
    passwords = {f"redis://{user}@127.0.0.1:6379": redis.secrets.passwords[user] for user in ("exporter", "slowlog")}
    redis.host.run(
        f"install -o prometheus -m 400 /dev/stdin {EXPORTER_PASSWORDS}", input=json.dumps(passwords), check=True
    )
    redis.host.run("systemctl restart prometheus-redis-exporter", check=True)
    wait_until(lambda: _scrape(redis.host, "metrics"), "the exporter answers", 10)
    yield redis.host
    redis.host.run(f"apt-get --quiet --yes purge prometheus-redis-exporter; rm {EXPORTER_PASSWORDS}", check=True)


def _scrape(host: Host, path: str) -> dict[str, float]:
    """Return the exporter's numbers by name and labels; empty if it does not answer."""
    text = host.run(f"curl --silent --fail --globoff 'http://127.0.0.1:9121/{path}'").stdout
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_exporter_reads_numbers_with_metrics_role(redis: Instance, exporter: Host) -> None:
    """The exporter also asks for the newest entry of SLOWLOG. Redis refuses it, and the exporter continues."""
    redis.call("SET rq:counted x EX 60", user="queues")
    redis.call("ACL LOG RESET")
    numbers = _scrape(exporter, "metrics")
    assert numbers["redis_up"] == 1
    assert numbers["redis_connected_clients"] >= 1
    assert numbers["redis_memory_used_bytes"] > 100_000
    assert numbers["redis_memory_max_bytes"] > numbers["redis_memory_used_bytes"]
    assert numbers['redis_db_keys{db="db0"}'] >= 1
    assert numbers["redis_slowlog_length"] >= 0
    assert numbers['redis_commands_latencies_usec_count{cmd="set"}'] >= 1
    assert any(name.startswith("redis_connected_client_info{") for name in numbers)
    assert "redis_slowlog_last_id" not in numbers
    denied = "redis_acl_access_denied_cmd_total"
    assert _scrape(exporter, "metrics")[denied] - numbers[denied] == 1
    assert _denied(redis) == {("exporter", "command", "slowlog|get"): 2}


@pytest.mark.usefixtures("no_denials")
def test_exporter_with_slowlog_rule_is_denied_nothing(exporter: Host) -> None:
    numbers = _scrape(exporter, "scrape?target=redis://slowlog@127.0.0.1:6379")
    assert numbers["redis_up"] == 1
    assert numbers["redis_slowlog_last_id"] >= 0


def test_exporter_does_not_expose_its_passwords(redis: Instance, exporter: Host) -> None:
    """A request to the exporter can name any server, and every user of the host can see the arguments of processes."""
    assert _scrape(exporter, "scrape?target=redis://exporter@127.0.0.1:6379/0")["redis_up"] == 0
    process = exporter.run("cd /proc/$(pidof prometheus-redis-exporter) && cat cmdline environ", check=True).stdout
    assert not any(password in process for password in redis.secrets.passwords.values())
    assert EXPORTER_PASSWORDS in process


def _denied(redis: Instance) -> dict[tuple[str, str, str], int]:
    """Return the entries of ACL LOG: user, reason and object, with their counts."""
    with redis.client(protocol=2, decode_responses=True) as client:
        entries = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in client.execute_command("ACL", "LOG")]
    return {(entry["username"], entry["reason"], entry["object"]): entry["count"] for entry in entries}


@pytest.mark.usefixtures("no_denials")
def test_read_only_and_custom_users_can_do_their_work(connect: Connect) -> None:
    connect("shop").set("shop:session:read", "x", ex=60)
    assert connect("reports").get("shop:session:read") == b"x"
    assert connect("reports").ttl("shop:session:read") == 60
    assert connect("ours").geoadd("ours:places", (13.4, 52.5, "here")) == 1


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
    own = USERS[user].get("keys", ["x"])[0].replace("*", "x")
    for command in (*REFUSED[user], *ESCALATIONS):
        with pytest.raises((NoPermissionError, RedisError), match=r"(?i)no permissions|unknown command|not allowed"):
            _call(client, command.format(own=own))


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


def test_users_are_added_changed_removed_without_restart(
    redis: Instance, deployer: Deployer, connect: Connect, socket: Path
) -> None:
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
    assert deployer.deploy(redis.host, **WITH_USERS).changed == []


def test_unknown_rule_is_refused_and_users_stay(redis: Instance, deployer: Deployer) -> None:
    before, users = redis.identity, redis.call("ACL LIST")
    file = redis.host.run("sha256sum /srv/redis/config/users.acl").stdout
    invalid = {**USERS, "ours": {"role": "custom", "keys": ["ours:*"], "rules": "+nosuchcommand"}}
    result = deployer.deploy(redis.host, redis_users=invalid)
    assert result.returncode == 1
    assert "Redis refuses these users. Those on the host were left alone" in result.stderr
    assert "+nosuchcommand" in result.stderr
    assert redis.host.run("sha256sum /srv/redis/config/users.acl").stdout == file
    assert (redis.identity, redis.call("ACL LIST")) == (before, users)
    assert deployer.deploy(redis.host, **WITH_USERS).changed == []


def test_users_survive_a_restart(redis: Instance, connect: Connect) -> None:
    before = redis.call("ACL LIST")
    redis.host.run("cd /srv/redis && docker compose up --detach --force-recreate --wait redis", check=True)
    assert redis.call("ACL LIST") == before
    assert connect("ours").ping()
