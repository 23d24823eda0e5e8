"""The directives of redis.conf, and how a running Redis differs from them.

The directives follow from the settings. ``templates/redis.conf.j2`` renders the file from ``directives``. ``runtime``
returns the same values in the notation of ``CONFIG GET``, so that a deploy also sees drift in the running server.
"""

from redoubt.settings.model import Settings
from redoubt.settings.sections.container import SHUTDOWN_TIMEOUT
from redoubt.versions import has_fix

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

# Only suites with forward secrecy and authenticated encryption (AEAD), so no CBC. TLS 1.2, then TLS 1.3.
TLS_CIPHERS = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
TLS_CIPHERSUITES = ("TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256")

# Directives that Redis reads only at startup.
_AT_START = frozenset({"unixsocket", "unixsocketperm", "tcp-backlog", "databases", "dir", "logfile", "aclfile"})

# The names of the data files, which everything that reads, checks or keeps data relies on. With another name Redis
# starts empty next to its data.
DATA_FILES = frozenset({"dbfilename", "appendfilename", "appenddirname"})
# Directives that give Redis another role. A replica replaces its data by that of the primary; a node of a cluster
# refuses and moves keys.
ROLES = frozenset({"replicaof", "slaveof", "cluster-enabled"})
# Other names of managed directives.
_ALIASES = frozenset(
    {
        *("hash-max-ziplist-entries", "hash-max-ziplist-value", "list-max-ziplist-size", "slave-lazy-flush"),
        *("commandlog-execution-slower-than", "commandlog-slow-execution-max-len", "primaryuser"),
    }
)

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
            "maxclients": str(s.connections),
            "databases": str(s.redis_databases),
        },
        "Limits of clients": _client_limits(s),
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


def _client_limits(s: Settings) -> dict[str, str]:
    """Return the directives that limit the memory of clients.

    Each client has a limit for requests and for replies that it does not read. maxmemory-clients limits all together:
    Redis disconnects the clients that use most.
    """
    reply, subscriber = s.max_reply, s.max_reply // 4
    limits = {
        "proto-max-bulk-len": str(s.max_value),
        "client-query-buffer-limit": str(s.max_request),
        "client-output-buffer-limit": (
            f"normal {reply} 0 0 slave {s.client_memory} 0 0 pubsub {reply} {subscriber} 60"
        ),
        # Other clients get an error while a script runs for longer, and SCRIPT KILL works. Milliseconds.
        "lua-time-limit": "5000",
    }
    if s.server_version >= (7, 0):
        limits["maxmemory-clients"] = str(s.client_memory if client_eviction_is_safe(s) else 0)
    return limits


def client_eviction_is_safe(s: Settings) -> bool:
    """Say whether Redis may disconnect clients that use too much memory.

    A release with CVE-2026-130822 (Valkey) or redis#15562 could crash. A deploy refuses others than Debian's Valkey,
    unless redis_allow_vulnerable_version allows them. 7.0 does not have the defect.
    """
    if s.redis_engine == "redis" and (not s.redis_allow_vulnerable_version or s.server_version == (7, 0)):
        return True
    return has_fix(s.redis_engine, "CVE-2026-130822" if s.redis_engine == "valkey" else "redis#15562", s.image_numbers)


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
    The client's files are those of Redis's own connections and of the health check; empty if there are none.
    """
    client = f"{TLS_DIR}/client-{digest}" if settings.has_tls_client_certificate else ""
    return {
        "tls-cert-file": f"{TLS_DIR}/server-{digest}.crt",
        "tls-key-file": f"{TLS_DIR}/server-{digest}.key",
        "tls-client-cert-file": f"{client}.crt" if client else "",
        "tls-client-key-file": f"{client}.key" if client else "",
        "tls-ca-cert-file": f"{TLS_DIR}/ca-{digest}.crt",
        "tls-auth-clients": settings.redis_tls_auth_clients,
        "tls-protocols": "TLSv1.2 TLSv1.3",
        "tls-ciphers": ":".join(TLS_CIPHERS),
        "tls-ciphersuites": ":".join(TLS_CIPHERSUITES),
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
        "busy-reply-threshold",
        "maxmemory-clients",
        *_ALIASES,
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
    if name == "client-output-buffer-limit":
        # Servers call the class "slave" or "replica".
        return value.replace("replica", "slave")
    return value


def _yes(value: bool) -> str:
    return "yes" if value else "no"
