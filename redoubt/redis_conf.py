"""The directives of redis.conf, and how a running Redis differs from them.

The directives follow from the settings. ``templates/redis.conf.j2`` renders the file from ``directives``. ``runtime``
returns the same values in the notation of ``CONFIG GET``, so that a deploy also sees drift in the running server.
"""

from redoubt.settings.model import Settings
from redoubt.settings.sections.container import SHUTDOWN_TIMEOUT

# Paths inside the container.
CONFIG_DIR = "/etc/redis"
DATA_DIR = "/data"
LOG_FILE = "/var/log/redis/redis.log"
SOCKET_DIR = "/run/redis"
SOCKET = f"{SOCKET_DIR}/redis.sock"
TLS_DIR = f"{CONFIG_DIR}/tls"
SECRETS_DIR = "/run/secrets"

# Lets root on the host reach Redis even with TLS only. The directory's group decides who else may use it.
_SOCKET = {"unixsocket": SOCKET, "unixsocketperm": "770"}

# Directives that Redis reads only at startup.
_AT_START = frozenset({"unixsocket", "unixsocketperm", "tcp-backlog", "databases", "dir", "logfile", "aclfile"})

Sections = dict[str, dict[str, str]]


def directives(settings: Settings) -> Sections:
    """Return the directives of redis.conf by section.

    Values are in the notation of CONFIG GET, which the file accepts as well: sizes in bytes, booleans as yes or no.
    """
    s = settings
    return {
        "Network": {
            # All interfaces of the container. The published addresses decide who can reach them.
            "bind": "* -::*",
            **_ports(s),
            **_SOCKET,
            "protected-mode": "yes",
            "tcp-backlog": str(s.redis_tcp_backlog),
            "timeout": str(s.redis_timeout),
            "tcp-keepalive": str(s.redis_tcp_keepalive),
            "maxclients": str(s.redis_maxclients),
            "databases": str(s.redis_databases),
        },
        "Memory and eviction": {
            "maxmemory": str(s.redis_maxmemory),
            "maxmemory-policy": s.redis_maxmemory_policy,
            "maxmemory-samples": str(s.redis_maxmemory_samples),
            "hash-max-listpack-entries": str(s.redis_hash_max_listpack_entries),
            "hash-max-listpack-value": str(s.redis_hash_max_listpack_value),
            "list-max-listpack-size": str(s.redis_list_max_listpack_size),
            "lazyfree-lazy-eviction": _yes(s.redis_lazyfree),
            "lazyfree-lazy-expire": _yes(s.redis_lazyfree),
            "lazyfree-lazy-server-del": _yes(s.redis_lazyfree),
            "lazyfree-lazy-user-del": _yes(s.redis_lazyfree),
            "replica-lazy-flush": _yes(s.redis_lazyfree),
        },
        "Persistence": {
            "dir": DATA_DIR,
            "save": s.redis_save,
            "stop-writes-on-bgsave-error": "yes",
            "rdb-save-incremental-fsync": _yes(s.redis_incremental_fsync),
            "appendonly": _yes(s.redis_appendonly),
            "appendfsync": s.redis_appendfsync,
            **({"aof-timestamp-enabled": _yes(s.redis_aof_timestamps)} if s.server_version >= (7, 0) else {}),
            # A power cut may leave only a part of the last write. Redis starts without it and logs that.
            "aof-load-truncated": "yes",
            "aof-rewrite-incremental-fsync": _yes(s.redis_incremental_fsync),
            "auto-aof-rewrite-percentage": str(s.redis_auto_aof_rewrite_percentage),
            "auto-aof-rewrite-min-size": str(s.redis_auto_aof_rewrite_min_size),
            "shutdown-timeout": str(SHUTDOWN_TIMEOUT),
            **_at_sigterm(s),
        },
        "Events": {
            "notify-keyspace-events": s.redis_notify_keyspace_events,
        },
        "Logs": {
            "loglevel": s.redis_loglevel,
            "logfile": LOG_FILE,
            "slowlog-log-slower-than": str(s.redis_slowlog_log_slower_than),
            "slowlog-max-len": str(s.redis_slowlog_max_len),
            "latency-monitor-threshold": str(s.redis_latency_monitor_threshold),
        },
        "Access": {
            "aclfile": f"{CONFIG_DIR}/users.acl",
        },
        "Further directives": dict(s.redis_extra_config),
    }


def read_at_start(settings: Settings) -> dict[str, str]:
    """Return the directives that need a restart.

    Redis or its container takes them only at startup. All further directives are among them, because Redoubt does not
    know which of them Redis can change live.
    """
    sections = directives(settings)
    further = sections.pop("Further directives")
    managed = {name: value for values in sections.values() for name, value in values.items()}
    # The container publishes the ports, and its limit of open files depends on maxclients.
    at_start = _AT_START | {"port", "tls-port", "maxclients"}
    return {**{name: value for name, value in managed.items() if name in at_start}, **further}


def _at_sigterm(settings: Settings) -> dict[str, str]:
    """Return the directive for a stop: no RDB snapshot with the AOF on.

    Redis would not read the snapshot, and writing it doubles the downtime.
    """
    if settings.server_version < (7, 0):
        return {}
    return {"shutdown-on-sigterm": "nosave" if settings.redis_appendonly else "default"}


def _ports(settings: Settings) -> dict[str, str]:
    """Return the ports; 0 turns one off. A build without TLS does not know tls-port."""
    inside = {port.tls: str(port.inside) for port in settings.ports}
    return {"port": inside.get(False, "0"), **({"tls-port": inside[True]} if True in inside else {})}


def includes(settings: Settings) -> list[str]:
    """Return the files that redis.conf includes.

    They have secret command names, active defragmentation, and the certificate.
    """
    certificate = [f"{CONFIG_DIR}/tls.conf"] if settings.redis_tls != "off" else []
    return [f"{SECRETS_DIR}/commands.conf", f"{CONFIG_DIR}/activedefrag.conf", *certificate]


def certificate(settings: Settings, digest: str) -> dict[str, str]:
    """Return the TLS directives, which a running Redis can change.

    ``digest`` identifies the certificate. It is part of the file names, so CONFIG GET shows which one Redis has loaded.
    """
    return {
        "tls-cert-file": f"{TLS_DIR}/server-{digest}.crt",
        "tls-key-file": f"{TLS_DIR}/server-{digest}.key",
        "tls-ca-cert-file": f"{TLS_DIR}/ca-{digest}.crt",
        "tls-auth-clients": settings.redis_tls_auth_clients,
        "tls-protocols": "TLSv1.2 TLSv1.3",
    }


def command_names(settings: Settings, renamed: dict[str, str]) -> str:
    """Return the included file that disables and renames commands.

    ``renamed`` maps a command to its new name.
    """
    lines = [f'rename-command {command} ""' for command in settings.redis_disabled_commands]
    lines += [f"rename-command {command} {renamed[command]}" for command in settings.redis_renamed_commands]
    return "".join(f"{line}\n" for line in lines)


def managed_directives(settings: Settings) -> set[str]:
    """Return the directives that Redoubt sets itself.

    redis_extra_config must not contain them.
    """
    names = {
        name for section, values in directives(settings).items() if section != "Further directives" for name in values
    }
    return names | {
        *certificate(settings, ""),
        "tls-port",
        "include",
        "rename-command",
        "activedefrag",
        "requirepass",
        "user",
        "masteruser",
        "daemonize",
    }


def runtime(settings: Settings) -> dict[str, str]:
    """Return what ``CONFIG GET`` answers if Redis is up to date.

    Further directives are not part of it, because the user may write them in another notation.
    """
    return {
        name: value
        for section, values in directives(settings).items()
        if section != "Further directives"
        for name, value in values.items()
    }


def differences(settings: Settings, running: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return the directives whose running value differs from the settings.

    The result maps their names to (running, desired).
    """
    return {
        name: (running.get(name, "(unknown)"), value)
        for name, value in runtime(settings).items()
        if _canonical(name, running.get(name, "(unknown)")) != _canonical(name, value)
    }


def is_live(directive: str) -> bool:
    """Say whether a running Redis can change a directive of ``differences``."""
    return directive not in _AT_START


def set_commands(settings: Settings, values: dict[str, str]) -> list[tuple[str, ...]]:
    """Return the arguments of the CONFIG SET calls that set these values.

    One call sets all or nothing. Before 7.0 Redis accepts only one directive in a call.
    """
    pairs: list[tuple[str, ...]] = list(values.items())
    if settings.server_version >= (7, 0) and pairs:
        return [tuple(word for pair in pairs for word in pair)]
    return pairs


def _canonical(name: str, value: str) -> str:
    if name == "notify-keyspace-events":
        # CONFIG GET reorders the letters.
        return "".join(sorted(set(value)))
    return value


def _yes(value: bool) -> str:
    return "yes" if value else "no"
