"""Configuration: the running server has the values of the settings."""

import re
from collections.abc import Callable

import pytest
from redis.exceptions import ResponseError
from testinfra.host import Host

from redoubt.settings.model import Settings
from redoubt.sizes import parse_redis_size
from tests.host.host_under_test import Target, quoted


def _yes_no(setting: str) -> Callable[[Settings], str]:
    return lambda settings: "yes" if getattr(settings, setting) else "no"


def _value(setting: str) -> Callable[[Settings], str]:
    return lambda settings: str(getattr(settings, setting))


def _fixed(value: str) -> Callable[[Settings], str]:
    return lambda settings: value


EXPECTED: dict[str, Callable[[Settings], str]] = {
    "port": lambda settings: "0" if settings.redis_tls == "required" else "6379",
    # Clients without a login are refused even if a later change opens the default user.
    "protected-mode": _fixed("yes"),
    "tcp-backlog": _value("redis_tcp_backlog"),
    "timeout": _value("redis_timeout"),
    "tcp-keepalive": _value("redis_tcp_keepalive"),
    # With a reserve for the health check, redisctl and admin.
    "maxclients": lambda settings: str(settings.redis_maxclients + 32),
    "proto-max-bulk-len": lambda settings: str(settings.max_value),
    "client-query-buffer-limit": lambda settings: str(2 * settings.max_value),
    "databases": _value("redis_databases"),
    "maxmemory": _value("redis_maxmemory"),
    "maxmemory-policy": _value("redis_maxmemory_policy"),
    "maxmemory-samples": _value("redis_maxmemory_samples"),
    "hash-max-listpack-entries": _value("redis_hash_max_listpack_entries"),
    "hash-max-listpack-value": _value("redis_hash_max_listpack_value"),
    "list-max-listpack-size": _value("redis_list_max_listpack_size"),
    "lazyfree-lazy-eviction": _yes_no("redis_lazyfree"),
    "lazyfree-lazy-expire": _yes_no("redis_lazyfree"),
    "lazyfree-lazy-server-del": _yes_no("redis_lazyfree"),
    "lazyfree-lazy-user-del": _yes_no("redis_lazyfree"),
    "save": _value("redis_save"),
    # With a full disk clients see errors at once, instead of losing data at the next crash.
    "stop-writes-on-bgsave-error": _fixed("yes"),
    "rdb-save-incremental-fsync": _yes_no("redis_incremental_fsync"),
    "appendonly": _yes_no("redis_appendonly"),
    # Redis starts with an AOF that a power cut truncated.
    "aof-load-truncated": _fixed("yes"),
    "appendfsync": _value("redis_appendfsync"),
    "aof-rewrite-incremental-fsync": _yes_no("redis_incremental_fsync"),
    "auto-aof-rewrite-percentage": _value("redis_auto_aof_rewrite_percentage"),
    "auto-aof-rewrite-min-size": _value("redis_auto_aof_rewrite_min_size"),
    "dir": _fixed("/data"),
    "loglevel": _value("redis_loglevel"),
    "logfile": _fixed("/var/log/redis/redis.log"),
    "slowlog-log-slower-than": _value("redis_slowlog_log_slower_than"),
    "slowlog-max-len": _value("redis_slowlog_max_len"),
    "latency-monitor-threshold": _value("redis_latency_monitor_threshold"),
    "aclfile": _fixed("/etc/redis/users.acl"),
    # With an ACL file Redis would silently ignore this password of the default user.
    "requirepass": _fixed(""),
    # No connection may change protected settings, debug, or load modules.
    "enable-protected-configs": _fixed("no"),
    "enable-debug-command": _fixed("no"),
    "enable-module-command": _fixed("no"),
}

# The control of the security report that a directive belongs to.
SECURITY = {
    "protected-mode": "authentication",
    "aclfile": "authentication",
    "enable-protected-configs": "dangerous commands",
    "enable-debug-command": "dangerous commands",
    "enable-module-command": "dangerous commands",
}


@pytest.mark.parametrize(
    "directive",
    [pytest.param(name, marks=pytest.mark.security(SECURITY[name]) if name in SECURITY else ()) for name in EXPECTED],
)
def test_redis_runs_as_the_settings_say(config: dict[str, str], settings: Settings, directive: str) -> None:
    """The running server has the value, whatever the file says."""
    assert config[directive] == EXPECTED[directive](settings)


def test_events_are_published_as_the_settings_say(config: dict[str, str], settings: Settings) -> None:
    """Redis reorders the letters and writes A for all the classes that A stands for."""
    actual = config["notify-keyspace-events"].replace("A", "g$lshzxetd")
    expected = settings.redis_notify_keyspace_events.replace("A", "g$lshzxetd")
    assert set(actual) == set(expected)


def test_extra_directives_run(config: dict[str, str], settings: Settings) -> None:
    """Redis runs with redis_extra_config, in whatever notation the user chose.

    The test compares the meaning of sizes and ignores case.
    """
    different = {
        name for name, value in settings.redis_extra_config.items() if _normalise(config.get(name)) != _normalise(value)
    }
    assert not different


def _normalise(value: str | None) -> str:
    try:
        return str(parse_redis_size(value))
    except ValueError:
        return " ".join(str(value).strip("\"'").lower().split())


def test_no_directive_is_followed_by_a_comment(host: Host, settings: Settings) -> None:
    """Redis does not start with one, and the next start may be months away."""
    lines = host.check_output(f"cat {quoted(settings.root)}/config/*.conf").splitlines()
    assert any(line.startswith("maxmemory ") for line in lines), "redis.conf was not read"
    assert not [line for line in lines if not line.startswith("#") and re.search(r"\s#", line)]


@pytest.mark.writes
def test_defragmentation_runs_if_the_build_supports_it(
    target: Target, settings: Settings, config: dict[str, str]
) -> None:
    """Debian's build names jemalloc and does not support it; the official image does.

    With "auto" the test turns it on to see whether this build can, and off again at once.
    """
    is_on = config["activedefrag"] == "yes"
    if settings.redis_activedefrag != "auto":
        assert is_on == (settings.redis_activedefrag == "yes")
    else:
        try:
            target.admin_call("CONFIG", "SET", "activedefrag", "yes")
            target.admin_call("CONFIG", "SET", "activedefrag", config["activedefrag"])
            is_supported = True
        except ResponseError:
            is_supported = False
        assert is_on == is_supported
