"""What the data changes in a Redis that loads it, and what is undone.

Deployed, with Docker and systemd: tests/lifecycle/test_forged_aof.py.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError

from redisctl import paths
from redisctl.core import lock, server_changes
from redisctl.deploy import users
from redisctl.schema import AclRequest
from tests.aof import BACKDOOR, FUNCTION, MORE_RIGHTS, REPLICA, encode
from tests.redisctl.local_redis import LocalRedis, load_local_instance, local_redis

NAME = f"undo-{os.getpid()}"
USERS = {b"admin", b"default", b"health", b"queues", b"sessions"}


@pytest.fixture
def redis(image_root: Path, tmp_path: Path) -> Iterator[LocalRedis]:
    """Give a server with a key."""
    with local_redis(image_root, tmp_path, NAME) as server:
        with server.client() as client:
            client.set("app:session:kept", "1", ex=7200)
        yield server


def forge(redis: LocalRedis, *commands: tuple[str | bytes, ...], more: bytes = b"") -> None:
    """Start the server again with an AOF that ends in these commands.

    It may still load when this returns.
    """
    redis.stop()
    (file,) = (redis.root / "data/live/appendonlydir").glob("*.incr.aof")
    with file.open("ab") as aof:
        aof.write(more)
        aof.write(b"".join(encode(*command) for command in commands))
    redis.launch()


def undo(redis: LocalRedis) -> str:
    """Look at the start as systemd does. Returns what redisctl prints."""
    output = redis.redisctl("undo-changes")
    assert (output.returncode, output.stderr) == (0, ""), output
    return output.stdout


def answer(redis: LocalRedis, *command: str) -> Any:
    """Return the answer to a command of admin, with bytes."""
    with redis.client() as client:
        return client.execute_command(*command)


def assert_clean(redis: LocalRedis) -> None:
    """Fail unless the server is what the files say, with its data."""
    assert set(answer(redis, "ACL", "USERS")) == USERS
    assert b"nopass" not in b" ".join(answer(redis, "ACL", "LIST"))
    assert answer(redis, "ROLE")[0] == b"master"
    assert redis.execute_renamed("CONFIG", "GET", "maxmemory-policy")["maxmemory-policy"] == "volatile-lru"
    assert answer(redis, "GET", "app:session:kept") == b"1"
    admin = next(line for line in answer(redis, "ACL", "LIST") if line.startswith(b"user admin "))
    assert b"replicaof" not in admin
    assert b"slaveof" not in admin


def wait_for_rewrite(redis: LocalRedis) -> None:
    """Wait until the AOF has been rewritten."""
    end = time.monotonic() + 20
    while any((info := answer(redis, "INFO", "persistence"))[f"aof_rewrite_{x}"] for x in ("in_progress", "scheduled")):
        assert time.monotonic() < end, info
        time.sleep(0.05)


def test_changes_by_the_aof_are_undone_for_good(redis: LocalRedis) -> None:
    """Users, a directive in MULTI, the role.

    A second look does nothing, and the rewritten AOF changes nothing.
    """
    config = redis.secrets.renamed_command("CONFIG")
    change = (("MULTI",), (config, "SET", "maxmemory-policy", "noeviction"), ("EXEC",))
    forge(redis, BACKDOOR, MORE_RIGHTS, *change, FUNCTION, REPLICA)
    output = undo(redis)
    assert "other users than config/users.acl: backdoor, sessions" in output
    assert "other values than redis.conf: maxmemory-policy" in output
    assert "a replica of 127.0.0.1:1" in output
    assert_clean(redis)
    report = redis.redisctl("health").stdout
    assert "other users than config/users.acl: backdoor, sessions" in report
    assert "no user may run evil" in report
    assert undo(redis) == ""
    wait_for_rewrite(redis)
    redis.stop()
    redis.start()
    assert_clean(redis)
    assert undo(redis) == ""
    assert "backdoor" not in redis.redisctl("health").stdout


def test_undo_waits_until_the_data_is_loaded(redis: LocalRedis) -> None:
    """AUTH, ACL LIST and ACL LOAD work while Redis loads.

    What it has not executed yet would come later.
    """
    forge(redis, BACKDOOR, more=encode("PING") * 6_000_000)
    end = time.monotonic() + 10
    while True:
        try:
            if answer(redis, "INFO", "persistence")["loading"]:
                break
        except (OSError, RedisConnectionError):
            assert time.monotonic() < end, "Redis never answered while it loads"
    assert set(answer(redis, "ACL", "USERS")) == USERS
    assert "backdoor" in undo(redis)
    assert_clean(redis)


def test_undo_waits_although_admin_lacks_rights(redis: LocalRedis) -> None:
    """The data takes them first, then takes time, then creates a user."""
    rights = encode("ACL", "SETUSER", "admin", "-info", "-ping", *["on"] * 3)
    forge(redis, BACKDOOR, more=rights + encode("PING") * 6_000_000)
    undo(redis)
    assert_clean(redis)


def test_users_with_any_name_and_size_are_removed(redis: LocalRedis) -> None:
    """Names that are no text, look like others, or are too long for one answer."""
    names = (b"\xff\xfe", "default\u2003off".encode(), "x\u2028admin".encode(), b"n" * 100_000)
    forged = [("ACL", "SETUSER", name, "on", "nopass", "+@all") for name in names]
    forge(redis, *forged, ("ACL", "SETUSER", "large", "on", "~" + "k" * 5_000_000))
    output = undo(redis)
    assert "other users than config/users.acl: (too many to list)" in output
    assert_clean(redis)


def test_names_are_escaped_and_short(redis: LocalRedis) -> None:
    forge(redis, *(("ACL", "SETUSER", name, "on") for name in (b"\x1b[2J\xff", b"n" * 100_000)))
    output = undo(redis)
    assert r"\x1b[2J\xff, " in output
    assert len(output) < 1000
    report = redis.redisctl("health").stdout
    assert r"\x1b[2J\xff" in report
    assert_clean(redis)


@pytest.mark.parametrize("user", [b"\xff\xfe", "default\u2003off".encode()])
def test_health_reports_users_that_no_file_has(redis: LocalRedis, user: bytes) -> None:
    """Also while somebody holds the lock."""
    with redis.client() as client:
        client.execute_command("ACL", "SETUSER", user, "on")
        client.execute_command("ACL", "SETUSER", b"n" * 100_000, "on")
    for held in (False, True):
        if held:
            with lock.hold(redis.settings.redis_name, "test"):
                report = redis.redisctl("health").stdout
        else:
            report = redis.redisctl("health").stdout
        assert "other users than config/users.acl: " in report, held
        assert server_changes.named([user]) in report, held
        assert len(report) < 10_000


def test_long_rules_hide_no_user(redis: LocalRedis) -> None:
    """Health asks for the names alone."""
    answer(redis, "ACL", "SETUSER", "large", "on", "~" + "k" * 5_000_000)
    report = redis.redisctl("health").stdout
    assert "other users than config/users.acl: large" in report


def test_right_that_admin_lacks_does_not_stop_the_undo(redis: LocalRedis) -> None:
    # Redis 8.0.2 crashes if an AOF has an ACL SETUSER after a shorter one.
    forge(redis, BACKDOOR, ("ACL", "SETUSER", "admin", "-role", "-config", "-info"), REPLICA)
    assert "a replica of 127.0.0.1:1" in undo(redis)
    assert_clean(redis)


def test_clients_of_changed_users_are_disconnected(redis: LocalRedis) -> None:
    """They logged in without a password."""
    forge(redis, ("ACL", "SETUSER", "admin", "nopass"))
    with Redis(unix_socket_path=redis.socket, username="admin", password="any", socket_timeout=5) as attacker:
        end = time.monotonic() + 10
        connection = None
        while connection is None:
            try:
                connection = attacker.connection_pool.get_connection()
            except (RedisConnectionError, AuthenticationError):
                assert time.monotonic() < end
        assert "admin" in undo(redis)
        assert connection._sock.recv(1) == b""
    assert_clean(redis)


def test_admin_that_is_locked_out_is_reported(redis: LocalRedis) -> None:
    forge(redis, ("ACL", "SETUSER", "admin", "resetpass", ">another"))
    output = undo(redis)
    assert "WRONGPASS" in output
    assert "redisctl restore with a backup from before that" in output


@pytest.mark.parametrize("blocker", ["lock", "journal"])
def test_nothing_is_undone_during_a_change(redis: LocalRedis, blocker: str) -> None:
    """The files may be those of a Redis that has not started yet.

    Afterwards the next look finds the change.
    """
    forge(redis, BACKDOOR)
    while not redis.answers():
        time.sleep(0.05)
    journal = redis.root / paths.JOURNAL
    if blocker == "lock":
        with lock.hold(redis.settings.redis_name, "test"):
            assert undo(redis) == ""
    else:
        journal.write_text("{}")
        assert undo(redis) == ""
        journal.unlink()
    assert b"backdoor" in answer(redis, "ACL", "USERS")
    assert "backdoor" in undo(redis)
    assert_clean(redis)


def test_no_aof_is_written_without_one(image_root: Path, tmp_path: Path) -> None:
    with local_redis(image_root, tmp_path, NAME, redis_appendonly=False, redis_save="3600 1") as server:
        answer(server, *BACKDOOR)
        assert "backdoor" in undo(server)
        assert set(answer(server, "ACL", "USERS")) == USERS
        assert not (server.root / "data/live/appendonlydir").exists()


def test_start_is_looked_at_once(redis: LocalRedis) -> None:
    """What changes later is left to a deploy, but for the role."""
    assert undo(redis) == ""
    answer(redis, "ACL", "SETUSER", "later", "on")
    assert undo(redis) == ""
    assert b"later" in answer(redis, "ACL", "USERS")
    answer(redis, "ACL", "SETUSER", "admin", "+replicaof")
    answer(redis, *REPLICA)
    assert "a replica of 127.0.0.1:1" in undo(redis)
    assert_clean(redis)


@pytest.mark.parametrize("user", [b"\xff\xfe", "default\u2003off".encode(), b"plain"])
def test_deploy_removes_users_with_any_name(redis: LocalRedis, user: bytes) -> None:
    with redis.client() as client:
        client.execute_command("ACL", "SETUSER", user, "on")
    users.apply(load_local_instance(redis.root), AclRequest((redis.root / paths.CONFIG / "users.acl").read_text()))
    assert_clean(redis)


def test_users_set_live_are_no_change(redis: LocalRedis) -> None:
    """A first look at a Redis whose users a deploy has set."""
    users.apply(load_local_instance(redis.root), AclRequest((redis.root / paths.CONFIG / "users.acl").read_text()))
    assert undo(redis) == ""


def test_record_that_cannot_be_written_is_a_message(redis: LocalRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "start_record", lambda _: "/proc/no-directory/start")
    instance = load_local_instance(redis.root)
    (message,) = server_changes.undo_after_start(instance)
    assert "/proc/no-directory/start cannot be written" in message
