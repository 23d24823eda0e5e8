"""Settings for access to Redis: users and their secrets, the network, and TLS."""

from pathlib import PurePath
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from redisctl import paths
from redoubt.settings.field import Section, setting
from redoubt.settings.types import (
    SERVER_SECRETS,
    Address,
    CertificateName,
    Command,
    EdgeSubnet,
    Int,
    Line,
    Network,
    Pattern,
    UserName,
    check_acl_rules,
)

# Names that redis_users cannot use: users of every instance, and what lies next to their passwords on the host.
_DIRECTORIES = (paths.SERVER_SECRETS, paths.REPOSITORY_SECRETS)
RESERVED_USERS = frozenset(
    {"sessions", "queues", "health", "admin", "default"}
    | {*SERVER_SECRETS, *(PurePath(directory).name for directory in _DIRECTORIES)}
)


class NamedUser(BaseModel):
    """A user of ``redis_users``.

    Its role applies only to its own keys and channels, which are patterns.

    ``rules`` are ACL rules for commands (``+publish -sort``) in addition to the role's. The role custom has only the
    commands that every client needs to connect.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["session", "queue", "cache", "read-only", "metrics", "custom"]
    keys: tuple[Pattern, ...] = ()
    channels: tuple[Pattern, ...] = ()
    rules: Annotated[str, AfterValidator(check_acl_rules)] = ""


class AccessSection(Section):
    """Users, commands and secrets."""

    title: ClassVar[str] = "Access"

    redis_users: dict[UserName, NamedUser] = setting(
        {},
        "Additional users. Each has its own password, a role (session, queue, cache, read-only, metrics or custom), "
        "key patterns, channels and additional ACL rules. A user reaches only keys that match its patterns.",
        effect="live",
        example={"shop": {"role": "session", "keys": ["shop:session:*"]}},
    )
    redis_enable_default_user: bool = setting(
        False,
        "Enable the default user, for clients that know only a password. It gets a generated password and the rights "
        "of the users sessions and queues together. While it is enabled, admin cannot write other keys or use "
        "transactions.",
        effect="live",
    )
    redis_disabled_commands: tuple[Command, ...] = setting(
        ("FLUSHDB", "FLUSHALL", "DEBUG", "EVAL"), "Commands that no client can call."
    )
    redis_renamed_commands: tuple[Command, ...] = setting(
        ("CONFIG", "SHUTDOWN"),
        "Commands that get a generated name, one for each instance. The names are stored with the secrets.",
    )
    redis_secrets_source: Literal["file", "sops", "command"] = setting(
        "file",
        "Where the machine that deploys stores passwords. file: plain files that only you can read. sops: files that "
        "SOPS encrypts and that can be committed. command: a program of your own (redis_secrets_command), for example "
        "for Vault.",
        effect="none",
    )
    redis_secrets_dir: str = setting(
        "secrets",
        "With redis_secrets_source = 'file' or 'sops': directory on the machine that deploys. It has one file for each "
        "host and instance.",
        effect="none",
    )
    redis_secrets_command: tuple[Line, ...] = setting(
        (),
        "With redis_secrets_source = 'command': a program and its first arguments. It is called with 'get' or 'put', "
        "the host and the name of the document (see docs/secrets.md).",
        effect="none",
    )


class NetworkSection(Section):
    """Ports, addresses and the socket."""

    title: ClassVar[str] = "Network"

    redis_port: Int = setting(6379, "Port that Docker publishes on the host.", ge=1, le=65535)
    redis_bind: tuple[Address, ...] = setting(
        ("127.0.0.1",),
        "Addresses of the host on which Docker publishes the port. [] publishes nothing: only containers on the "
        "network <redis_name>_backend reach Redis. A published port bypasses ufw.",
    )
    redis_allow_from: tuple[Network, ...] = setting(
        (),
        "Networks that may reach the published port from outside. The network filter drops all others before they "
        "reach Docker. []: everyone who can reach an address of redis_bind, which may then be 0.0.0.0 or :: only "
        "if TLS is required. Clients on the host are never restricted.",
        effect="live",
        example=["10.0.0.0/24"],
    )
    redis_edge_subnet: EdgeSubnet | None = setting(
        None,
        "IPv4 network of the bridge <redis_name>_edge, which carries the published port. Nothing else on the host may "
        "use its addresses. Default: 16 addresses of 198.18.0.0/15, which derive from redis_name.",
        example="198.18.7.16/28",
    )
    redis_unix_socket: bool = setting(
        False,
        "Listen on <redis_root>/socket/redis.sock as well, for applications on the same host. Its connections may also "
        "use the reserve of redis_maxclients.",
    )
    redis_unix_socket_gid: Int = setting(
        0,
        "Number of the group on the host whose members may use the socket. 0: root alone.",
        ge=0,
        le=4_294_967_294,
    )


class TlsSection(Section):
    """TLS and its certificates."""

    title: ClassVar[str] = "TLS"

    redis_tls: Literal["off", "required", "both"] = setting(
        "off",
        "required: redis_port accepts only TLS (1.2 and 1.3), and there is no other port. both: TLS on redis_tls_port "
        "and plain connections on redis_port, while you move clients to TLS.",
    )
    redis_tls_port: Int = setting(6380, "With redis_tls = 'both': the port for TLS.", ge=1, le=65535)
    redis_tls_source: Literal["ca", "files"] = setting(
        "ca",
        "ca: a CA that the first deploy creates issues the certificates, and a deploy renews them. It is stored with "
        "the secrets. files: you provide redis_tls_cert, redis_tls_key and redis_tls_ca, and a pair for clients if "
        "Redis requires one.",
        effect="live",
    )
    redis_tls_cert: str | None = setting(
        None,
        "With redis_tls_source = 'files': path of the certificate on the machine that deploys, with its intermediate "
        "certificates (PEM).",
        effect="live",
        example="tls/redis-1.crt",
    )
    redis_tls_key: str | None = setting(
        None,
        "With redis_tls_source = 'files': path of its key, without a passphrase.",
        effect="live",
        example="tls/redis-1.key",
    )
    redis_tls_ca: str | None = setting(
        None,
        "With redis_tls_source = 'files': path of the CA certificates. Clients check the server with them, and Redis "
        "checks its clients.",
        effect="live",
        example="tls/ca.crt",
    )
    redis_tls_client_cert: str | None = setting(
        None,
        "With redis_tls_source = 'files': path of a certificate for clients, with its intermediate certificates (PEM). "
        "Redis and its health check show it to servers that ask for one. redis_tls_auth_clients = 'yes' needs it.",
        effect="live",
        example="tls/redis-1-client.crt",
    )
    redis_tls_client_key: str | None = setting(
        None,
        "With redis_tls_source = 'files': path of its key, without a passphrase.",
        effect="live",
        example="tls/redis-1-client.key",
    )
    redis_tls_names: tuple[CertificateName, ...] = setting(
        (),
        "Names and IP addresses that clients use, in addition to the host's name in the inventory and redis_bind. With "
        "redis_tls_source = 'files': names that the certificate must have.",
        effect="live",
        example=["redis-1.example.com"],
    )
    redis_tls_days: Int = setting(
        365,
        "With redis_tls_source = 'ca': days that a certificate is valid. A deploy renews it in the last third.",
        effect="live",
        ge=2,
        le=825,
    )
    redis_tls_auth_clients: Literal["no", "optional", "yes"] = setting(
        "no",
        "Whether Redis asks clients for a certificate of the CA. no: never. optional: Redis checks it if a client "
        "sends one. yes: every client needs one. Clients log in with a password in any case.",
        effect="live",
    )
