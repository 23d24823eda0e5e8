"""redis.conf: every directive on a line of its own, and drift told from what means the same."""

from typing import Any

import pytest

from redoubt import host_files, redis_conf
from redoubt.secret_store import Secrets
from redoubt.settings.load import load

SECRETS = Secrets({}, {"CONFIG": "config-0123456789abcdef", "SHUTDOWN": "shutdown-0123456789abcdef"})


def conf(**data: Any) -> list[str]:
    return host_files.config_files(load(data))[0].content.splitlines()


def test_the_defaults_are_those_that_were_asked_for() -> None:
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
        "maxclients 10000",
        "protected-mode yes",
    }
    assert expected <= set(conf())


@pytest.mark.parametrize(
    "line", conf(redis_save="", redis_notify_keyspace_events="", redis_extra_config={"io-threads": "2"})
)
def test_no_directive_is_followed_by_a_comment(line: str) -> None:
    """That is fatal at start."""
    assert not line or line.startswith("# ") or "#" not in line


def test_an_empty_value_is_written_as_one() -> None:
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


def test_a_running_server_as_wanted_has_no_differences() -> None:
    settings = load({})
    assert redis_conf.differences(settings, redis_conf.runtime(settings)) == {}


def test_the_order_of_event_classes_is_no_difference() -> None:
    settings = load({"redis_notify_keyspace_events": "Exg"})
    running = {**redis_conf.runtime(settings), "notify-keyspace-events": "gxE"}
    assert redis_conf.differences(settings, running) == {}


@pytest.mark.parametrize(
    ("name", "running"), [("maxmemory", "5368709120"), ("maxmemory-policy", "allkeys-lru"), ("save", "")]
)
def test_a_value_changed_by_hand_is_a_difference(name: str, running: str) -> None:
    settings = load({})
    wanted = redis_conf.runtime(settings)
    assert redis_conf.differences(settings, {**wanted, name: running}) == {name: (running, wanted[name])}
