"""Every setting of a Redis instance: its type, default, bounds, relations and what it costs to change.

The inventory's data is flat (``redis_*`` keys). ``load`` turns it into one frozen ``Settings`` or
raises ``SettingsError`` with every problem found, so that an operator mends them in one go.
The settings file ``inventory/group_data/all.py`` and the table in ``docs/settings.md`` are printed from
this model (``python -m redoubt.settings``); a unit test keeps them equal.
"""

import hashlib
import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, PydanticUndefined

from redoubt.sizes import KIB, MIB, format_size, parse_docker_size, parse_redis_size
from redoubt.versions import Engine

PREFIX = "redis_"

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

Cost = Literal["nothing", "live", "restart", "new instance"]
# Changes that are made only when they are allowed by name.
Loss = Literal["eviction", "policy", "persistence"]

COSTS: dict[Cost, str] = {
    "nothing": "no restart",
    "live": "applied live",
    "restart": "restarts Redis",
    "new instance": "makes a new instance beside the old one",
}


_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HOST_NAME = rf"{_LABEL}(\.{_LABEL})*"


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number")
    return value


def _one_line(value: str) -> str:
    if "\n" in value or "\r" in value:
        raise ValueError("a line break is not possible here")
    return value


def _absolute(value: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9._/-]*[A-Za-z0-9_-]", value) or ".." in value.split("/"):
        raise ValueError(f"{value!r} is not an absolute path of letters, digits, '.', '_' and '-' (no '..')")
    return value


def _address(value: object) -> str:
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        raise ValueError(f"{value!r} is not an IP address, such as 127.0.0.1 or ::1") from None


def _network(value: object) -> str:
    try:
        return str(ipaddress.ip_network(str(value)))
    except ValueError as error:
        raise ValueError(f"{value!r} is not a network such as 10.0.0.0/24 or 10.0.0.7 ({error})") from None


def _certificate_name(value: object) -> str:
    text = str(value)
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    if not re.fullmatch(rf"(\*\.)?{HOST_NAME}", text) or re.fullmatch(r"[\d.]+", text):
        raise ValueError(f"{value!r} is neither a name such as redis-1.example.com nor an IP address")
    return text


def _save_points(value: str) -> str:
    numbers = value.split()
    if len(numbers) % 2 or not all(n.isdigit() and int(n) > 0 for n in numbers):
        raise ValueError(
            f"{value!r} is not a list of '<seconds> <changes>' pairs, such as '900 1 300 10' ('' turns it off)"
        )
    return " ".join(numbers)


def _keyspace_events(value: str) -> str:
    unknown = set(value) - set("KEg$lshzxetdmnocrA")
    if unknown:
        raise ValueError(f"{value!r} holds {''.join(sorted(unknown))!r}, which is no class of event")
    if value and not set(value) & set("KE"):
        raise ValueError(f"{value!r} publishes nothing: it needs K (keyspace) or E (keyevent)")
    return value


def _image(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._:/-]*?(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?", value):
        raise ValueError(f"{value!r} is not an image reference, such as docker.io/library/redis:8.10.2")
    name, _, digest = value.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if not digest and tag in ("", "latest"):
        raise ValueError(
            f"{value!r} names no version: pin a tag or a digest, or the next deploy may bring another Redis"
        )
    return value


def _calendar(value: str) -> str:
    if value and not re.fullmatch(r"[A-Za-z0-9*][A-Za-z0-9*:.,/~+_ -]*", value):
        raise ValueError(f"{value!r} is not a calendar event of systemd, such as daily or '*-*-* 03:00:00' ('': off)")
    return value


# What restic is given on the host to reach a repository, by the start of the repository's name: names of files.
REPOSITORY_FILES: Mapping[str, tuple[str, ...]] = {
    "/": (),
    "sftp:": ("ssh_key", "known_hosts"),
    "s3:": ("aws_credentials", "ca_certificate"),
    "gs:": ("google_credentials",),
    "rest:": ("ca_certificate", "client_certificate"),
}
_REPOSITORY = (
    r"/[A-Za-z0-9._/-]*[A-Za-z0-9_-]",
    # The two forms of sftp: user@host:path, and a URL, which can name a port. A name that begins with - is an option.
    rf"sftp:([A-Za-z0-9_][A-Za-z0-9._-]*@)?{HOST_NAME}:[A-Za-z0-9._/~-]+",
    rf"sftp://([A-Za-z0-9_][A-Za-z0-9._-]*@)?({HOST_NAME}|\[[0-9a-fA-F:.]+\])(:\d{{1,5}})?/[A-Za-z0-9._/~-]+",
    r"(s3|gs|rest):[A-Za-z0-9][A-Za-z0-9._:/\[\]-]*",
)


def _repository(value: str) -> str:
    if re.search(r":[^@]*:[^@]*@", value):
        # The value is not repeated: problems are shown and logged.
        raise PydanticCustomError(
            "secret",
            "the address holds a password, which everybody on the host would see: leave it out, and give credentials "
            "as files (redis_backup_repository_files)",
        )
    if value and not any(re.fullmatch(form, value) for form in _REPOSITORY):
        raise ValueError(
            f"{value!r} is no repository that can be used: an absolute path, sftp:user@host:/path, "
            "s3:https://host/bucket, gs:bucket:/path or rest:https://host/path (restic takes the credentials of "
            "others from its environment alone)"
        )
    return value


def _acl_rules(value: str) -> str:
    rules = value.split()
    if wrong := [rule for rule in rules if not re.fullmatch(r"[+-](@[a-z]+|[a-z0-9_.-]+(\|[a-z0-9_-]+)?)", rule)]:
        raise ValueError(f"{wrong[0]!r} is not a rule such as +get, -sort or +@hash (keys and channels stand apart)")
    if wrong := [rule for rule in rules if rule[0] == "+" and rule[1:].partition("|")[0] in _ADMINISTRATION]:
        raise ValueError(f"{wrong[0]!r} is a way to everybody's data or to more rights: that is for admin alone")
    return " ".join(rules)


# A user with one of these could give itself the rest, read all keys or stop the server.
_ADMINISTRATION = {
    *("@all", "@admin", "@dangerous", "acl", "config", "module", "debug", "function", "keys", "monitor", "shutdown"),
    *("replicaof", "slaveof", "failover", "cluster", "sync", "psync", "migrate", "restore", "restore-asking"),
    *("flushall", "flushdb", "swapdb"),
}


def _words(value: object) -> object:
    """A list, or its words as the command line gives them."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _command_name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z]+", value):
        raise ValueError(f"{value!r} is not the name of a Redis command")
    return value.upper()


RedisSize = Annotated[int, BeforeValidator(parse_redis_size)]
DockerSize = Annotated[int, BeforeValidator(parse_docker_size)]
Int = Annotated[int, BeforeValidator(_not_bool)]
Float = Annotated[float, BeforeValidator(_not_bool)]
Line = Annotated[str, AfterValidator(_one_line)]
HostPath = Annotated[str, AfterValidator(_absolute)]
Network = Annotated[str, BeforeValidator(_network)]
Address = Annotated[str, BeforeValidator(_address)]
CertificateName = Annotated[str, BeforeValidator(_certificate_name)]
Command = Annotated[str, BeforeValidator(_command_name)]
Calendar = Annotated[str, AfterValidator(_calendar)]
Repository = Annotated[str, AfterValidator(_repository)]
RepositoryFile = Literal[
    "ssh_key", "known_hosts", "aws_credentials", "google_credentials", "ca_certificate", "client_certificate"
]
# One word of an ACL rule, which neither an ACL file nor redis-cli reads as something else.
Pattern = Annotated[str, Field(pattern=r"^[!#-&(-\[\]-~]+$")]
UserName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]


def setting(default: Any, why: str, *, cost: Cost = "restart", section: str, example: Any = None, **bounds: Any) -> Any:
    """A field of the model: default, meaning, what a change costs, and pydantic's bounds."""
    return Field(
        default,
        description=why,
        json_schema_extra={"cost": cost, "section": section, "example": example},
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
    rules: Annotated[str, AfterValidator(_acl_rules)] = ""


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
        cost="new instance",
        section="Instance",
    )
    redis_root: HostPath | None = setting(
        None,
        "Directory on the host that holds config, data, backups, logs and secrets. Default: /srv/<redis_name>.",
        cost="new instance",
        section="Instance",
        example="/srv/redis",
    )
    redis_app: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = setting(
        "app",
        "Name of the web application: its sessions are the keys <redis_app>:session:<id>.",
        cost="live",
        section="Instance",
    )

    # -- Image
    redis_engine: Engine = setting(
        "redis",
        "redis, or valkey: the free fork of Redis 7.2, which speaks the same protocol. Data of Redis 7.4 and newer is "
        "not read by it, and its own from 9.0 on not by Redis.",
        section="Image",
    )
    redis_image: Annotated[str, AfterValidator(_image)] = setting(
        DEFAULT_IMAGES["redis"],
        "Image with a pinned version, and a digest where you know it (name:tag@sha256:...). With redis_engine = "
        f"'valkey' the default is {DEFAULT_IMAGES['valkey']}.",
        section="Image",
    )
    redis_image_source: Literal["registry", "archive"] = setting(
        "registry",
        "registry: the host pulls the image. archive: a file made by 'docker save' is pushed over SSH and loaded; "
        "the host needs no registry.",
        cost="nothing",
        section="Image",
    )
    redis_image_archive: str | None = setting(
        None,
        "With source archive: path of the archive on the machine that deploys.",
        cost="nothing",
        section="Image",
        example="images/redis-8.10.2.tar",
    )
    redis_allow_vulnerable_version: bool = setting(
        False,
        "Deploy a version that lacks security fixes (redoubt/versions.py), with a warning that names them.",
        cost="nothing",
        section="Image",
    )

    # -- Changes
    redis_allow_loss: Annotated[tuple[Loss, ...], BeforeValidator(_words)] = setting(
        (),
        "Changes that may cost data and are refused otherwise. eviction: redis_maxmemory below what Redis holds; "
        "policy: a redis_maxmemory_policy that evicts more than the one before; persistence: redis_appendonly from "
        "True to False. For one deploy: --data redis_allow_loss=eviction.",
        cost="nothing",
        section="Changes",
        example=["eviction"],
    )

    # -- Memory and eviction
    redis_maxmemory: RedisSize = setting(
        "1gb",
        "Memory for data; what you size the instance by. Redis notation: 1gb is 1024^3 bytes.",
        cost="live",
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
        cost="live",
        section="Memory and eviction",
    )
    redis_maxmemory_samples: Int = setting(
        10,
        "Keys compared for each eviction; more is closer to true LRU.",
        cost="live",
        section="Memory and eviction",
        ge=1,
        le=64,
    )
    redis_hash_max_listpack_entries: Int = setting(
        1024,
        "A hash of up to this many fields is stored compactly.",
        cost="live",
        section="Memory and eviction",
        ge=0,
        le=65536,
    )
    redis_hash_max_listpack_value: Int = setting(
        256,
        "... when none of its values is longer than this (bytes).",
        cost="live",
        section="Memory and eviction",
        ge=0,
        le=65536,
    )
    redis_list_max_listpack_size: Int = setting(
        -1,
        "Size of a list's nodes: -1 is 4 KiB, -2 is 8 KiB, up to -5; a positive number counts elements.",
        cost="live",
        section="Memory and eviction",
        ge=-5,
        le=65536,
    )
    redis_lazyfree: bool = setting(
        True,
        "Free memory of evicted, expired and deleted keys in a background thread.",
        cost="live",
        section="Memory and eviction",
    )
    redis_activedefrag: Literal["auto", "yes", "no"] = setting(
        "auto",
        "Defragment memory while running. auto: on where the image's build supports it; "
        "yes on a build that does not is refused before Redis is touched.",
        cost="live",
        section="Memory and eviction",
    )

    # -- Persistence
    redis_save: Annotated[str, AfterValidator(_save_points)] = setting(
        "900 1 300 10 60 10000 30 100000",
        "RDB snapshots, as '<seconds> <changes>' pairs. '' turns them off.",
        cost="live",
        section="Persistence",
    )
    redis_appendonly: bool = setting(True, "Log every write (AOF).", cost="live", section="Persistence")
    redis_appendfsync: Literal["always", "everysec", "no"] = setting(
        "everysec",
        "When the AOF is flushed to disk. everysec: a power cut loses about one second at most.",
        cost="live",
        section="Persistence",
    )
    redis_auto_aof_rewrite_percentage: Int = setting(
        100,
        "Rewrite the AOF when it has grown by this much (percent, 0: never).",
        cost="live",
        section="Persistence",
        ge=0,
        le=10000,
    )
    redis_auto_aof_rewrite_min_size: RedisSize = setting(
        "64mb", "... and is at least this big.", cost="live", section="Persistence", ge=MIB
    )
    redis_aof_timestamps: bool = setting(
        True,
        "Write the time into the AOF, so that a restore can go back to a moment. Redis 7.0 and newer, and Valkey.",
        cost="live",
        section="Persistence",
    )
    redis_incremental_fsync: bool = setting(
        True,
        "Flush RDB and AOF rewrites to disk in small portions, so that clients see no latency spike.",
        cost="live",
        section="Persistence",
    )

    # -- Backups
    redis_backup_calendar: Calendar = setting(
        "*-*-* 03:00:00",
        "When backups are taken, as systemd's OnCalendar has it: daily, hourly, 'Mon..Fri 03:00'; in the host's time "
        "zone, or one that is named ('03:00 Europe/Berlin'). '': never by itself.",
        cost="nothing",
        section="Backups",
    )
    redis_backup_jitter: Int = setting(
        1800,
        "Seconds within which a host waits after that, always as long: many hosts do not write at once.",
        cost="nothing",
        section="Backups",
        ge=0,
        le=86400,
    )
    redis_backup_verify: bool = setting(
        True,
        "Load each backup in a container of its own and look at what it holds, which takes the memory of a second "
        "Redis meanwhile.",
        cost="nothing",
        section="Backups",
    )
    redis_upgrade_verify: bool = setting(
        True,
        "Before another version of the server is started, load the backup that is taken then with both versions. It "
        "takes the memory of a second Redis meanwhile; without it the backup is taken and not tried.",
        cost="nothing",
        section="Backups",
    )
    redis_backup_max_age: Int = setting(
        26,
        "redisctl health warns when the newest verified backup is older (hours), and is critical at twice that.",
        cost="nothing",
        section="Backups",
        ge=1,
        le=8784,
    )
    redis_backup_keep_hourly: Int = setting(
        24,
        "Backups kept: the last one of each of so many hours,",
        cost="nothing",
        section="Backups",
        ge=0,
        le=1000,
    )
    redis_backup_keep_daily: Int = setting(7, "... of so many days,", cost="nothing", section="Backups", ge=0, le=1000)
    redis_backup_keep_weekly: Int = setting(
        4, "... of so many weeks,", cost="nothing", section="Backups", ge=0, le=1000
    )
    redis_backup_keep_monthly: Int = setting(
        6, "... and of so many months; the same off the host.", cost="nothing", section="Backups", ge=0, le=1000
    )
    redis_backup_repository: Repository = setting(
        "",
        "Where each backup is copied to as well, encrypted, by restic: sftp:user@host:/path, s3:https://host/bucket, "
        "gs:bucket:/path, rest:https://host/path, or a directory. Each instance has its own. '': nowhere.",
        cost="nothing",
        section="Backups",
        example="sftp:backup@nas.example.com:/redis-1",
    )
    redis_backup_repository_files: dict[RepositoryFile, str] = setting(
        {},
        "What gets restic there, as paths of files on the machine that deploys: ssh_key and known_hosts (sftp), "
        "aws_credentials (s3), google_credentials (gs), ca_certificate (s3, rest), client_certificate (rest).",
        cost="nothing",
        section="Backups",
        example={"ssh_key": "backup/id_ed25519", "known_hosts": "backup/known_hosts"},
    )

    # -- Clients
    redis_maxclients: Int = setting(10000, "Connections at a time.", section="Clients", ge=10, le=1_000_000)
    redis_timeout: Int = setting(
        300,
        "Close a connection that was idle for this long (0: never). Subscribers and blocked workers are exempt.",
        cost="live",
        section="Clients",
        ge=0,
        le=86400,
    )
    redis_tcp_keepalive: Int = setting(
        60, "Seconds between TCP keepalive probes; finds dead peers.", cost="live", section="Clients", ge=0, le=86400
    )
    redis_tcp_backlog: Int = setting(
        511, "Connections that may wait to be accepted.", section="Clients", ge=1, le=65535
    )
    redis_databases: Int = setting(16, "Number of databases.", section="Clients", ge=1, le=1024)
    redis_notify_keyspace_events: Annotated[str, AfterValidator(_keyspace_events)] = setting(
        "Ex",
        "Events that Redis publishes. Ex: the expiry of keys, on __keyevent@<db>__:expired.",
        cost="live",
        section="Clients",
    )

    # -- Access
    redis_users: dict[UserName, NamedUser] = setting(
        {},
        "Further users, each with a password of its own, a role (session, queue, cache, read-only, metrics or custom), "
        "key patterns, channels and further ACL rules. None sees another's keys.",
        cost="live",
        section="Access",
        example={"shop": {"role": "session", "keys": ["shop:session:*"]}},
    )
    redis_default_user: bool = setting(
        False,
        "Turn the default user on, with a generated password and the rights of the session and queue users "
        "together, for clients that know only a password. Meanwhile admin writes no other keys and no transactions.",
        cost="live",
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
        cost="nothing",
        section="Access",
    )
    redis_secrets_dir: str = setting(
        "secrets",
        "With source file or sops: directory on the machine that deploys, with one file for each host and instance.",
        cost="nothing",
        section="Access",
    )
    redis_secrets_command: tuple[Line, ...] = setting(
        (),
        "With source command: a program and its first arguments. It is called with 'get' or 'put', the host and the "
        "document's name, see docs/secrets.md.",
        cost="nothing",
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
        cost="live",
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
    redis_tls: Literal["off", "only", "beside"] = setting(
        "off",
        "only: redis_port speaks TLS (1.2 and 1.3) and nothing else does. beside: TLS on redis_tls_port, plain on "
        "redis_port, while clients move.",
        section="TLS",
    )
    redis_tls_port: Int = setting(6380, "With 'beside': the port of TLS.", section="TLS", ge=1, le=65535)
    redis_tls_source: Literal["ca", "files"] = setting(
        "ca",
        "ca: a CA of your own, kept with the secrets, issues certificates, and a deploy renews them. files: you give "
        "the three files below.",
        cost="live",
        section="TLS",
    )
    redis_tls_cert: str | None = setting(
        None,
        "With source files: the certificate and what leads from it to the CA (PEM), on the machine that deploys.",
        cost="live",
        section="TLS",
        example="tls/redis-1.crt",
    )
    redis_tls_key: str | None = setting(
        None, "... its key, without a passphrase.", cost="live", section="TLS", example="tls/redis-1.key"
    )
    redis_tls_ca: str | None = setting(
        None,
        "... and the CA (one or more), by which clients know the server, and Redis its clients.",
        cost="live",
        section="TLS",
        example="tls/ca.crt",
    )
    redis_tls_names: tuple[CertificateName, ...] = setting(
        (),
        "Names and IP addresses by which clients reach Redis, beside the host's name in the inventory and redis_bind. "
        "With source files: those that the certificate must have.",
        cost="live",
        section="TLS",
        example=["redis-1.example.com"],
    )
    redis_tls_days: Int = setting(
        365,
        "With source ca: days that a certificate is valid. In their last third a deploy replaces it.",
        cost="live",
        section="TLS",
        ge=2,
        le=825,
    )
    redis_tls_auth_clients: Literal["no", "optional", "yes"] = setting(
        "no",
        "Whether clients show a certificate of the CA too: no, if they have one, or always. They log in all the same.",
        cost="live",
        section="TLS",
    )

    # -- Container limits
    redis_container_memory: DockerSize | None = setting(
        None,
        "Memory limit. Default: 1.5 x redis_maxmemory, which leaves room for forks, buffers and fragmentation "
        "(measured, see docs/sizing.md).",
        cost="live",
        section="Container limits",
        example="1536M",
        ge=64 * MIB,
    )
    redis_container_memory_reservation: DockerSize = setting(
        "512M",
        "Memory the kernel tries to leave to Redis when the host runs short.",
        cost="live",
        section="Container limits",
        ge=6 * MIB,
    )
    redis_container_cpus: Float = setting(
        1.0, "CPU limit, in cores.", cost="live", section="Container limits", ge=0.1, le=1024
    )
    redis_container_cpu_reservation: Float = setting(
        0.5,
        "CPU share kept under contention, in cores. Docker has no hard reservation: it becomes a weight (1.0 is 1024).",
        cost="live",
        section="Container limits",
        ge=0.01,
        le=1024,
    )
    redis_container_pids: Int = setting(
        128,
        "Processes and threads: Redis's own, a saving child and health checks.",
        cost="live",
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
        "unless-stopped", "Docker's restart policy.", cost="live", section="Container limits"
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
        "notice", "How much Redis logs.", cost="live", section="Logs"
    )
    redis_logfile_max_size: DockerSize = setting(
        "10M",
        "Redis's log file is rotated daily, and at this size.",
        cost="nothing",
        section="Logs",
        ge=64 * KIB,
    )
    redis_logfile_keep: Int = setting(14, "Rotated log files kept.", cost="nothing", section="Logs", ge=1, le=3650)
    redis_container_log_max_size: DockerSize = setting(
        "10M", "Size of a file of the container's own output (json-file).", section="Logs", ge=64 * KIB
    )
    redis_container_log_max_file: Int = setting(3, "Files of it kept.", section="Logs", ge=1, le=100)
    redis_slowlog_log_slower_than: Int = setting(
        10000,
        "Commands slower than this go to the slow log (microseconds; -1: none, 0: all).",
        cost="live",
        section="Logs",
        ge=-1,
        le=3_600_000_000,
    )
    redis_slowlog_max_len: Int = setting(
        256, "Entries of the slow log.", cost="live", section="Logs", ge=0, le=1_000_000
    )
    redis_latency_monitor_threshold: Int = setting(
        100,
        "Events slower than this are kept by the latency monitor (milliseconds; 0: off).",
        cost="live",
        section="Logs",
        ge=0,
        le=3_600_000,
    )

    # -- Application
    redis_app_services: dict[str, dict[str, Any]] = setting(
        {},
        "Compose services of your own, as in a Compose file; they join Redis's network and wait until it is healthy.",
        cost="nothing",
        section="Application",
        example={"web": {"image": "registry.example.com/web:1.4.2"}},
    )

    # -- Host
    redis_host_tuning: bool = setting(
        True,
        "Set the host's kernel up for Redis, now and at every boot: memory overcommit, huge pages, swappiness, the "
        "ceiling of backlogs. False leaves it alone, as on a host that is a container: its kernel is not its own.",
        cost="nothing",
        section="Host",
    )
    redis_docker_source: Literal["auto", "distribution", "docker", "none"] = setting(
        "auto",
        "Where the container engine comes from on a host that has none. distribution: docker.io and Compose v2 of the "
        "system; docker: Docker's own apt repository; none: refuse. auto: distribution, or docker where the system "
        "has no Compose v2 (Debian 12).",
        cost="nothing",
        section="Host",
    )
    redis_allow_unsupported_system: bool = setting(
        False, "Deploy to a system that is not in the list of supported ones.", cost="nothing", section="Host"
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
        of_one_deploy = {"redis_allow_loss", "redis_upgrade_verify"}
        return hashlib.sha256(self.model_dump_json(exclude=of_one_deploy).encode()).hexdigest()[:12]

    def costing(self, *costs: Cost) -> dict[str, Any]:
        """The settings whose change costs one of these, as JSON holds them."""
        names = {name for name, field in Settings.model_fields.items() if _details(field)["cost"] in costs}
        return self.model_dump(mode="json", include=names)

    def without_live(self) -> "Settings":
        """These settings with those at their defaults that need no new container when they change."""
        fields = Settings.model_fields.items()
        kept = [name for name, field in fields if _details(field)["cost"] not in ("live", "nothing")]
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
    def ports(self) -> tuple[Port, ...]:
        """The ports of Redis, published or not: plain, by TLS, or both."""
        if self.redis_tls == "only":
            return (Port(self.redis_port, 6379, tls=True),)
        beside = (Port(self.redis_tls_port, 6380, tls=True),) if self.redis_tls == "beside" else ()
        return (Port(self.redis_port, 6379, tls=False), *beside)

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
        kinds = (names for kind, names in REPOSITORY_FILES.items() if self.redis_backup_repository.startswith(kind))
        return next(kinds, ())

    @property
    def session_keys(self) -> str:
        """Pattern of the application's session keys."""
        return f"{self.redis_app}:session:*"

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


class SettingsError(ValueError):
    """Settings that cannot be deployed.

    ``problems`` lists each in words. ``partial`` has what is right, the rest at its default; ``wrong`` names the
    rest, so that the host can be checked against what is known all the same.
    """

    def __init__(self, problems: Iterable[str], partial: "Settings", wrong: Iterable[str]) -> None:
        self.problems = tuple(problems)
        self.partial = partial
        self.wrong = frozenset(wrong)
        super().__init__("\n".join(self.problems))


# -- Relations between settings. Each names the fields it reads: it is left out when one of them is wrong
# by itself, so that one mistake is reported once.
Relation = tuple[tuple[str, ...], Callable[[Settings], str | None]]


def _memory_fits(s: Settings) -> str | None:
    smallest = smallest_memory_limit(s.redis_maxmemory)
    if s.memory_limit >= smallest:
        return None
    return (
        f"redis_container_memory = {format_size(s.memory_limit)} leaves no room beside redis_maxmemory = "
        f"{format_size(s.redis_maxmemory)}: forks, buffers and fragmentation need more, and the kernel would kill "
        f"Redis. The smallest limit that works is {format_size(smallest)}; leave it out for "
        f"{format_size(default_memory_limit(s.redis_maxmemory))}"
    )


def _nofile_fits(s: Settings) -> str | None:
    if s.nofile >= s.redis_maxclients + 32:
        return None
    return (
        f"redis_container_nofile = {s.nofile} is too low for redis_maxclients = {s.redis_maxclients}: "
        f"Redis needs at least {s.redis_maxclients + 32} and would lower maxclients by itself"
    )


def _archive_named(s: Settings) -> str | None:
    if s.redis_image_source == "archive":
        if not s.redis_image_archive:
            return "redis_image_source = 'archive' needs redis_image_archive, the path of a file made by 'docker save'"
        if not Path(s.redis_image_archive).is_file():
            return f"redis_image_archive = {s.redis_image_archive!r}: there is no such file on this machine"
        if "@" in s.redis_image:
            return "redis_image names a digest, which an archive cannot carry: name the tag alone"
    elif s.redis_image_archive:
        return "redis_image_archive is set, but redis_image_source = 'registry' does not use it"
    return None


def _commands_distinct(s: Settings) -> str | None:
    both = sorted(set(s.redis_disabled_commands) & set(s.redis_renamed_commands))
    return f"{', '.join(both)}: in redis_disabled_commands and in redis_renamed_commands; choose one" if both else None


def _commands_usable(s: Settings) -> str | None:
    # What the health check, clients' logins, RQ and the deploy itself cannot do without.
    needed = {
        "AUTH",
        "HELLO",
        "PING",
        "ECHO",
        "GET",
        "SET",
        "DEL",
        "INFO",
        "ROLE",
        "EVALSHA",
        "SCRIPT",
        "ACL",
        "CLIENT",
    }
    lost = sorted(needed & {*s.redis_disabled_commands, *s.redis_renamed_commands})
    return f"{', '.join(lost)}: cannot be disabled or renamed; logins, the health check or RQ call it" if lost else None


def _open_to_all(s: Settings) -> list[str]:
    return [address for address in s.redis_bind if ipaddress.ip_address(address).is_unspecified]


def _not_open_to_everybody(s: Settings) -> str | None:
    if not _open_to_all(s) or s.redis_allow_from or s.redis_tls == "only":
        return None
    return (
        f"redis_bind: {', '.join(_open_to_all(s))} publishes Redis on every address of the host, past ufw and without "
        "encryption. Name an address of a private network, or the networks that may come in redis_allow_from "
        "(['0.0.0.0/0', '::/0'] if it is to be everybody), or set redis_tls = 'only'"
    )


def _tls_ports_distinct(s: Settings) -> str | None:
    if s.redis_tls != "beside" or s.redis_tls_port != s.redis_port:
        return None
    return f"redis_tls_port = {s.redis_tls_port} is redis_port as well; with redis_tls = 'beside' they are two"


def _tls_files_named(s: Settings) -> str | None:
    files = {name: getattr(s, name) for name in ("redis_tls_cert", "redis_tls_key", "redis_tls_ca")}
    given = [name for name, path in files.items() if path]
    if s.redis_tls_source == "ca" or s.redis_tls == "off":
        why = "redis_tls = 'off'" if s.redis_tls == "off" else "redis_tls_source = 'ca'"
        return f"{', '.join(given)}: set, but {why} does not use it" if given else None
    if missing := [name for name in files if name not in given]:
        return f"redis_tls_source = 'files' needs {', '.join(missing)} as well"
    if lost := [f"{name} = {path!r}" for name, path in files.items() if not Path(path).is_file()]:
        return f"{', '.join(lost)}: there is no such file on this machine"
    return None


def _tls_names_known(s: Settings) -> str | None:
    if s.redis_tls == "off" or s.redis_tls_source == "files" or s.redis_tls_names or not _open_to_all(s):
        return None
    return (
        f"redis_tls_names: redis_bind = {', '.join(_open_to_all(s))} does not say by which names or addresses clients "
        "reach this host, and its certificate has to: name them"
    )


def _secrets_command_named(s: Settings) -> str | None:
    if (s.redis_secrets_source == "command") == bool(s.redis_secrets_command):
        return None
    if s.redis_secrets_command:
        return f"redis_secrets_command is set, but redis_secrets_source = {s.redis_secrets_source!r} does not use it"
    return "redis_secrets_source = 'command' needs redis_secrets_command, such as ['./vault-secrets']"


def _users_usable(s: Settings) -> str | None:
    found = []
    for name, user in s.redis_users.items():
        if name in RESERVED_USERS:
            found.append(f"{name}: there is a user of this name already; choose another")
        if user.role == "metrics" and user.keys:
            found.append(f"{name}: the role metrics sees numbers and no keys; leave keys out")
        if user.role not in ("metrics", "custom") and not user.keys:
            found.append(f"{name}: the role {user.role} needs keys, such as ['{name}:*']")
        if user.role in ("session", "queue", "cache") and "*" in user.keys:
            found.append(f"{name}: keys = '*' are those of all others too; name a prefix, such as '{name}:*'")
        if user.role == "custom" and not user.rules:
            found.append(f"{name}: the role custom needs rules, such as '+get +set'")
    return f"redis_users: {'; '.join(found)}" if found else None


def _persistence_kept(s: Settings) -> str | None:
    if not s.redis_appendonly and not s.redis_save:
        return "redis_appendonly = False and redis_save = '': nothing would survive a restart; keep one of them"
    return None


def _app_services_named(s: Settings) -> str | None:
    wrong = [name for name in s.redis_app_services if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name)]
    if wrong:
        return f"redis_app_services: {', '.join(map(repr, wrong))} is not a name for a Compose service"
    if s.redis_name in s.redis_app_services:
        return f"redis_app_services: {s.redis_name!r} is the name of the Redis service itself"
    return None


def _ca_given_to_services(s: Settings) -> str | None:
    if s.redis_tls != "off":
        return None
    wanted = [
        name
        for name, service in s.redis_app_services.items()
        if any("ca.crt" in (one, isinstance(one, dict) and one.get("source")) for one in service.get("secrets") or ())
    ]
    if not wanted:
        return None
    return f"redis_app_services: {', '.join(wanted)} has the secret ca.crt, and there is none with redis_tls = 'off'"


def _extra_config_is_extra(s: Settings) -> str | None:
    from redoubt.redisconf import managed_directives  # redisconf reads this model

    clash = sorted(set(s.redis_extra_config) & managed_directives(s))
    return f"redis_extra_config: {', '.join(clash)} is set by Redoubt; use its own setting" if clash else None


def _some_backup_kept(s: Settings) -> str | None:
    if any(s.backups_kept.values()):
        return None
    return "redis_backup_keep_hourly, _daily, _weekly and _monthly are all 0: no backup would stay; keep some"


def _repository_files_given(s: Settings) -> str | None:
    given, used = s.redis_backup_repository_files, s.repository_files_used
    if unused := sorted(set(given) - set(used)):
        why = f"redis_backup_repository = {s.redis_backup_repository!r}"
        return f"redis_backup_repository_files: {', '.join(unused)}: set, but {why} does not use it"
    # Without these SSH would ask, and nobody is there at night.
    if s.redis_backup_repository.startswith("sftp:") and (missing := [name for name in used if name not in given]):
        return f"redis_backup_repository_files: a repository reached by SFTP needs {' and '.join(missing)} as well"
    if lost := [f"{name} = {path!r}" for name, path in given.items() if not Path(path).is_file()]:
        return f"redis_backup_repository_files: {', '.join(lost)}: there is no such file on this machine"
    return None


RELATIONS: tuple[Relation, ...] = (
    (("redis_maxmemory", "redis_container_memory"), _memory_fits),
    (("redis_maxclients", "redis_container_nofile"), _nofile_fits),
    (("redis_image", "redis_image_source", "redis_image_archive"), _archive_named),
    (("redis_disabled_commands", "redis_renamed_commands"), _commands_distinct),
    (("redis_disabled_commands", "redis_renamed_commands"), _commands_usable),
    (("redis_bind", "redis_allow_from", "redis_tls"), _not_open_to_everybody),
    (("redis_tls", "redis_port", "redis_tls_port"), _tls_ports_distinct),
    (("redis_tls", "redis_tls_source", "redis_tls_cert", "redis_tls_key", "redis_tls_ca"), _tls_files_named),
    (("redis_tls", "redis_tls_source", "redis_tls_names", "redis_bind"), _tls_names_known),
    (("redis_secrets_source", "redis_secrets_command"), _secrets_command_named),
    (("redis_users",), _users_usable),
    (("redis_appendonly", "redis_save"), _persistence_kept),
    (tuple(f"redis_backup_keep_{period}" for period in PERIODS), _some_backup_kept),
    (("redis_backup_repository", "redis_backup_repository_files"), _repository_files_given),
    (("redis_app_services", "redis_name"), _app_services_named),
    (("redis_app_services", "redis_tls"), _ca_given_to_services),
    (("redis_extra_config",), _extra_config_is_extra),
)


def load(data: Mapping[str, Any]) -> Settings:
    """The settings in an inventory's data, checked as a whole.

    Keys without the prefix ``redis_`` belong to pyinfra or to the user and are left alone, unless one is
    nearly the name of a setting. Raises SettingsError with every problem: unknown keys (with the nearest
    known one), wrong types, bounds and relations.
    """
    known = Settings.model_fields
    given = {key: value for key, value in data.items() if key.startswith(PREFIX)}
    problems = [_unknown(key) for key in given if key not in known]
    problems += [
        f"{key}: unknown setting; did you mean {near[0]}?"
        for key in data
        if not key.startswith((PREFIX, "ssh_", "_")) and (near := get_close_matches(key, known, n=1, cutoff=0.85))
    ]

    values = {key: value for key, value in given.items() if key in known}
    wrong: set[str] = set()
    try:
        settings = Settings(**values)
    except ValidationError as error:
        for detail in error.errors():
            wrong.add(str(detail["loc"][0]))
            problems.append(_explain(detail))
        # What is right still takes part in the relations; a wrong one stands at its default.
        settings = Settings(**{key: value for key, value in values.items() if key not in wrong})
    problems += [
        problem
        for fields, relation in RELATIONS
        if not wrong & set(fields)
        if (problem := relation(settings)) is not None
    ]
    if problems:
        raise SettingsError(problems, settings, wrong)
    return settings


def _unknown(key: str) -> str:
    near = get_close_matches(key, Settings.model_fields, n=1, cutoff=0.6)
    return f"{key}: unknown setting" + (f"; did you mean {near[0]}?" if near else "; docs/settings.md lists all")


def _explain(detail: Any) -> str:
    """One of pydantic's complaints in the operator's words."""
    key, *inner = detail["loc"]
    where = key + "".join(f"[{part!r}]" for part in inner if part != "[key]")
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "secret":
        return f"{where}: {message}"
    for bound, words in (("ge", "at least"), ("le", "at most")):
        if bound in (context := detail.get("ctx", {})):
            field = Settings.model_fields[key]
            message = f"must be {words} {format_size(context[bound]) if _is_size(field) else context[bound]}"
    return f"{where} = {detail['input']!r}: {message[0].lower()}{message[1:]}"


# -- Printing the model: the settings file and the table in the docs.


def _details(field: FieldInfo) -> dict[str, Any]:
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    return extra


def changes(settings: Settings, deployed: Mapping[str, Any], cost: Cost) -> list[str]:
    """What differs from settings that were deployed (by ``costing``), of those that cost this, in words."""
    wanted = settings.costing(cost)
    return [
        f"{name}: {_told(name, deployed[name])} becomes {_told(name, value)}"
        for name, value in wanted.items()
        if name in deployed and deployed[name] != value
    ]


def _told(name: str, value: Any) -> str:
    field = Settings.model_fields[name]
    if _is_size(field) and isinstance(value, int):
        return format_size(value)
    return "derived" if value is None else repr(value)


def _shown(name: str, field: FieldInfo) -> str:
    value = field.default
    if value is None or value is PydanticUndefined:
        value = _details(field)["example"]
    if isinstance(value, tuple):
        value = list(value)
    return repr(value).replace("'", '"')


def _sections() -> dict[str, list[tuple[str, FieldInfo]]]:
    sections: dict[str, list[tuple[str, FieldInfo]]] = {}
    for name, field in Settings.model_fields.items():
        sections.setdefault(str(_details(field)["section"]), []).append((name, field))
    return sections


_FILE_HEADER = '''\
"""Settings of all hosts. Uncomment a line to change it; what it costs on a running host is in brackets.

A group's own file (group_data/<group>.py) and a host's data in the inventory come before this file.
docs/settings.md has the same list as a table. 'make settings' writes both from redoubt/settings.py.
"""

from redoubt.ssh import transport

# Halves the time of a deploy: paramiko leaves Nagle's algorithm on.
ssh_paramiko_connect_kwargs = {"transport_factory": transport}
'''

_TABLE_HEADER = """\
# Settings

Written from `redoubt/settings.py` by `make settings`. Set them in `inventory/group_data/` or beside a host in the
inventory. Sizes of Redis are in its own notation (`1gb` is 1024^3 bytes, `1g` is 10^9), sizes of Docker in Docker's.
How settings depend on each other a deploy says, of all hosts at once, before it changes anything.
"""


def settings_file() -> str:
    """The text of ``inventory/group_data/all.py``: every setting with its default, commented out."""
    lines = []
    for section, fields in _sections().items():
        lines += ["", f"# -- {section}"]
        for name, field in fields:
            cost = COSTS[_details(field)["cost"]]
            lines += ["", *wrap(f"# {field.description} [{cost}]", 110, subsequent_indent="# ")]
            lines += [f"# {name} = {_shown(name, field)}"]
    return _FILE_HEADER + "\n".join(lines) + "\n"


# Files that only an operator can name.
_NO_DEFAULT = ("redis_image_archive", "redis_tls_cert", "redis_tls_key", "redis_tls_ca")


def _is_size(field: FieldInfo) -> bool:
    return "_size" in f"{field.annotation!r}{field.metadata!r}"


def _values(field: FieldInfo) -> str:
    """The values that a setting takes by itself, where a list or a range says it."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    bounds = {
        name: value
        for one in field.metadata
        for name in ("ge", "le")
        if (value := getattr(one, name, None)) is not None
    }
    told = {name: format_size(value) if _is_size(field) else str(value) for name, value in bounds.items()}
    if "ge" not in told:
        return ""
    return f"{told['ge']} to {told['le']}" if "le" in told else f"from {told['ge']}"


def settings_table() -> str:
    """The settings as Markdown tables, a section each."""
    lines = []
    for section, fields in _sections().items():
        lines += [
            "",
            f"## {section}",
            "",
            "| setting | default | values | meaning | a change |",
            "|---|---|---|---|---|",
        ]
        for name, field in fields:
            default = "derived" if field.default is None else f"`{_shown(name, field)}`"
            if field.default is None and name in _NO_DEFAULT:
                default = "none"
            values = _values(field)
            lines.append(
                f"| `{name}` | {default} | {values} | {field.description} | {COSTS[_details(field)['cost']]} |"
            )
    return _TABLE_HEADER + "\n".join(lines) + "\n"


PRINTED = {"inventory/group_data/all.py": settings_file, "docs/settings.md": settings_table}

if __name__ == "__main__":
    for path, text in PRINTED.items():
        Path(path).write_text(text())
