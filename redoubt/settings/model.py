"""Every setting of a Redis instance: its type, default, bounds, relations and what it costs to change.

The inventory's data is flat (``redis_*`` keys). ``load`` turns it into one frozen ``Settings`` or
raises ``SettingsError`` with every problem found, so that an operator mends them in one go.
The settings file ``inventory/group_data/all.py`` and the table in ``docs/settings.md`` are printed from
this model (``python -m redoubt.settings``); a unit test keeps them equal.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from redoubt.settings.types import (
    REPOSITORY_FILES,
    Address,
    CertificateName,
    Command,
    DockerSize,
    Engine,
    Float,
    HostPath,
    Int,
    Line,
    Network,
    Pattern,
    RedisSize,
    Repository,
    RepositoryFile,
    Schedule,
    UserName,
    check_acl_rules,
    check_image,
    check_keyspace_events,
    check_save_points,
    split_words,
)
from redoubt.sizes import KIB, MIB, format_size

# Names that redis_users cannot take: users of every instance, and what lies beside their passwords on the host.
RESERVED_USERS = frozenset({"sessions", "queues", "health", "admin", "default", "server", "generation"})

# uid and gid of the redis user in the official image (Debian variant). The directories on the host
# are owned by these numbers, whatever the host calls them.
REDIS_UID = REDIS_GID = 999

DEFAULT_IMAGES: Mapping[Engine, str] = {
    "redis": "docker.io/library/redis:8.10.2",
    "valkey": "docker.io/valkey/valkey:9.1.4",
}

# Redis's own default: a stopping primary waits this many seconds for its replicas.
SHUTDOWN_TIMEOUT = 10

# Of which the newest backup is kept.
PERIODS = ("hourly", "daily", "weekly", "monthly")

Effect = Literal["none", "live", "restart", "new instance"]
# Changes that are made only when they are allowed by name.
DataLoss = Literal["eviction", "policy", "persistence"]

EFFECTS: dict[Effect, str] = {
    "none": "no restart",
    "live": "applied live",
    "restart": "restarts Redis",
    "new instance": "makes a new instance beside the old one",
}


def setting(
    default: Any, why: str, *, effect: Effect = "restart", section: str, example: Any = None, **bounds: Any
) -> Any:
    """A field of the model: default, meaning, what a change costs, and pydantic's bounds."""
    return Field(
        default,
        description=why,
        json_schema_extra={"effect": effect, "section": section, "example": example},
        **bounds,
    )


class NamedUser(BaseModel):
    """A user of ``redis_users``: what its role may do, on its own keys and channels (patterns) alone.

    ``rules`` are ACL rules for commands (``+publish -sort``) that are added to the role's; the role custom has no
    others but those by which a client connects.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["session", "queue", "cache", "read-only", "metrics", "custom"]
    keys: tuple[Pattern, ...] = ()
    channels: tuple[Pattern, ...] = ()
    rules: Annotated[str, AfterValidator(check_acl_rules)] = ""


class Port(NamedTuple):
    """A port of Redis: where it is published on the host, where Redis listens in the container, and whether by TLS."""

    published: int
    inside: int
    tls: bool


class Settings(BaseModel):
    """The settings of one Redis instance on one host, valid and complete.

    Sizes are bytes, times are seconds unless a description says otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    # -- Instance
    redis_name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")] = setting(
        "redis",
        "Name of the instance. The container, the Compose project, the networks and the host paths derive from it.",
        effect="new instance",
        section="Instance",
    )
    redis_root: HostPath | None = setting(
        None,
        "Directory on the host that holds config, data, backups, logs and secrets. Default: /srv/<redis_name>.",
        effect="new instance",
        section="Instance",
        example="/srv/redis",
    )
    redis_app_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = setting(
        "app",
        "Name of the web application: its sessions are the keys <redis_app_name>:session:<id>.",
        effect="live",
        section="Instance",
    )

    # -- Image
    redis_engine: Engine = setting(
        "redis",
        "redis, or valkey: the free fork of Redis 7.2, which speaks the same protocol. Data of Redis 7.4 and newer is "
        "not read by it, and its own from 9.0 on not by Redis.",
        section="Image",
    )
    redis_image: Annotated[str, AfterValidator(check_image)] = setting(
        DEFAULT_IMAGES["redis"],
        "Image with a pinned version, and a digest where you know it (name:tag@sha256:...). With redis_engine = "
        f"'valkey' the default is {DEFAULT_IMAGES['valkey']}.",
        section="Image",
    )
    redis_image_source: Literal["registry", "archive"] = setting(
        "registry",
        "registry: the host pulls the image. archive: a file made by 'docker save' is pushed over SSH and loaded; "
        "the host needs no registry.",
        effect="none",
        section="Image",
    )
    redis_image_archive: str | None = setting(
        None,
        "With source archive: path of the archive on the machine that deploys.",
        effect="none",
        section="Image",
        example="images/redis-8.10.2.tar",
    )
    redis_allow_vulnerable_version: bool = setting(
        False,
        "Deploy a version that lacks security fixes (redoubt/versions.py), with a warning that names them.",
        effect="none",
        section="Image",
    )

    # -- Changes
    redis_allow_data_loss: Annotated[tuple[DataLoss, ...], BeforeValidator(split_words)] = setting(
        (),
        "Changes that may cost data and are refused otherwise. eviction: redis_maxmemory below what Redis holds; "
        "policy: a redis_maxmemory_policy that evicts more than the one before; persistence: redis_appendonly from "
        "True to False. For one deploy: --data redis_allow_data_loss=eviction.",
        effect="none",
        section="Changes",
        example=["eviction"],
    )

    # -- Memory and eviction
    redis_maxmemory: RedisSize = setting(
        "1gb",
        "Memory for data; what you size the instance by. Redis notation: 1gb is 1024^3 bytes.",
        effect="live",
        section="Memory and eviction",
        ge=16 * MIB,
    )
    redis_maxmemory_policy: Literal[
        "volatile-lru",
        "volatile-lfu",
        "volatile-ttl",
        "volatile-random",
        "allkeys-lru",
        "allkeys-lfu",
        "allkeys-random",
        "noeviction",
    ] = setting(
        "volatile-lru",
        "What goes when memory is full. volatile-*: only keys with a TTL (sessions), never RQ's queues and jobs.",
        effect="live",
        section="Memory and eviction",
    )
    redis_maxmemory_samples: Int = setting(
        10,
        "Keys compared for each eviction; more is closer to true LRU.",
        effect="live",
        section="Memory and eviction",
        ge=1,
        le=64,
    )
    redis_hash_max_listpack_entries: Int = setting(
        1024,
        "A hash of up to this many fields is stored compactly.",
        effect="live",
        section="Memory and eviction",
        ge=0,
        le=65536,
    )
    redis_hash_max_listpack_value: Int = setting(
        256,
        "... when none of its values is longer than this (bytes).",
        effect="live",
        section="Memory and eviction",
        ge=0,
        le=65536,
    )
    redis_list_max_listpack_size: Int = setting(
        -1,
        "Size of a list's nodes: -1 is 4 KiB, -2 is 8 KiB, up to -5; a positive number counts elements.",
        effect="live",
        section="Memory and eviction",
        ge=-5,
        le=65536,
    )
    redis_lazyfree: bool = setting(
        True,
        "Free memory of evicted, expired and deleted keys in a background thread.",
        effect="live",
        section="Memory and eviction",
    )
    redis_activedefrag: Literal["auto", "yes", "no"] = setting(
        "auto",
        "Defragment memory while running. auto: on where the image's build supports it; "
        "yes on a build that does not is refused before Redis is touched.",
        effect="live",
        section="Memory and eviction",
    )

    # -- Persistence
    redis_save: Annotated[str, AfterValidator(check_save_points)] = setting(
        "900 1 300 10 60 10000 30 100000",
        "RDB snapshots, as '<seconds> <changes>' pairs. '' turns them off.",
        effect="live",
        section="Persistence",
    )
    redis_appendonly: bool = setting(True, "Log every write (AOF).", effect="live", section="Persistence")
    redis_appendfsync: Literal["always", "everysec", "no"] = setting(
        "everysec",
        "When the AOF is flushed to disk. everysec: a power cut loses about one second at most.",
        effect="live",
        section="Persistence",
    )
    redis_auto_aof_rewrite_percentage: Int = setting(
        100,
        "Rewrite the AOF when it has grown by this much (percent, 0: never).",
        effect="live",
        section="Persistence",
        ge=0,
        le=10000,
    )
    redis_auto_aof_rewrite_min_size: RedisSize = setting(
        "64mb", "... and is at least this big.", effect="live", section="Persistence", ge=MIB
    )
    redis_aof_timestamps: bool = setting(
        True,
        "Write the time into the AOF, so that a restore can go back to a moment. Redis 7.0 and newer, and Valkey.",
        effect="live",
        section="Persistence",
    )
    redis_incremental_fsync: bool = setting(
        True,
        "Flush RDB and AOF rewrites to disk in small portions, so that clients see no latency spike.",
        effect="live",
        section="Persistence",
    )

    # -- Backups
    redis_backup_schedule: Schedule = setting(
        "*-*-* 03:00:00",
        "When backups are taken, as systemd's OnCalendar has it: daily, hourly, 'Mon..Fri 03:00'; in the host's time "
        "zone, or one that is named ('03:00 Europe/Berlin'). '': never by itself.",
        effect="none",
        section="Backups",
    )
    redis_backup_randomized_delay: Int = setting(
        1800,
        "Seconds within which a host waits after that, always as long: many hosts do not write at once.",
        effect="none",
        section="Backups",
        ge=0,
        le=86400,
    )
    redis_backup_verify: bool = setting(
        True,
        "Load each backup in a container of its own and look at what it holds, which takes the memory of a second "
        "Redis meanwhile.",
        effect="none",
        section="Backups",
    )
    redis_upgrade_verify: bool = setting(
        True,
        "Before another version of the server is started, load the backup that is taken then with both versions. It "
        "takes the memory of a second Redis meanwhile; without it the backup is taken and not tried.",
        effect="none",
        section="Backups",
    )
    redis_backup_max_age: Int = setting(
        26,
        "redisctl health warns when the newest verified backup is older (hours), and is critical at twice that.",
        effect="none",
        section="Backups",
        ge=1,
        le=8784,
    )
    redis_backup_keep_hourly: Int = setting(
        24,
        "Backups kept: the last one of each of so many hours,",
        effect="none",
        section="Backups",
        ge=0,
        le=1000,
    )
    redis_backup_keep_daily: Int = setting(7, "... of so many days,", effect="none", section="Backups", ge=0, le=1000)
    redis_backup_keep_weekly: Int = setting(4, "... of so many weeks,", effect="none", section="Backups", ge=0, le=1000)
    redis_backup_keep_monthly: Int = setting(
        6, "... and of so many months; the same off the host.", effect="none", section="Backups", ge=0, le=1000
    )
    redis_backup_restic_repository: Repository = setting(
        "",
        "Where each backup is copied to as well, encrypted, by restic: sftp:user@host:/path, s3:https://host/bucket, "
        "gs:bucket:/path, rest:https://host/path, or a directory. Each instance has its own. '': nowhere.",
        effect="none",
        section="Backups",
        example="sftp:backup@nas.example.com:/redis-1",
    )
    redis_backup_repository_files: dict[RepositoryFile, str] = setting(
        {},
        "What gets restic there, as paths of files on the machine that deploys: ssh_key and known_hosts (sftp), "
        "aws_credentials (s3), google_credentials (gs), ca_certificate (s3, rest), client_certificate (rest).",
        effect="none",
        section="Backups",
        example={"ssh_key": "backup/id_ed25519", "known_hosts": "backup/known_hosts"},
    )

    # -- Clients
    redis_maxclients: Int = setting(10000, "Connections at a time.", section="Clients", ge=10, le=1_000_000)
    redis_timeout: Int = setting(
        300,
        "Close a connection that was idle for this long (0: never). Subscribers and blocked workers are exempt.",
        effect="live",
        section="Clients",
        ge=0,
        le=86400,
    )
    redis_tcp_keepalive: Int = setting(
        60, "Seconds between TCP keepalive probes; finds dead peers.", effect="live", section="Clients", ge=0, le=86400
    )
    redis_tcp_backlog: Int = setting(
        511, "Connections that may wait to be accepted.", section="Clients", ge=1, le=65535
    )
    redis_databases: Int = setting(16, "Number of databases.", section="Clients", ge=1, le=1024)
    redis_notify_keyspace_events: Annotated[str, AfterValidator(check_keyspace_events)] = setting(
        "Ex",
        "Events that Redis publishes. Ex: the expiry of keys, on __keyevent@<db>__:expired.",
        effect="live",
        section="Clients",
    )

    # -- Access
    redis_users: dict[UserName, NamedUser] = setting(
        {},
        "Further users, each with a password of its own, a role (session, queue, cache, read-only, metrics or custom), "
        "key patterns, channels and further ACL rules. None sees another's keys.",
        effect="live",
        section="Access",
        example={"shop": {"role": "session", "keys": ["shop:session:*"]}},
    )
    redis_enable_default_user: bool = setting(
        False,
        "Turn the default user on, with a generated password and the rights of the session and queue users "
        "together, for clients that know only a password. Meanwhile admin writes no other keys and no transactions.",
        effect="live",
        section="Access",
    )
    redis_disabled_commands: tuple[Command, ...] = setting(
        ("FLUSHDB", "FLUSHALL", "DEBUG", "EVAL"), "Commands that nobody can call.", section="Access"
    )
    redis_renamed_commands: tuple[Command, ...] = setting(
        ("CONFIG", "SHUTDOWN"),
        "Commands that get a name generated once for this instance; the name is kept with the secrets.",
        section="Access",
    )
    redis_secrets_source: Literal["file", "sops", "command"] = setting(
        "file",
        "Where the machine that deploys keeps passwords. file: plain files that only you can read; sops: files that "
        "SOPS encrypts, fit to be committed; command: whatever redis_secrets_command reaches, such as Vault.",
        effect="none",
        section="Access",
    )
    redis_secrets_dir: str = setting(
        "secrets",
        "With source file or sops: directory on the machine that deploys, with one file for each host and instance.",
        effect="none",
        section="Access",
    )
    redis_secrets_command: tuple[Line, ...] = setting(
        (),
        "With source command: a program and its first arguments. It is called with 'get' or 'put', the host and the "
        "document's name, see docs/secrets.md.",
        effect="none",
        section="Access",
    )

    # -- Network
    redis_port: Int = setting(6379, "Port published on the host.", section="Network", ge=1, le=65535)
    redis_bind: tuple[Address, ...] = setting(
        ("127.0.0.1",),
        "Addresses of the host on which the port is published. () publishes nothing: only containers on the "
        "network <redis_name>_backend reach Redis. A published port bypasses ufw.",
        section="Network",
    )
    redis_allow_from: tuple[Network, ...] = setting(
        (),
        "Networks that reach the published port from outside; all others are dropped before Docker sees them. (): "
        "whoever reaches an address of redis_bind, which may then not be 0.0.0.0 or ::.",
        effect="live",
        section="Network",
        example=["10.0.0.0/24"],
    )

    redis_unix_socket: bool = setting(
        False,
        "Listen on <redis_root>/socket/redis.sock as well, for applications on the host itself.",
        section="Network",
    )
    redis_unix_socket_gid: Int = setting(
        REDIS_GID,
        "Group on the host, by number, whose members may use the socket.",
        section="Network",
        ge=0,
        le=4_294_967_294,
    )

    # -- TLS
    redis_tls: Literal["off", "required", "both"] = setting(
        "off",
        "required: redis_port speaks TLS (1.2 and 1.3) and nothing else does. both: TLS on redis_tls_port, plain on "
        "redis_port, while clients move.",
        section="TLS",
    )
    redis_tls_port: Int = setting(6380, "With 'both': the port of TLS.", section="TLS", ge=1, le=65535)
    redis_tls_source: Literal["ca", "files"] = setting(
        "ca",
        "ca: a CA of your own, kept with the secrets, issues certificates, and a deploy renews them. files: you give "
        "the three files below.",
        effect="live",
        section="TLS",
    )
    redis_tls_cert: str | None = setting(
        None,
        "With source files: the certificate and what leads from it to the CA (PEM), on the machine that deploys.",
        effect="live",
        section="TLS",
        example="tls/redis-1.crt",
    )
    redis_tls_key: str | None = setting(
        None, "... its key, without a passphrase.", effect="live", section="TLS", example="tls/redis-1.key"
    )
    redis_tls_ca: str | None = setting(
        None,
        "... and the CA (one or more), by which clients know the server, and Redis its clients.",
        effect="live",
        section="TLS",
        example="tls/ca.crt",
    )
    redis_tls_names: tuple[CertificateName, ...] = setting(
        (),
        "Names and IP addresses by which clients reach Redis, beside the host's name in the inventory and redis_bind. "
        "With source files: those that the certificate must have.",
        effect="live",
        section="TLS",
        example=["redis-1.example.com"],
    )
    redis_tls_days: Int = setting(
        365,
        "With source ca: days that a certificate is valid. In their last third a deploy replaces it.",
        effect="live",
        section="TLS",
        ge=2,
        le=825,
    )
    redis_tls_auth_clients: Literal["no", "optional", "yes"] = setting(
        "no",
        "Whether clients show a certificate of the CA too: no, if they have one, or always. They log in all the same.",
        effect="live",
        section="TLS",
    )

    # -- Container limits
    redis_container_memory: DockerSize | None = setting(
        None,
        "Memory limit. Default: 1.5 x redis_maxmemory, which leaves room for forks, buffers and fragmentation "
        "(measured, see docs/sizing.md).",
        effect="live",
        section="Container limits",
        example="1536M",
        ge=64 * MIB,
    )
    redis_container_memory_reservation: DockerSize = setting(
        "512M",
        "Memory the kernel tries to leave to Redis when the host runs short.",
        effect="live",
        section="Container limits",
        ge=6 * MIB,
    )
    redis_container_cpus: Float = setting(
        1.0, "CPU limit, in cores.", effect="live", section="Container limits", ge=0.1, le=1024
    )
    redis_container_cpu_reservation: Float = setting(
        0.5,
        "CPU share kept under contention, in cores. Docker has no hard reservation: it becomes a weight (1.0 is 1024).",
        effect="live",
        section="Container limits",
        ge=0.01,
        le=1024,
    )
    redis_container_pids: Int = setting(
        128,
        "Processes and threads: Redis's own, a saving child and health checks.",
        effect="live",
        section="Container limits",
        ge=32,
        le=65536,
    )
    redis_container_nofile: Int | None = setting(
        None,
        "Open files. Default: redis_maxclients + 1024 (Redis needs 32 more than clients; the rest is files and forks).",
        section="Container limits",
        example=11024,
        ge=64,
        le=1_048_576,
    )
    redis_stop_grace_period: Int | None = setting(
        None,
        "Seconds that a stopping Redis has to save before it is killed. Default: 30 + 1 for each 50 MiB of "
        "redis_maxmemory (a slow cloud volume writes 50 MiB/s).",
        section="Container limits",
        example=51,
        # More than Redis may take before it ends by itself.
        ge=SHUTDOWN_TIMEOUT + 5,
        le=3600,
    )
    redis_restart: Literal["unless-stopped", "always", "on-failure", "no"] = setting(
        "unless-stopped", "Docker's restart policy.", effect="live", section="Container limits"
    )

    # -- Health check
    redis_health_interval: Int = setting(30, "Seconds between checks.", section="Health check", ge=1, le=3600)
    redis_health_timeout: Int = setting(
        10, "Seconds after which a check has failed.", section="Health check", ge=1, le=300
    )
    redis_health_retries: Int = setting(
        5, "Failed checks in a row that make Redis unhealthy.", section="Health check", ge=1, le=100
    )
    redis_health_start_period: Int = setting(
        10, "Seconds after a start in which failures do not count.", section="Health check", ge=0, le=86400
    )

    # -- Logs
    redis_loglevel: Literal["debug", "verbose", "notice", "warning"] = setting(
        "notice", "How much Redis logs.", effect="live", section="Logs"
    )
    redis_logfile_max_size: DockerSize = setting(
        "10M",
        "Redis's log file is rotated daily, and at this size.",
        effect="none",
        section="Logs",
        ge=64 * KIB,
    )
    redis_logfile_rotations: Int = setting(14, "Rotated log files kept.", effect="none", section="Logs", ge=1, le=3650)
    redis_container_log_max_size: DockerSize = setting(
        "10M", "Size of a file of the container's own output (json-file).", section="Logs", ge=64 * KIB
    )
    redis_container_log_max_file: Int = setting(3, "Files of it kept.", section="Logs", ge=1, le=100)
    redis_slowlog_log_slower_than: Int = setting(
        10000,
        "Commands slower than this go to the slow log (microseconds; -1: none, 0: all).",
        effect="live",
        section="Logs",
        ge=-1,
        le=3_600_000_000,
    )
    redis_slowlog_max_len: Int = setting(
        256, "Entries of the slow log.", effect="live", section="Logs", ge=0, le=1_000_000
    )
    redis_latency_monitor_threshold: Int = setting(
        100,
        "Events slower than this are kept by the latency monitor (milliseconds; 0: off).",
        effect="live",
        section="Logs",
        ge=0,
        le=3_600_000,
    )

    # -- Application
    redis_app_services: dict[str, dict[str, Any]] = setting(
        {},
        "Compose services of your own, as in a Compose file; they join Redis's network and wait until it is healthy.",
        effect="none",
        section="Application",
        example={"web": {"image": "registry.example.com/web:1.4.2"}},
    )

    # -- Host
    redis_host_tuning: bool = setting(
        True,
        "Set the host's kernel up for Redis, now and at every boot: memory overcommit, huge pages, swappiness, the "
        "ceiling of backlogs. False leaves it alone, as on a host that is a container: its kernel is not its own.",
        effect="none",
        section="Host",
    )
    redis_docker_source: Literal["auto", "distribution", "docker", "none"] = setting(
        "auto",
        "Where the container engine comes from on a host that has none. distribution: docker.io and Compose v2 of the "
        "system; docker: Docker's own apt repository; none: refuse. auto: distribution, or docker where the system "
        "has no Compose v2 (Debian 12).",
        effect="none",
        section="Host",
    )
    redis_allow_unsupported_system: bool = setting(
        False, "Deploy to a system that is not in the list of supported ones.", effect="none", section="Host"
    )

    # -- Escape hatch
    redis_extra_config: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")], Line] = setting(
        {},
        "Further redis.conf directives that have no setting of their own here.",
        section="Further directives",
        example={"io-threads": "2"},
    )

    @model_validator(mode="before")
    @classmethod
    def _default_image(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The default of redis_image is that of the engine."""
        return {"redis_image": DEFAULT_IMAGES["valkey"], **data} if data.get("redis_engine") == "valkey" else data

    # -- What follows from the settings
    @property
    def digest(self) -> str:
        """What tells these settings from others, in twelve hexadecimal digits; what one deploy is allowed left out."""
        of_one_deploy = {"redis_allow_data_loss", "redis_upgrade_verify"}
        return hashlib.sha256(self.model_dump_json(exclude=of_one_deploy).encode()).hexdigest()[:12]

    def with_effect(self, *effects: Effect) -> dict[str, Any]:
        """The settings whose change costs one of these, as JSON holds them."""
        names = {name for name, field in Settings.model_fields.items() if details(field)["effect"] in effects}
        return self.model_dump(mode="json", include=names)

    def with_live_defaults(self) -> "Settings":
        """These settings with those at their defaults that need no new container when they change."""
        fields = Settings.model_fields.items()
        kept = [name for name, field in fields if details(field)["effect"] not in ("live", "none")]
        return Settings(**{name: getattr(self, name) for name in kept})

    @property
    def root(self) -> str:
        """Directory of the instance on the host."""
        return self.redis_root or f"/srv/{self.redis_name}"

    @property
    def memory_limit(self) -> int:
        """Memory limit of the container in bytes, given or derived from maxmemory."""
        return self.redis_container_memory or default_memory_limit(self.redis_maxmemory)

    @property
    def memory_reservation(self) -> int:
        """Soft memory limit in bytes; never above the hard one, which Docker refuses."""
        return min(self.redis_container_memory_reservation, self.memory_limit)

    @property
    def nofile(self) -> int:
        """Open-file limit of the container."""
        return self.redis_container_nofile or self.redis_maxclients + 1024

    @property
    def stop_grace_period(self) -> int:
        """Seconds between SIGTERM and SIGKILL."""
        return self.redis_stop_grace_period or 30 + math.ceil(self.redis_maxmemory / (50 * MIB))

    @property
    def start_timeout(self) -> int:
        """Seconds to wait until Redis is healthy: until the health check itself has given up, and a little more."""
        check = self.redis_health_interval + self.redis_health_timeout
        return self.redis_health_start_period + self.redis_health_retries * check + 30

    @property
    def ports(self) -> tuple[Port, ...]:
        """The ports of Redis, published or not: plain, by TLS, or both."""
        if self.redis_tls == "required":
            return (Port(self.redis_port, 6379, tls=True),)
        both = (Port(self.redis_tls_port, 6380, tls=True),) if self.redis_tls == "both" else ()
        return (Port(self.redis_port, 6379, tls=False), *both)

    @property
    def ca_file(self) -> str:
        """The CA's certificate on the host, for clients."""
        return f"{self.root}/ca.crt"

    @property
    def unix_socket(self) -> str:
        """Path of the socket on the host; empty when there is none."""
        return f"{self.root}/socket/redis.sock" if self.redis_unix_socket else ""

    @property
    def backups_kept(self) -> dict[str, int]:
        """How many backups are kept, by period."""
        return {period: getattr(self, f"redis_backup_keep_{period}") for period in PERIODS}

    @property
    def repository_files_used(self) -> tuple[str, ...]:
        """Names of the files that may be needed to reach a repository of this kind; none without one."""
        kinds = (
            names for kind, names in REPOSITORY_FILES.items() if self.redis_backup_restic_repository.startswith(kind)
        )
        return next(kinds, ())

    @property
    def session_keys(self) -> str:
        """Pattern of the application's session keys."""
        return f"{self.redis_app_name}:session:*"

    @property
    def server_version(self) -> tuple[int, int]:
        """Major and minor version of Redis that the image's tag promises; the newest known when it names none.

        Valkey is Redis 7.2 to its clients (``redis_version`` in INFO), whatever its own number is.
        """
        if self.redis_engine == "valkey":
            return 7, 2
        tag = self.redis_image.partition("@")[0].rpartition("/")[2].partition(":")[2]
        match = re.match(r"(\d+)\.(\d+)", tag)
        return (int(match[1]), int(match[2])) if match else (99, 0)


def default_memory_limit(maxmemory: int) -> int:
    """Container limit in bytes that suits a maxmemory, in whole MiB.

    1.5 x maxmemory: at 1 GiB Redis survived saves under write load in 1536 MiB with a peak of 1281 MiB.
    """
    return _mib(max(maxmemory * 1.5, smallest_memory_limit(maxmemory)))


def smallest_memory_limit(maxmemory: int) -> int:
    """Smallest container limit in bytes that is accepted for a maxmemory, in whole MiB.

    Measured peaks (AOF everysec, RDB, rewrite and save under write load): 1281 MiB at maxmemory 1 GiB, 873 MiB
    at 640 MiB; 1.25 x maxmemory + 128 MiB lies above both. At maxmemory 1 GiB in 1 GiB the kernel killed Redis.
    """
    return _mib(maxmemory * 1.25 + 128 * MIB)


def _mib(size: float) -> int:
    return math.ceil(size / MIB) * MIB


# -- Printing the model: the settings file and the table in the docs.


def details(field: FieldInfo) -> dict[str, Any]:
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    return extra


def changed_settings(settings: Settings, deployed: Mapping[str, Any], effect: Effect) -> list[str]:
    """What differs from settings that were deployed (by ``with_effect``), of those that cost this, in words."""
    wanted = settings.with_effect(effect)
    return [
        f"{name}: {_format(name, deployed[name])} becomes {_format(name, value)}"
        for name, value in wanted.items()
        if name in deployed and deployed[name] != value
    ]


def _format(name: str, value: Any) -> str:
    field = Settings.model_fields[name]
    if is_size(field) and isinstance(value, int):
        return format_size(value)
    return "derived" if value is None else repr(value)


def is_size(field: FieldInfo) -> bool:
    return "_size" in f"{field.annotation!r}{field.metadata!r}"
