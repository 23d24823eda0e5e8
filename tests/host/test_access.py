"""Access: who can log in, and what each user may do.

ACL DRYRUN checks by the server's own rules whether a user may call a command, without calling it. So the tables can
list commands that must never run. Harmless commands are also called by real clients.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from redoubt import acl
from redoubt.acl import password_hash
from redoubt.secret_store import Secrets
from redoubt.settings.model import Settings
from tests.host.host_under_test import Target, refusal

# A key of each user; {app} is the application's name in the settings.
OWN = {"sessions": "{app}:session:x", "queues": "rq:job:x", "health": "redoubt:health:x"}

ALLOWED = {
    "sessions": """
        HELLO 3
        AUTH sessions x
        PING
        SELECT 0
        CLIENT SETNAME x
        CLIENT SETINFO lib-name x
        SET {own} v EX 7200
        SETEX {own} 7200 v
        GET {own}
        GETEX {own} EX 7200
        DEL {own}
        UNLINK {own}
        EXISTS {own}
        EXPIRE {own} 7200
        PERSIST {own}
        TTL {own}
        PTTL {own}
        TYPE {own}
        MULTI
        EXEC
        WATCH {own}
        SUBSCRIBE __keyevent@0__:expired
        PSUBSCRIBE __keyevent@*__:expired
        UNSUBSCRIBE
    """,
    "queues": """
        HELLO 3
        PING
        INFO
        CLIENT SETNAME x
        CLIENT LIST
        HSET {own} f v
        HGETALL {own}
        HDEL {own} f
        RPUSH rq:queue:x v
        LPOP rq:queue:x
        LREM rq:queue:x 0 v
        BLMOVE rq:queue:x rq:intermediate:x LEFT RIGHT 1
        BLPOP rq:queue:x 1
        SADD rq:queues v
        SMEMBERS rq:queues
        ZADD rq:failed:x 1 v
        ZRANGEBYSCORE rq:scheduled:x 0 1
        XADD rq:results:x * f v
        XREVRANGE rq:results:x + -
        SET rq:lock v NX PX 1000
        EXPIRE {own} 60
        TIME
        MULTI
        EXEC
        WATCH {own}
        PUBLISH rq:pubsub:x v
        SUBSCRIBE rq:pubsub:x
        SCRIPT LOAD x
        SCRIPT EXISTS x
        EVALSHA x 1 rq:lock
    """,
    "health": """
        AUTH health x
        PING
        SET {own} v EX 60
        GET {own}
        DEL {own}
        ROLE
        INFO persistence
        QUIT
    """,
    "admin": """
        INFO
        ROLE
        ACL LIST
        ACL LOG
        ACL LOAD
        ACL SETUSER x
        CLIENT LIST
        CLIENT KILL ID 1
        CLIENT PAUSE 1
        SLOWLOG GET
        LATENCY LATEST
        LATENCY DOCTOR
        MEMORY USAGE x
        MEMORY DOCTOR
        LASTSAVE
        SAVE
        BGSAVE
        BGREWRITEAOF
        DBSIZE
        SCAN 0
        GET {app}:session:x
        DEL rq:job:x
        OBJECT FREQ x
        PUBLISH anything v
        SCRIPT KILL
        SCRIPT FLUSH
        FUNCTION KILL
        FUNCTION STATS
        FUNCTION LIST
        FUNCTION FLUSH
    """,
}

# No client needs these. Each one bypasses the other rules or reaches all data at once.
FOR_NO_USER = """
    KEYS *
    MONITOR
    MODULE LOAD /data/x.so
    MODULE LIST
    REPLICAOF 192.0.2.1 6379
    SLAVEOF 192.0.2.1 6379
    MIGRATE 192.0.2.1 6379 x 0 1000
    RESTORE {own} 0 x
    FUNCTION LOAD x
    FUNCTION RESTORE x
    FCALL x 0
    EVAL_RO x 0
    EVALSHA_RO x 0
    SWAPDB 0 1
    PSYNC x 0
    SYNC
    REPLCONF x
    CLUSTER RESET
    FAILOVER
"""

# The admin may call some of these.
FOR_USERS_ONLY_BY_NAME = """
    SCRIPT FLUSH
    SCRIPT KILL
    FUNCTION FLUSH
    FUNCTION KILL
    FUNCTION LIST
    ACL WHOAMI
    ACL LIST
    ACL SETUSER x
    ACL DELUSER sessions
    ACL LOG
    CLIENT KILL ID 1
    CLIENT PAUSE 1
    CLIENT NO-EVICT on
    CLIENT UNBLOCK 1
    SAVE
    BGSAVE
    BGREWRITEAOF
    LASTSAVE
    SLOWLOG GET
    LATENCY RESET
    MEMORY DOCTOR
    DBSIZE
    DUMP {own}
    MOVE {own} 1
    COPY {own} {own}
    RANDOMKEY
    WAIT 1 0
    OBJECT HELP
    SCAN 0
"""

DENIED = {
    "sessions": FOR_NO_USER
    + FOR_USERS_ONLY_BY_NAME
    + """
        GET rq:job:x
        SET redoubt:health:x v
        GET other
        GET {app}:sessions
        EXISTS {own} rq:job:x
        INFO
        ROLE
        CLIENT LIST
        RENAME {own} other
        MGET {own} rq:job:x
        SORT {own}
        HSET {own} f v
        PUBLISH __keyevent@0__:expired x
        PUBLISH rq:pubsub:x v
        SUBSCRIBE rq:pubsub:x
        SUBSCRIBE __keyspace@0__:x
        PSUBSCRIBE *
        PSUBSCRIBE __key*
        EVALSHA x 0
        SCRIPT LOAD x
        SCRIPT EXISTS x
    """,
    "queues": FOR_NO_USER
    + FOR_USERS_ONLY_BY_NAME
    + """
        GET {app}:session:x
        DEL {app}:session:x
        SET redoubt:health:x v
        GET other
        RENAME {own} other
        SORT rq:queue:x STORE other
        LMOVE rq:queue:x other LEFT LEFT
        ZUNIONSTORE other 1 rq:failed:x
        ROLE
        PUBLISH other v
        SUBSCRIBE __keyevent@0__:expired
        PSUBSCRIBE *
        PSUBSCRIBE rq*
        EVALSHA x 1 {app}:session:x
    """,
    "health": FOR_NO_USER
    + FOR_USERS_ONLY_BY_NAME
    + """
        GET {app}:session:x
        GET rq:job:x
        SET other v
        EXPIRE {own} 1
        MULTI
        CLIENT LIST
        PUBLISH x v
        SUBSCRIBE __keyevent@0__:expired
        EVALSHA x 0
        SCRIPT LOAD x
    """,
    "admin": FOR_NO_USER
    + """
        EVALSHA x 0
        SCRIPT LOAD x
        SORT x
    """,
}


def _commands(text: str, user: str, settings: Settings) -> list[list[str]]:
    """Return a table's commands that the settings do not disable or rename."""
    own = OWN.get(user, "x").format(app=settings.redis_app_name)
    lines = (line.format(app=settings.redis_app_name, own=own).split() for line in text.split("\n") if line.strip())
    unavailable = {*settings.redis_disabled_commands, *settings.redis_renamed_commands}
    return [line for line in lines if line[0] not in unavailable]


@pytest.fixture
def intruder(target: Target) -> Callable[[str], Redis]:
    """Return clients that will be refused, by a name whose denials do not count."""
    return lambda user: target.client(user, client_name=None)


def _dry_runs(admin: Redis, user: str, commands: list[list[str]]) -> dict[str, str]:
    """Return OK or the refusal's reason for each command, in one round trip."""
    pipeline = admin.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command("ACL", "DRYRUN", user, *command)
    answers = pipeline.execute(raise_on_error=False)
    return {" ".join(command): str(answer) for command, answer in zip(commands, answers, strict=True)}


# -- Logins


@pytest.mark.security("authentication")
def test_users_are_those_of_the_settings(target: Target) -> None:
    """No user is missing and none was added. The default user always exists."""
    assert set(target.admin.acl_users()) == {*target.users, "default"}


@pytest.mark.security("authentication")
@pytest.mark.parametrize("user", ["sessions", "queues", "health", "admin", "default"])
def test_every_user_needs_a_password(target: Target, user: str) -> None:
    """A user has a password and is on exactly if the settings have the user."""
    rules: Any = target.admin.acl_getuser(user)
    assert "nopass" not in rules["flags"]
    assert ("on" in rules["flags"]) == (user in target.users)
    assert bool(rules["passwords"]) == (user in target.users)


@pytest.mark.security("authentication")
def test_only_passwords_of_the_store_are_valid(target: Target) -> None:
    """Each user has one password, or two during a rotation."""
    users: dict[str, Any] = {name: target.admin.acl_getuser(name) for name in target.users}
    hashes = {name: set(map(password_hash, valid)) for name, valid in target.secrets.valid().items()}
    assert {name: set(rules["passwords"]) for name, rules in users.items()} == {name: hashes[name] for name in users}


@pytest.mark.security("authentication")
@pytest.mark.parametrize("command", ["PING", "GET x", "INFO", "ACL WHOAMI", "CLIENT LIST"])
def test_strangers_are_refused(target: Target, command: str) -> None:
    """Without a login no command works, not even PING."""
    assert refusal(target.client(None), *command.split()).startswith("AuthenticationError")


@pytest.mark.security("authentication")
@pytest.mark.parametrize("user", ["sessions", "queues", "health", "admin"])
def test_wrong_passwords_are_refused(target: Target, user: str) -> None:
    """The password of another user is wrong as well."""
    other_user = next(name for name in target.users if name != user)
    for password in ("", "x" * 43, target.secrets.passwords[other_user]):
        with pytest.raises(AuthenticationError):
            target.client(user, password=password).ping()


@pytest.mark.security("authentication")
def test_password_without_user_name_is_refused(target: Target) -> None:
    """Without a user name, a client is the default user; others' passwords fail."""
    passwords = {name: target.secrets.passwords[name] for name in target.users if name != "default"}
    assert [name for name, password in passwords.items() if not refusal(_default(target, password), "PING")] == []


@pytest.mark.security("authentication")
def test_default_user_logs_in_only_if_enabled(target: Target, settings: Settings) -> None:
    """It has a generated password of its own."""
    password = target.secrets.passwords.get("default", "x" * 43)
    assert (refusal(_default(target, password), "PING") == "") == settings.redis_enable_default_user


def _default(target: Target, password: str) -> Redis:
    return target.client(None, password=password)


@pytest.mark.security("authentication")
@pytest.mark.parametrize("user", ["sessions", "queues", "health", "admin"])
def test_every_user_logs_in(target: Target, user: str) -> None:
    """Clients log in with AUTH (RESP2) or HELLO (RESP3)."""
    assert [target.client(user, protocol=protocol).ping() for protocol in (2, 3)] == [True, True]


# -- Rights


@pytest.mark.security("least privilege")
@pytest.mark.parametrize("user", ALLOWED)
def test_user_may_do_what_its_clients_need(admin: Redis, settings: Settings, user: str) -> None:
    """Each command works on the user's own keys and channels."""
    answers = _dry_runs(admin, user, _commands(ALLOWED[user], user, settings))
    refused = {command: why for command, why in answers.items() if why != "OK"}
    if settings.server_version < (7, 2):
        # Older servers do not know it, and clients work without it.
        refused.pop("CLIENT SETINFO lib-name x", None)
    assert refused == {}


@pytest.mark.security("least privilege")
@pytest.mark.parametrize("user", DENIED)
def test_user_may_do_nothing_else(admin: Redis, settings: Settings, user: str) -> None:
    """Redis denies other keys and channels, scripts, functions and modules.

    It also denies replication and dumps.
    """
    answers = _dry_runs(admin, user, _commands(DENIED[user], user, settings))
    assert [command for command, why in answers.items() if why == "OK"] == []
    # A refusal for wrong arguments would prove nothing.
    assert [command for command, why in answers.items() if "permissions" not in why] == []


@pytest.mark.security("least privilege")
def test_configured_users_reach_only_their_own_keys(target: Target, settings: Settings) -> None:
    """In every role a user reaches only its own keys; listing names needs a rule."""
    patterns = {user.name: user.keys + user.read for user in acl.users(settings) if user.name not in acl.OPERATING}
    for name, user in settings.redis_users.items():
        foreign_keys = {key for other, keys in patterns.items() if other != name for key in keys} - set(patterns[name])
        commands = [[verb, key.replace("*", "x")] for key in foreign_keys for verb in ("GET", "DEL", "HGETALL", "TYPE")]
        listing = [["SCAN", "0"], ["RANDOMKEY"], ["KEYS", "*"]]
        listing = [command for command in listing if f"+{command[0].lower()}" not in user.rules.split()]
        answers = _dry_runs(target.admin, name, commands + listing)
        overlap = {command for command, why in answers.items() if why == "OK"}
        assert overlap == {command for command in overlap if _covers(patterns[name], command)}


def _covers(patterns: tuple[str, ...], command: str) -> bool:
    """Return whether a user's patterns, maybe shared on purpose, cover the key."""
    return any(fnmatchcase(command.rpartition(" ")[2], pattern) for pattern in patterns)


@pytest.mark.security("least privilege")
def test_default_user_has_the_rights_of_applications(admin: Redis, settings: Settings) -> None:
    """It has the rights of applications. If off, it has all rights and no login.

    Redis replays an AOF with the rights of the default user.
    """
    application_commands = """
        GET {app}:session:x
        SET {app}:session:x v
        HGETALL rq:job:x
        RPUSH rq:queue:x v
        SUBSCRIBE __keyevent@0__:expired
        PUBLISH rq:pubsub:x v
        EVALSHA x 1 rq:lock
    """
    answers = _dry_runs(admin, "default", _commands(application_commands, "default", settings))
    assert {why == "OK" for why in answers.values()} == {True}
    other_answers = _dry_runs(
        admin, "default", _commands(FOR_NO_USER + FOR_USERS_ONLY_BY_NAME + "GET other", "queues", settings)
    )
    refused = [command for command, why in other_answers.items() if "permissions" in why]
    assert refused == (list(other_answers) if settings.redis_enable_default_user else [])


@pytest.mark.security("least privilege")
@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("sessions", "GET rq:job:x"),
        ("sessions", "EVALSHA 0 0"),
        ("queues", "GET {app}:session:x"),
        ("health", "GET {app}:session:x"),
        ("admin", "MONITOR"),
    ],
)
def test_real_client_is_refused(intruder: Callable[[str], Redis], settings: Settings, user: str, command: str) -> None:
    """The real calls end as the dry runs say."""
    error = refusal(intruder(user), *command.format(app=settings.redis_app_name).split())
    assert error.startswith("NoPermissionError")


@pytest.mark.security("least privilege")
@pytest.mark.writes
def test_script_has_no_more_rights_than_its_user(
    intruder: Callable[[str], Redis], target: Target, settings: Settings
) -> None:
    """A script that RQ loads and runs reaches no session, even by undeclared keys."""
    queues = intruder("queues")
    for code in (
        f"return redis.call('GET', '{settings.redis_app_name}:session:x')",
        f"return redis.call('SET', '{settings.redis_app_name}:session:' .. ARGV[1], 'v')",
        "return redis.call('KEYS', '*')",
        "return redis.call('DBSIZE')",
    ):
        with pytest.raises(RedisError, match=r"(?i)acl failure|permissions|unknown redis command"):
            queues.evalsha(queues.script_load(code), 0, target.mark)


@pytest.mark.security("least privilege")
@pytest.mark.writes
def test_subscriber_hears_only_its_own_channels(intruder: Callable[[str], Redis]) -> None:
    """The sessions user hears no worker commands, the queues user no sessions."""
    for user, channel in (("sessions", "rq:pubsub:x"), ("queues", "__keyevent@0__:expired")):
        with pytest.raises(RedisError, match="permissions"):
            _subscribe(intruder(user), channel)


def _subscribe(client: Redis, channel: str) -> None:
    """Subscribe and wait for the answer."""
    with client.pubsub() as subscriber:
        subscriber.subscribe(channel)
        subscriber.get_message(timeout=1)


# -- Renamed and disabled commands


@pytest.mark.security("dangerous commands")
def test_renamed_and_disabled_commands_are_unknown(target: Target, settings: Settings) -> None:
    """Not even the admin has them.

    If the server knows one after all, the invalid argument keeps it from running.
    """
    commands = [*settings.redis_disabled_commands, *settings.redis_renamed_commands]
    errors = {command: refusal(target.admin, command, "redoubt-nonsense") for command in commands}
    assert {command for command, error in errors.items() if "unknown command" not in error} == set()


@pytest.mark.security("dangerous commands")
def test_renamed_commands_work_by_their_new_names(target: Target, settings: Settings, secrets: Secrets) -> None:
    """The admin has them. SHUTDOWN is only checked, not called."""
    names = [[secrets.renamed_command(command)] for command in settings.redis_renamed_commands]
    arguments = {"CONFIG": ["GET", "maxmemory"]}
    commands = [
        [*name, *arguments.get(command, [])]
        for name, command in zip(names, settings.redis_renamed_commands, strict=True)
    ]
    answers = _dry_runs(target.admin, "admin", commands).values()
    refused = [command for command, why in zip(settings.redis_renamed_commands, answers, strict=True) if why != "OK"]
    assert refused == []
    assert target.config()["maxmemory"] == str(settings.redis_maxmemory)


@pytest.mark.security("least privilege")
@pytest.mark.parametrize("user", ["sessions", "queues", "health"])
def test_new_names_do_not_help_other_users(target: Target, settings: Settings, secrets: Secrets, user: str) -> None:
    """A client that learns a name still needs the rights."""
    commands = [[secrets.renamed_command(command), "GET", "maxmemory"] for command in settings.redis_renamed_commands]
    allowed = [why for why in _dry_runs(target.admin, user, commands).values() if why == "OK"]
    assert len(allowed) == 0


@pytest.mark.security("dangerous commands")
def test_new_names_cannot_be_guessed(settings: Settings, secrets: Secrets) -> None:
    """Each name has at least 16 characters that were generated for this instance."""
    lengths = {command: len(secrets.renamed_command(command)) for command in settings.redis_renamed_commands}
    assert {command for command, length in lengths.items() if length < len(command) + 16} == set()
