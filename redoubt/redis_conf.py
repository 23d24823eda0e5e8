"""redis.conf as directives: what the settings mean to Redis, and what a running Redis should answer.

The file is rendered from ``directives`` by ``templates/redis.conf.j2``. ``runtime`` gives the same values as
``CONFIG GET`` prints them, so that drift can be seen on the running server and not only in the file.
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

# By it root on the host reaches Redis whatever its ports speak. Who else does is decided by the directory, whose group
# the socket inherits.
_SOCKET = {"unixsocket": SOCKET, "unixsocketperm": "770"}

# What Redis reads when it starts and takes from nobody afterwards.
_AT_START = frozenset({"unixsocket", "unixsocketperm", "tcp-backlog", "databases", "dir", "logfile", "aclfile"})

Sections = dict[str, dict[str, str]]


def directives(settings: Settings) -> Sections:
    """The directives of redis.conf with their values as Redis reports them, by section.

    Sizes are in bytes and booleans are yes or no: the notation of CONFIG GET, which the file may use as well.
    """
    s = settings
    return {
        "Network": {
            # The container's own interfaces: who may reach them is decided by the published addresses.
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
            # After a power cut the last write may be there in part: Redis starts without it, and says so in its log.
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
    """The directives for which Redis starts anew: it takes no others while it runs, or its container is made for them.

    Further ones as well: what Redis makes of those nobody here knows.
    """
    sections = directives(settings)
    further = sections.pop("Further directives")
    all_ = {name: value for values in sections.values() for name, value in values.items()}
    # Ports are published, and files are limited for the clients.
    made_for = _AT_START | {"port", "tls-port", "maxclients"}
    return {**{name: value for name, value in all_.items() if name in made_for}, **further}


def _at_sigterm(settings: Settings) -> dict[str, str]:
    """With the log, which a stop flushes, a start reads no snapshot: writing one would be half of a restart's time."""
    known = settings.server_version >= (7, 0)
    return {"shutdown-on-sigterm": "nosave" if settings.redis_appendonly else "default"} if known else {}


def _ports(settings: Settings) -> dict[str, str]:
    """0 turns one off. A server that was built without TLS does not know the other."""
    inside = {port.tls: str(port.inside) for port in settings.ports}
    return {"port": inside.get(False, "0"), **({"tls-port": inside[True]} if True in inside else {})}


def includes(settings: Settings) -> list[str]:
    """Files that redis.conf includes: the command names, which are secret, what was detected, and the certificate."""
    certificate = [f"{CONFIG_DIR}/tls.conf"] if settings.redis_tls != "off" else []
    return [f"{SECRETS_DIR}/commands.conf", f"{CONFIG_DIR}/activedefrag.conf", *certificate]


def certificate(settings: Settings, digest: str) -> dict[str, str]:
    """The directives of TLS that a running Redis takes over, and answers by CONFIG GET.

    The names of files tell the identity: by them Redis says which one it has loaded.
    """
    return {
        "tls-cert-file": f"{TLS_DIR}/server-{digest}.crt",
        "tls-key-file": f"{TLS_DIR}/server-{digest}.key",
        "tls-ca-cert-file": f"{TLS_DIR}/ca-{digest}.crt",
        "tls-auth-clients": settings.redis_tls_auth_clients,
        "tls-protocols": "TLSv1.2 TLSv1.3",
    }


def command_names(settings: Settings, renamed: dict[str, str]) -> str:
    """The included file that disables and renames commands; ``renamed`` maps a command to its new name."""
    lines = [f'rename-command {command} ""' for command in settings.redis_disabled_commands]
    lines += [f"rename-command {command} {renamed[command]}" for command in settings.redis_renamed_commands]
    return "".join(f"{line}\n" for line in lines)


def managed_directives(settings: Settings) -> set[str]:
    """Names of directives that have a setting of their own, which redis_extra_config must not repeat."""
    own = {
        name for section, values in directives(settings).items() if section != "Further directives" for name in values
    }
    return own | {
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
    """What ``CONFIG GET`` should answer, for each directive whose answer is the value that was written.

    Left out are the file's further directives (their notation is the user's) and ``notify-keyspace-events``,
    whose letters Redis reorders: that one is compared as a set by ``differences``.
    """
    return {
        name: value
        for section, values in directives(settings).items()
        if section != "Further directives"
        for name, value in values.items()
    }


def differences(settings: Settings, running: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Directives that run otherwise than the settings say: name to (running, wanted)."""
    wanted = runtime(settings)
    return {
        name: (running.get(name, "(unknown)"), value)
        for name, value in wanted.items()
        if _canonical(name, running.get(name, "(unknown)")) != _canonical(name, value)
    }


def is_live(directive: str) -> bool:
    """Whether a running Redis takes another value of a directive that ``differences`` may name."""
    return directive not in _AT_START


def set_commands(settings: Settings, values: dict[str, str]) -> list[tuple[str, ...]]:
    """Return the arguments of the CONFIG SET calls that give a running Redis these values.

    One call, which takes all or none; below 7.0 one call for each directive.
    """
    pairs: list[tuple[str, ...]] = list(values.items())
    if settings.server_version >= (7, 0) and pairs:
        return [tuple(word for pair in pairs for word in pair)]
    return pairs


def _canonical(name: str, value: str) -> str:
    if name == "notify-keyspace-events":
        # CONFIG GET reorders the letters and prints A for the classes that it stands for.
        return "".join(sorted(set(value)))
    return value


def _yes(value: bool) -> str:
    return "yes" if value else "no"
