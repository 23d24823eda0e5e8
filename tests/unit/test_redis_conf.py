"""redis.conf: one directive per line, and drift of a running Redis.

Only real differences count as drift.
"""

from typing import Any

import pytest

from redoubt import host_files, redis_conf
from redoubt.secret_store import Secrets
from redoubt.settings.load import load

SECRETS = Secrets({}, {"CONFIG": "config-0123456789abcdef", "SHUTDOWN": "shutdown-0123456789abcdef"})


def conf(**data: Any) -> list[str]:
    return host_files.config_files(load(data))[0].content.splitlines()


def test_the_default_directives() -> None:
    expected = {
        "maxmemory 1073741824",
        "maxmemory-policy volatile-lru",
        "maxmemory-samples 10",
        "hash-max-listpack-entries 1024",
        "hash-max-listpack-value 256",
        "list-max-listpack-size -1",
        "notify-keyspace-events Ex",
        "save 900 1 300 10 60 10000 30 100000",
        "appendonly yes",
        "appendfsync everysec",
        "aof-rewrite-incremental-fsync yes",
        "lazyfree-lazy-eviction yes",
        "maxclients 10032",
        "maxmemory-clients 134217728",
        "proto-max-bulk-len 33554432",
        "client-query-buffer-limit 67108864",
        "client-output-buffer-limit normal 67108864 0 0 slave 134217728 0 0 pubsub 67108864 16777216 60",
        "protected-mode yes",
    }
    assert expected <= set(conf())


@pytest.mark.parametrize(
    "line", conf(redis_save="", redis_notify_keyspace_events="", redis_extra_config={"io-threads": "2"})
)
def test_no_directive_is_followed_by_a_comment(line: str) -> None:
    """Redis would refuse to start."""
    assert not line or line.startswith("# ") or "#" not in line


def test_an_empty_value_is_written_as_quotes() -> None:
    assert {'save ""', 'notify-keyspace-events ""'} <= set(conf(redis_save="", redis_notify_keyspace_events=""))


def test_further_directives_are_written() -> None:
    assert "io-threads 2" in conf(redis_extra_config={"io-threads": "2"})


def test_no_secret_is_in_redis_conf() -> None:
    assert not [line for line in conf() if "rename" in line or "requirepass" in line]


def test_commands_are_disabled_and_renamed_in_the_secret_file() -> None:
    text = redis_conf.command_names(load({}), SECRETS.commands)
    assert text.splitlines() == [
        'rename-command FLUSHDB ""',
        'rename-command FLUSHALL ""',
        'rename-command DEBUG ""',
        'rename-command EVAL ""',
        "rename-command CONFIG config-0123456789abcdef",
        "rename-command SHUTDOWN shutdown-0123456789abcdef",
    ]


def test_an_up_to_date_server_has_no_differences() -> None:
    settings = load({})
    assert redis_conf.differences(settings, redis_conf.runtime(settings)) == {}


def test_the_order_of_event_classes_does_not_matter() -> None:
    settings = load({"redis_notify_keyspace_events": "Exg"})
    running = {**redis_conf.runtime(settings), "notify-keyspace-events": "gxE"}
    assert redis_conf.differences(settings, running) == {}


@pytest.mark.parametrize(
    ("name", "running"), [("maxmemory", "5368709120"), ("maxmemory-policy", "allkeys-lru"), ("save", "")]
)
def test_a_value_changed_by_hand_is_a_difference(name: str, running: str) -> None:
    settings = load({})
    desired = redis_conf.runtime(settings)
    assert redis_conf.differences(settings, {**desired, name: running}) == {name: (running, desired[name])}


def test_a_directive_that_redis_does_not_report_is_a_difference() -> None:
    settings = load({})
    running = redis_conf.runtime(settings)
    del running["timeout"]
    assert redis_conf.differences(settings, running) == {"timeout": ("(unknown)", "300")}


@pytest.mark.parametrize(
    ("image", "appendonly", "expected"),
    [
        ("redis:8.2.10", True, {"shutdown-on-sigterm": "nosave", "aof-timestamp-enabled": "yes"}),
        ("redis:8.2.10", False, {"shutdown-on-sigterm": "default", "aof-timestamp-enabled": "yes"}),
        ("redis:6.2.24", True, {}),
    ],
)
def test_an_old_server_gets_no_directive_that_it_lacks(image: str, appendonly: bool, expected: dict[str, str]) -> None:
    persistence = redis_conf.directives(load({"redis_image": image, "redis_appendonly": appendonly}))["Persistence"]
    new = ("shutdown-on-sigterm", "aof-timestamp-enabled")
    assert {name: persistence[name] for name in new if name in persistence} == expected


def test_one_call_sets_all_directives_or_none() -> None:
    values = {"timeout": "0", "maxmemory": "20"}
    assert redis_conf.set_commands(load({}), values) == [("timeout", "0", "maxmemory", "20")]
    assert redis_conf.set_commands(load({}), {}) == []


def test_redis_6_sets_one_directive_in_a_call() -> None:
    values = {"timeout": "0", "maxmemory": "20"}
    old = load({"redis_image": "redis:6.2.24"})
    assert redis_conf.set_commands(old, values) == [("timeout", "0"), ("maxmemory", "20")]


def test_further_directives_need_a_restart() -> None:
    """Redoubt does not know which of them Redis can change live."""
    at_start = redis_conf.read_at_start(load({"redis_extra_config": {"io-threads": "2"}}))
    assert at_start["io-threads"] == "2"
    assert {"port", "maxclients", "databases", "dir"} <= set(at_start)
    assert "maxmemory" not in at_start
