"""The ACL users of an instance and their rules.

The real clients (RQ, Flask-Session, redis-py, redis-cli) work with these rules without an entry in ACL LOG; tests/host
checks that. A server refuses the whole file if it does not know a subcommand in it, so ``_SINCE`` has the version that
brought such a rule.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from redoubt.settings.model import Settings
from redoubt.settings.sections.access import NamedUser

HEALTH_KEYS = "redoubt:health:*"

# What client libraries send when they connect. HELLO logs in with RESP3, AUTH with RESP2.
_LOGIN = (
    "+hello +auth +ping +reset +quit +select +client|setname +client|getname +client|setinfo +client|id +client|info"
)
_TRANSACTION = "+multi +exec +discard +watch +unwatch"
_SUBSCRIBE = "+subscribe +unsubscribe +psubscribe +punsubscribe"

_EXPIRY = "+expire +pexpire +expireat +pexpireat +expiretime +pexpiretime +persist +ttl +pttl"
_STRINGS = (
    "+get +set +setnx +setex +psetex +getset +getdel +getex +mget +mset +incr +decr +incrby +decrby +append +strlen"
)

_ADMIN = (
    "+@all -@dangerous -@scripting "
    "+info +role +config +acl +client +slowlog +latency +memory +lastsave +save +bgsave +bgrewriteaof +shutdown"
)

ROLES: Mapping[str, str] = {
    # Flask-Session and similar: one value per key, always with a TTL, and the event of its expiry.
    "session": f"-@all {_LOGIN} {_TRANSACTION} {_SUBSCRIBE} "
    "+get +set +setex +psetex +getex +del +unlink +exists "
    "+expire +pexpire +expireat +pexpireat +persist +ttl +pttl +type +touch",
    # RQ: workers, scheduler, registries and redis-py's locks, whose scripts run with SCRIPT LOAD and EVALSHA.
    # Without SCAN, because it lists the keys of all users, and the key of a session contains its cookie.
    "queue": f"-@all {_LOGIN} {_TRANSACTION} {_SUBSCRIBE} +publish +echo +info +time +client|list "
    f"+evalsha +script|load +script|exists {_STRINGS} {_EXPIRY} +del +unlink +exists +type +touch "
    "+rename +sort +sort_ro +@hash +@list +@set +@sortedset +@stream",
    # Caches of frameworks: values, hashes and counters, with or without a TTL.
    "cache": f"-@all {_LOGIN} {_TRANSACTION} {_STRINGS} {_EXPIRY} "
    "+del +unlink +exists +type +touch +incrbyfloat +@hash",
    # Reads its keys by name. Without commands that list or count the keys of others, or that block.
    "read-only": f"-@all {_LOGIN} +@read -@dangerous -@blocking -scan -randomkey -dbsize",
    # Numbers for exporters and dashboards. Without SLOWLOG GET and MONITOR, which show the data of others:
    # redis_exporter asks for the newest entry at every scrape and works without it.
    "metrics": f"-@all {_LOGIN} +info +role +dbsize +lastsave +client|list +slowlog|len "
    "+latency|latest +latency|history +latency|histogram +memory|stats",
    # Only connects; the user's own rules add the rest.
    "custom": f"-@all {_LOGIN}",
    # The container's health check: writes, reads and deletes its own key; role and state of persistence.
    "health": "-@all +hello +auth +ping +quit +info +role +set +get +del",
    # Operators and their tools: any key, configuration, users, saving, stopping.
    # Without scripts, modules, DEBUG, MONITOR, replication, MIGRATE, RESTORE, KEYS and flushing.
    "admin": _ADMIN,
    # With the default user on, a transaction of the admin would be lost at a restart, see _DEFAULT_OFF.
    "admin without transactions": f"{_ADMIN} -multi",
}

# Users of every instance that are not for applications.
OPERATING = ("health", "admin")

# The version since which a rule exists.
_SINCE: Mapping[str, tuple[int, int]] = {"+client|setinfo": (7, 2)}


# The default user is off and has no password, so a client without a login may do nothing. It keeps all rights because
# Redis replays the AOF as this user: until 8.6 EXEC checks its rights, and a restart silently loses the writes of
# transactions and scripts (redis/redis#14541, valkey#3983).
_DEFAULT_OFF = "off resetpass ~* &* +@all"

# From this version on, ACL LIST prints command rules as they were given.
_LITERAL_SINCE = (7, 2)


@dataclass(frozen=True)
class User:
    """An ACL user: the commands of its role on keys and channels (patterns).

    ``read`` are keys that it may only read, ``extra`` are rules after those of its role.
    """

    name: str
    role: str
    keys: tuple[str, ...]
    channels: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    extra: str = ""

    def rules(self, version: tuple[int, int]) -> str:
        """Return the user's rules for a server of this version, without its password."""
        known = [rule for rule in f"{ROLES[self.role]} {self.extra}".split() if version >= _SINCE.get(rule, (0, 0))]
        commands: list[str] = []
        for rule in known:
            # As in Redis, a later rule replaces earlier ones for the same command and its subcommands.
            commands = [earlier for earlier in commands if not f"{earlier[1:]}|".startswith(f"{rule[1:]}|")] + [rule]
        keys = [*(f"~{pattern}" for pattern in self.keys), *(f"%R~{pattern}" for pattern in self.read)]
        channels = [f"&{pattern}" for pattern in self.channels]
        return " ".join([*keys, "resetchannels", *channels, *commands])


def users(settings: Settings) -> tuple[User, ...]:
    """Return the instance's users, those of the settings last.

    ``default`` is among them only if the settings turn it on. Then the admin may write only the keys of the default
    user, and not in transactions, see ``_DEFAULT_OFF``.
    """
    sessions = User("sessions", "session", keys=(settings.session_keys,), channels=("__keyevent@*__:expired",))
    queues = User("queues", "queue", keys=("rq:*",), channels=("rq:*",))
    health = User("health", "health", keys=(HEALTH_KEYS,))
    named = tuple(_named(name, user) for name, user in settings.redis_users.items())
    if not settings.redis_enable_default_user:
        return sessions, queues, health, User("admin", "admin", keys=("*",), channels=("*",)), *named
    keys, channels = sessions.keys + queues.keys, sessions.channels + queues.channels
    admin = User("admin", "admin without transactions", keys=keys, channels=("*",), read=("*",))
    return sessions, queues, health, admin, User("default", "queue", keys=keys, channels=channels), *named


def _named(name: str, user: NamedUser) -> User:
    is_reader = user.role == "read-only"
    # RQ and Celery use the same prefix for channels and keys.
    channels = user.channels or (user.keys if user.role == "queue" else ())
    return User(
        name,
        user.role,
        keys=() if is_reader else user.keys,
        channels=channels,
        read=user.keys if is_reader else (),
        extra=user.rules,
    )


def url(settings: Settings, user: User) -> str:
    """Return the URL with which a client on the host logs in as this user.

    It has PASSWORD instead of the password. Without a published port it is the URL for a container on the instance's
    network.
    """
    name = "" if user.name == "default" else user.name
    # The last port has TLS if any has.
    port = settings.ports[-1]
    scheme, ca = ("rediss", f"?ssl_ca_certs={settings.ca_file}") if port.tls else ("redis", "")
    if not settings.redis_bind:
        return f"{scheme}://{name}:PASSWORD@{settings.redis_name}:{port.inside}/0{ca}"
    address = settings.redis_bind[0]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address, f"[{address}]" if ":" in address else address)
    return f"{scheme}://{name}:PASSWORD@{host}:{port.published}/0{ca}"


def acl_file(settings: Settings, passwords: Mapping[str, Iterable[str]]) -> str:
    """Return the text of the ACL file.

    ``passwords`` are one or more for each user, of which the file has the SHA-256. It has no comments, which Redis
    accepts in ACL files only since 8.8.
    """
    lines = [
        " ".join(
            (
                f"user {user.name} on",
                *(f"#{password_hash(password)}" for password in passwords[user.name]),
                user.rules(settings.server_version),
            )
        )
        for user in users(settings)
    ]
    if not settings.redis_enable_default_user:
        lines.append(f"user default {_DEFAULT_OFF}")
    return "".join(f"{line}\n" for line in lines)


def differences(settings: Settings, running: Iterable[str]) -> list[str]:
    """Return how the running users differ from the settings.

    ``running`` are the lines of ACL LIST, with ``#`` instead of each password hash. Redis leaves out default rules and
    adds ``sanitize-payload``. Redis 7.0 rewrites command rules, so they are not compared there.
    """
    desired = {user.name: {"on", "#", *user.rules(settings.server_version).split()} for user in users(settings)}
    desired.setdefault("default", {"off", "~*", "&*", "+@all"})
    present = {name: rules for _, name, *rules in map(str.split, running)}
    differences = []
    for name, rules in desired.items():
        if name not in present:
            differences.append(f"lacks the user {name}")
        elif differing := _comparable(settings, rules) ^ _comparable(settings, present[name]):
            differences.append(f"has the user {name} with other rules ({' '.join(sorted(differing))})")
    unknown = sorted(present.keys() - desired.keys())
    return [*differences, *(f"has the user {name}, which is not in the settings" for name in unknown)]


def _comparable(settings: Settings, rules: Iterable[str]) -> set[str]:
    """Return the rules that decide what a user may do.

    Other words differ between versions of the server.
    """
    kinds = "~%&#(" if settings.server_version < _LITERAL_SINCE else "~%&#(+-"
    return {rule for rule in rules if rule[0] in kinds or rule in ("on", "off", "nopass")}


def password_hash(password: str) -> str:
    """Return the SHA-256 of a password for an ACL file.

    It is enough for generated passwords of 256 random bits.
    """
    return hashlib.sha256(password.encode()).hexdigest()
