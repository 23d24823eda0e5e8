"""Configuration: what runs is what the settings say, asked of the running server."""

import re
from collections.abc import Callable

import pytest
from redis.exceptions import ResponseError
from testinfra.host import Host

from redoubt.settings.model import Settings
from redoubt.sizes import parse_redis_size
from tests.host.host_under_test import Target, quoted


def _yes(setting: str) -> Callable[[Settings], str]:
    return lambda settings: "yes" if getattr(settings, setting) else "no"


def _is(setting: str) -> Callable[[Settings], str]:
    return lambda settings: str(getattr(settings, setting))


def _always(value: str) -> Callable[[Settings], str]:
    return lambda settings: value


PROMISED: dict[str, Callable[[Settings], str]] = {
    "port": lambda settings: "0" if settings.redis_tls == "required" else "6379",
    # Strangers are refused even if a later change opened the default user.
    "protected-mode": _always("yes"),
    "tcp-backlog": _is("redis_tcp_backlog"),
    "timeout": _is("redis_timeout"),
    "tcp-keepalive": _is("redis_tcp_keepalive"),
    "maxclients": _is("redis_maxclients"),
    "databases": _is("redis_databases"),
    "maxmemory": _is("redis_maxmemory"),
    "maxmemory-policy": _is("redis_maxmemory_policy"),
    "maxmemory-samples": _is("redis_maxmemory_samples"),
    "hash-max-listpack-entries": _is("redis_hash_max_listpack_entries"),
    "hash-max-listpack-value": _is("redis_hash_max_listpack_value"),
    "list-max-listpack-size": _is("redis_list_max_listpack_size"),
    "lazyfree-lazy-eviction": _yes("redis_lazyfree"),
    "lazyfree-lazy-expire": _yes("redis_lazyfree"),
    "lazyfree-lazy-server-del": _yes("redis_lazyfree"),
    "lazyfree-lazy-user-del": _yes("redis_lazyfree"),
    "save": _is("redis_save"),
    # A full disk is an error that clients see, and not a backup that is missing later.
    "stop-writes-on-bgsave-error": _always("yes"),
    "rdb-save-incremental-fsync": _yes("redis_incremental_fsync"),
    "appendonly": _yes("redis_appendonly"),
    # A log of writes that a power cut tore is no reason to stay down.
    "aof-load-truncated": _always("yes"),
    "appendfsync": _is("redis_appendfsync"),
    "aof-rewrite-incremental-fsync": _yes("redis_incremental_fsync"),
    "auto-aof-rewrite-percentage": _is("redis_auto_aof_rewrite_percentage"),
    "auto-aof-rewrite-min-size": _is("redis_auto_aof_rewrite_min_size"),
    "dir": _always("/data"),
    "loglevel": _is("redis_loglevel"),
    "logfile": _always("/var/log/redis/redis.log"),
    "slowlog-log-slower-than": _is("redis_slowlog_log_slower_than"),
    "slowlog-max-len": _is("redis_slowlog_max_len"),
    "latency-monitor-threshold": _is("redis_latency_monitor_threshold"),
    "aclfile": _always("/etc/redis/users.acl"),
    # The default user's password: with an ACL file it would be ignored without a word.
    "requirepass": _always(""),
    # Who may change protected settings, debug or load modules over a connection: nobody.
    "enable-protected-configs": _always("no"),
    "enable-debug-command": _always("no"),
    "enable-module-command": _always("no"),
}

# What of it is a control of the security report.
SECURITY = {
    "protected-mode": "authentication",
    "aclfile": "authentication",
    "enable-protected-configs": "dangerous commands",
    "enable-debug-command": "dangerous commands",
    "enable-module-command": "dangerous commands",
}


@pytest.mark.parametrize(
    "directive",
    [pytest.param(name, marks=pytest.mark.security(SECURITY[name]) if name in SECURITY else ()) for name in PROMISED],
)
def test_redis_runs_as_the_settings_say(config: dict[str, str], settings: Settings, directive: str) -> None:
    """A change in the file alone, or on the server alone, shows here."""
    assert config[directive] == PROMISED[directive](settings)


def test_events_are_published_as_the_settings_say(config: dict[str, str], settings: Settings) -> None:
    """Redis reorders the letters, and writes A for all the classes that it stands for."""
    written = config["notify-keyspace-events"].replace("A", "g$lshzxetd")
    wanted = settings.redis_notify_keyspace_events.replace("A", "g$lshzxetd")
    assert set(written) == set(wanted)


def test_further_directives_run(config: dict[str, str], settings: Settings) -> None:
    """Their notation is the user's: sizes and cases are compared by what they mean."""
    different = {
        name for name, value in settings.redis_extra_config.items() if _plain(config.get(name)) != _plain(value)
    }
    assert not different


def _plain(value: str | None) -> str:
    try:
        return str(parse_redis_size(value))
    except ValueError:
        return " ".join(str(value).strip("\"'").lower().split())


def test_no_directive_has_a_comment_behind_it(host: Host, settings: Settings) -> None:
    """Fatal at the next start, which may be months away."""
    lines = host.check_output(f"cat {quoted(settings.root)}/config/*.conf").splitlines()
    assert any(line.startswith("maxmemory ") for line in lines), "redis.conf must be among the files"
    assert not [line for line in lines if not line.startswith("#") and re.search(r"\s#", line)]


@pytest.mark.writes
def test_defragmentation_runs_where_the_build_can(target: Target, settings: Settings, config: dict[str, str]) -> None:
    """Asked of this very build: Debian's names jemalloc and cannot; the official image can.

    Turned on and off again at once, and only where it is off.
    """
    runs = config["activedefrag"] == "yes"
    if settings.redis_activedefrag != "auto":
        assert runs == (settings.redis_activedefrag == "yes")
    else:
        try:
            target.admin_call("CONFIG", "SET", "activedefrag", "yes")
            target.admin_call("CONFIG", "SET", "activedefrag", config["activedefrag"])
            can = True
        except ResponseError:
            can = False
        assert runs == can
