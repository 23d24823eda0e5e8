"""Access control: the ACL users of an instance and what each may do.

The rules were run against the real clients (RQ, Flask-Session, redis-py, redis-cli) with no entry in ACL LOG;
the suite in tests/host runs them again. A rule that names a subcommand unknown to the server is an error that
rejects the whole file, so each rule states the version it exists since.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from redoubt.settings.model import Settings
from redoubt.settings.sections.access import NamedUser

HEALTH_KEYS = "redoubt:health:*"

# What every client library sends when it connects. HELLO is RESP3's login, AUTH is RESP2's.
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
    # Flask-Session and its like: one value per key, always with a TTL, and the event of its expiry.
    "session": f"-@all {_LOGIN} {_TRANSACTION} {_SUBSCRIBE} "
    "+get +set +setex +psetex +getex +del +unlink +exists "
    "+expire +pexpire +expireat +pexpireat +persist +ttl +pttl +type +touch",
    # RQ: workers, scheduler, registries and redis-py's locks, whose scripts run by SCRIPT LOAD and EVALSHA.
    # Not SCAN: it names the keys of all users, and whoever knows a session's key has its cookie.
    "queue": f"-@all {_LOGIN} {_TRANSACTION} {_SUBSCRIBE} +publish +echo +info +time +client|list "
    f"+evalsha +script|load +script|exists {_STRINGS} {_EXPIRY} +del +unlink +exists +type +touch "
    "+rename +sort +sort_ro +@hash +@list +@set +@sortedset +@stream",
    # Caches of frameworks: values and hashes with or without a TTL, counters.
    "cache": f"-@all {_LOGIN} {_TRANSACTION} {_STRINGS} {_EXPIRY} "
    "+del +unlink +exists +type +touch +incrbyfloat +@hash",
    # Whatever reads its keys by name; not what names or counts the keys of others, or waits.
    "read-only": f"-@all {_LOGIN} +@read -@dangerous -@blocking -scan -randomkey -dbsize",
    # Exporters and dashboards: numbers. Not SLOWLOG GET or MONITOR, which show what others store: redis_exporter asks
    # for the newest entry at every scrape, is refused it and goes on.
    "metrics": f"-@all {_LOGIN} +info +role +dbsize +lastsave +client|list +slowlog|len "
    "+latency|latest +latency|history +latency|histogram +memory|stats",
    # Connects, and does what its rules say.
    "custom": f"-@all {_LOGIN}",
    # The container's health check: write, read and delete a key of its own, the role, the state of persistence.
    "health": "-@all +hello +auth +ping +quit +info +role +set +get +del",
    # People and tools that look after the instance: any key, configuration, users, saving, stopping.
    # Not: scripts, modules, DEBUG, MONITOR, replication, MIGRATE and RESTORE, KEYS, flushing.
    "admin": _ADMIN,
    # The same beside a default user: its transactions would not outlive a restart, see _DEFAULT_OFF.
    "admin without transactions": f"{_ADMIN} -multi",
}

# Users of every instance that no application logs in as.
OPERATING = ("health", "admin")

# Rules that older servers do not know, by the version that brought them.
_SINCE: Mapping[str, tuple[int, int]] = {"+client|setinfo": (7, 2)}


# The default user, off and without a password: nobody can log in as it, and who has not logged in is refused
# everything. It keeps all rights because an AOF is replayed as this user: until 8.6 EXEC checks them even then, and
# a restart silently loses what was written in transactions and by scripts (redis/redis#14541, valkey#3983).
_DEFAULT_OFF = "off resetpass ~* &* +@all"

# From this version on ACL LIST repeats command rules literally.
_LITERAL_SINCE = (7, 2)


@dataclass(frozen=True)
class User:
    """An ACL user: its role's commands on some keys and channels (patterns)."""

    name: str
    role: str
    keys: tuple[str, ...]
    channels: tuple[str, ...] = ()
    # Keys that it may only read.
    read: tuple[str, ...] = ()
    # Commands beside those of its role.
    extra: str = ""

    def rules(self, version: tuple[int, int]) -> str:
        """The user's rules for a server of this version, without its password."""
        known = [rule for rule in f"{ROLES[self.role]} {self.extra}".split() if version >= _SINCE.get(rule, (0, 0))]
        commands: list[str] = []
        for rule in known:
            # As Redis itself does: a later rule replaces earlier ones for the same command and its subcommands.
            commands = [one for one in commands if not f"{one[1:]}|".startswith(f"{rule[1:]}|")] + [rule]
        keys = [*(f"~{pattern}" for pattern in self.keys), *(f"%R~{pattern}" for pattern in self.read)]
        channels = [f"&{pattern}" for pattern in self.channels]
        return " ".join([*keys, "resetchannels", *channels, *commands])


def users(settings: Settings) -> tuple[User, ...]:
    """The instance's users, those of the settings last. ``default`` is among them only when the settings turn it on.

    Then the administrator may write no other keys than it, and not in transactions, see ``_DEFAULT_OFF``.
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
    reads = user.role == "read-only"
    # RQ and Celery prefix their channels as they do their keys.
    channels = user.channels or (user.keys if user.role == "queue" else ())
    return User(
        name,
        user.role,
        keys=() if reads else user.keys,
        channels=channels,
        read=user.keys if reads else (),
        extra=user.rules,
    )


def url(settings: Settings, user: User) -> str:
    """The URL by which a client on the host reaches Redis as this user; PASSWORD stands for the password.

    When no port is published it is the URL for a container on the instance's network.
    """
    name = "" if user.name == "default" else user.name
    # By TLS where there is a choice.
    port = settings.ports[-1]
    scheme, ca = ("rediss", f"?ssl_ca_certs={settings.ca_file}") if port.tls else ("redis", "")
    if not settings.redis_bind:
        return f"{scheme}://{name}:PASSWORD@{settings.redis_name}:{port.inside}/0{ca}"
    address = settings.redis_bind[0]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address, f"[{address}]" if ":" in address else address)
    return f"{scheme}://{name}:PASSWORD@{host}:{port.published}/0{ca}"


def acl_file(settings: Settings, passwords: Mapping[str, Iterable[str]]) -> str:
    """The ACL file: passwords as SHA-256, one or more for each user, and the default user off unless it is among them.

    No comments: Redis reads them in ACL files only from 8.8 on.
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
    """What ACL LIST (its lines, the hash of every password cut to ``#``) says otherwise than the settings.

    Redis prints rules as they were given, but leaves out what is the default and adds ``sanitize-payload``.
    Redis 7.0 spells command rules in its own way: there they are not compared.
    """
    wanted = {user.name: {"on", "#", *user.rules(settings.server_version).split()} for user in users(settings)}
    wanted.setdefault("default", {"off", "~*", "&*", "+@all"})
    there = {name: rules for _, name, *rules in map(str.split, running)}
    found = []
    for name, rules in wanted.items():
        if name not in there:
            found.append(f"lacks the user {name}")
        elif differing := _comparable(settings, rules) ^ _comparable(settings, there[name]):
            found.append(f"has the user {name} with other rules ({' '.join(sorted(differing))})")
    found += [f"has the user {name}, which is not in the settings" for name in sorted(there.keys() - wanted.keys())]
    return found


def _comparable(settings: Settings, rules: Iterable[str]) -> set[str]:
    """The rules that decide what a user may do: words that a later server adds must not look like a change."""
    kinds = "~%&#(" if settings.server_version < _LITERAL_SINCE else "~%&#(+-"
    return {rule for rule in rules if rule[0] in kinds or rule in ("on", "off", "nopass")}


def password_hash(password: str) -> str:
    """A password as an ACL file holds it. Plain SHA-256 is enough for the generated ones (256 random bits)."""
    return hashlib.sha256(password.encode()).hexdigest()
