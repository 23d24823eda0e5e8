"""The ACL users of an instance and their rules.

The real clients (RQ, Flask-Session, redis-py, redis-cli) work with these rules without an entry in ACL LOG; tests/host
checks that. The ACL file names every command: a category would mean other commands on another version. A server refuses
the whole file if it does not know a command in it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from redoubt import command_table, key_patterns
from redoubt.command_table import CommandTable, UnknownRule
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
    "+info +role +config +acl +client -client|import-source "
    "+slowlog +latency +memory +lastsave +save +bgsave +bgrewriteaof +shutdown "
    # Stops an endless script of an application, and frees the memory of scripts. These run no code.
    "+script|kill +script|flush +script|exists +function|kill +function|list +function|stats +function|delete "
    "+function|flush"
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
    # Without running scripts, modules, DEBUG, MONITOR, replication, MIGRATE, RESTORE, KEYS and flushing data.
    "admin": _ADMIN,
    # With the default user on, a transaction of the admin would be lost at a restart, see _DEFAULT_OFF.
    "admin without transactions": f"{_ADMIN} -multi",
}

# Commands that a message names one by one.
_FEW = 6

# Users of every instance that are not for applications.
OPERATING = ("health", "admin")

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

    def commands(self, table: CommandTable) -> set[str]:
        """Return the commands that the user may call.

        Ignores rules that the server does not know: ``problems`` reports them, and a deploy refuses them.
        """
        extra = [rule for rule in self._extra if table.has(rule[1:])]
        return set(table.expand([*_role_rules(self.role, table), *extra]))

    @property
    def _extra(self) -> list[str]:
        return [rule for rule in self.extra.split() if not _is_module_command(rule)]

    def rules(self, table: CommandTable) -> str:
        """Return the user's rules for a server with these commands, without its password."""
        keys = [*(f"~{pattern}" for pattern in self.keys), *(f"%R~{pattern}" for pattern in self.read)]
        channels = [f"&{pattern}" for pattern in self.channels]
        modules = sorted(rule for rule in self.extra.split() if _is_module_command(rule) and rule[0] == "+")
        return " ".join([*keys, "resetchannels", *channels, "-@all", *table.rules(self.commands(table)), *modules])


def table_of(settings: Settings) -> CommandTable:
    """Return the commands of the version in the settings."""
    return command_table.table(settings.redis_engine, settings.image_numbers)


def _role_rules(role: str, table: CommandTable) -> list[str]:
    """Return a role's rules for these commands.

    A category means reviewed commands: all others need their name in the role.
    """
    reviewed = command_table.reviewed("application") | command_table.reviewed("named")
    rules: list[str] = []
    for rule in ROLES[role].split():
        if rule.startswith("+@"):
            rules += [f"+{command}" for command in sorted(table.matching(rule[1:]) & reviewed)]
        elif rule[1] == "@" or rule[1:] in table.categories:
            rules.append(rule)
    return rules


def _is_module_command(rule: str) -> bool:
    """Say whether a rule names a command of a module, such as +json.get."""
    return "." in rule


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
    table = table_of(settings)
    lines = [
        " ".join(
            (
                f"user {user.name} on",
                *(f"#{password_hash(password)}" for password in passwords[user.name]),
                user.rules(table),
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
    table = table_of(settings)
    desired = {user.name: {"on", "#", *user.rules(table).split()} for user in users(settings)}
    desired.setdefault("default", {"off", "~*", "&*", "+@all"})
    present = {name: rules for _, name, *rules in (line.split(" ") for line in running)}
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
    return {rule for rule in rules if rule and (rule[0] in kinds or rule in ("on", "off", "nopass"))}


def password_hash(password: str) -> str:
    """Return the SHA-256 of a password for an ACL file.

    It is enough for generated passwords of 256 random bits.
    """
    return hashlib.sha256(password.encode()).hexdigest()


# -- Users of the settings


def problems(settings: Settings) -> list[str]:
    """Return what is wrong with the rules and patterns of redis_users."""
    table = table_of(settings)
    found = []
    for user in users(settings):
        if user.name in settings.redis_users:
            found += [f"{user.name}: {problem}" for problem in _command_problems(settings, user, table)]
    return found + _pattern_problems(settings)


def _command_problems(settings: Settings, user: User, table: CommandTable) -> list[str]:
    """Return which rules are unknown, or allow what no application may have."""
    modules = [rule for rule in user.extra.split() if _is_module_command(rule)]
    if modules and "loadmodule" not in settings.redis_extra_config:
        return [f"rules: {modules[0]!r} is a command of a module, but redis_extra_config has no loadmodule"]
    extra = [rule for rule in user.extra.split() if rule not in modules]
    try:
        allowed = table.expand([*_role_rules(user.role, table), *extra])
    except UnknownRule as error:
        return [f"rules: {error}: correct it or remove it"]
    refused: dict[str, list[str]] = {}
    for command, rule in sorted(allowed.items(), key=lambda item: ("dangerous" not in table.categories[item[0]], item)):
        if rule in extra and not table.subcommands(command) and command_table.objection(command, rule):
            refused.setdefault(rule, []).append(command)
    return [_refusal(rule, commands) for rule, commands in refused.items()]


def _refusal(rule: str, commands: list[str]) -> str:
    """Return why a rule is refused because of these commands, and what to do."""
    more = f" and {len(commands) - 1} more" if len(commands) > 1 else ""
    if rule == f"+{commands[0]}":
        remedy = "remove it"
    elif len(commands) > _FEW:
        remedy = "name the commands that the application needs instead"
    else:
        remedy = f"take it back with '{' '.join(f'-{command}' for command in commands)}' after it"
    reason = command_table.objection(commands[0], rule)
    return f"rules: {rule!r} allows {commands[0].replace('|', ' ').upper()}{more}: {reason}; {remedy}"


def _pattern_problems(settings: Settings) -> list[str]:
    """Return which patterns match keys or channels of others.

    A pattern may share the namespace of another user on purpose: then all of its keys are in there. Readers may read
    the keys of others.
    """
    everyone = users(settings)
    owners = [user for user in everyone if user.name not in ("admin", "default")]
    found = []
    for user in everyone:
        if user.name not in settings.redis_users:
            continue
        for kind, patterns in (("keys", user.keys), ("channels", user.channels)):
            owned = {owner.name: _owned(owner, kind) for owner in owners if owner is not user}
            for pattern in patterns:
                others = [name for name, theirs in owned.items() if _intrudes(pattern, theirs, name)]
                if others:
                    found.append(
                        f"{user.name}: {kind}: {pattern!r} matches {kind} of the user {others[0]} "
                        f"({', '.join(owned[others[0]])}): use a prefix of its own, such as '{user.name}:*'"
                    )
    return found


def _owned(user: User, kind: str) -> tuple[str, ...]:
    """Return the patterns of keys or channels that are a user's own.

    On the channels of keyspace events Redis itself publishes, for everyone whose channels name them.
    """
    if kind == "keys":
        return user.keys
    return tuple(channel for channel in user.channels if not channel.startswith("__key"))


def _intrudes(pattern: str, owned: Iterable[str], owner: str) -> bool:
    """Say whether a pattern matches keys of an owner, and others as well."""
    return any(
        key_patterns.overlaps(pattern, keys) and (owner == "health" or not key_patterns.contains(keys, pattern))
        for keys in owned
    )
