"""ACL: own keys and channels for each user, in a file all servers accept."""

import hashlib
from typing import Any

import pytest

from redoubt import acl
from redoubt.settings.load import load

NAMES = ("sessions", "queues", "health", "admin", "default", "shop", "reports", "exporter", "ours")
PASSWORDS = {name: f"password-of-{name}-is-long" for name in NAMES}
NAMED: dict[str, dict[str, Any]] = {
    "shop": {"role": "session", "keys": ["shop:session:*"]},
    "reports": {"role": "read-only", "keys": ["shop:*", "rq:*"], "rules": "+scan"},
    "exporter": {"role": "metrics", "rules": "+slowlog|get -client|list"},
    "ours": {"role": "custom", "keys": ["ours:*"], "channels": ["ours:*"], "rules": "+get +set +publish"},
}


def lines(**data: Any) -> dict[str, str]:
    text = acl.acl_file(load(data), {name: [password] for name, password in PASSWORDS.items()})
    return {line.split()[1]: line for line in text.splitlines()}


def test_passwords_are_hashed() -> None:
    for name, line in lines(redis_enable_default_user=True).items():
        assert f"#{hashlib.sha256(PASSWORDS[name].encode()).hexdigest()} " in line
        assert PASSWORDS[name] not in line


def test_default_user_is_off_by_default() -> None:
    assert lines()["default"].startswith("user default off ")
    assert lines(redis_enable_default_user=True)["default"].startswith("user default on #")


@pytest.mark.parametrize(
    ("user", "keys", "channels"),
    [
        ("sessions", ["~shop:session:*"], ["&__keyevent@*__:expired"]),
        ("queues", ["~rq:*"], ["&rq:*"]),
        ("health", ["~redoubt:health:*"], []),
        ("admin", ["~shop:session:*", "~rq:*", "%R~*"], ["&*"]),
        ("default", ["~shop:session:*", "~rq:*"], ["&__keyevent@*__:expired", "&rq:*"]),
    ],
)
def test_each_user_has_its_own_keys_and_channels(user: str, keys: list[str], channels: list[str]) -> None:
    rules = lines(redis_app_name="shop", redis_enable_default_user=True)[user].split()
    assert [rule for rule in rules if "~" in rule] == keys
    assert [rule for rule in rules if rule.startswith("&")] == channels


def test_admin_has_all_keys_unless_default_user_is_on() -> None:
    assert "~*" in lines()["admin"].split()


def test_disabled_default_user_keeps_all_rights() -> None:
    """A default user that is off keeps all rights.

    Redis replays the AOF with the rights of this user. Without them a restart would lose transactions.
    """
    assert lines()["default"] == "user default off resetpass ~* &* +@all"


def test_rules_name_every_command() -> None:
    """A category could mean more on another version."""
    file = lines(redis_enable_default_user=True, redis_users=NAMED)
    assert [name for name, line in file.items() if "+@" in line] == []
    assert [name for name, line in file.items() if "-@all" not in line] == []


def test_old_server_gets_no_unknown_subcommand() -> None:
    """Redis 7.0 rejects the whole file for +client|setinfo."""
    assert "+client|setinfo" not in "".join(lines(redis_image="redis:7.0.15").values())
    assert "+client|setinfo" in "".join(lines(redis_image="redis:7.2.0").values())


def test_file_has_no_comments() -> None:
    """Redis accepts comments in ACL files only since 8.8."""
    assert "# " not in "".join(lines().values())


def test_user_can_have_two_passwords() -> None:
    text = acl.acl_file(load({}), {name: [password, f"new-{password}"] for name, password in PASSWORDS.items()})
    assert [line.count("#") for line in text.splitlines()] == [2, 2, 2, 2, 0]


def test_configured_users_have_only_their_keys_and_channels() -> None:
    rules = {name: line.split() for name, line in lines(redis_users=NAMED).items()}
    for name, user in NAMED.items():
        keys = {rule for rule in rules[name] if "~" in rule}
        assert keys == {("%R~" if user["role"] == "read-only" else "~") + key for key in user.get("keys", [])}
        channels = {rule for rule in rules[name] if rule[0] == "&"}
        assert channels == {f"&{channel}" for channel in user.get("channels", [])}


def test_later_rule_replaces_earlier_rule() -> None:
    exporter = lines(redis_users=NAMED)["exporter"].split()
    assert {"+slowlog|get", "+slowlog|len"} <= set(exporter)
    assert "+client|list" not in exporter
    assert "+scan" in lines(redis_users=NAMED)["reports"].split()


def test_queue_role_cannot_list_keys() -> None:
    """The key of a session contains its cookie."""
    assert not {"+scan", "+keys", "+randomkey", "+@keyspace"} & set(lines()["queues"].split())


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        (["127.0.0.1"], "redis://sessions:PASSWORD@127.0.0.1:6380/0"),
        (["10.0.0.5", "127.0.0.1"], "redis://sessions:PASSWORD@10.0.0.5:6380/0"),
        (["0.0.0.0"], "redis://sessions:PASSWORD@127.0.0.1:6380/0"),
        (["::1"], "redis://sessions:PASSWORD@[::1]:6380/0"),
        ([], "redis://sessions:PASSWORD@redis:6379/0"),
    ],
)
def test_url_works_on_the_host(bind: list[str], url: str) -> None:
    settings = load({"redis_bind": bind, "redis_port": 6380, "redis_allow_from": ["10.0.0.0/8"]})
    assert acl.url(settings, acl.users(settings)[0]) == url


def acl_list(**data: Any) -> list[str]:
    """Return ACL LIST of Redis 8.0 after it has read the file.

    The list has no hashes, as redisctl state reports it.
    """
    rules = [line.replace(f"#{acl.password_hash(PASSWORDS[name])}", "#") for name, line in lines(**data).items()]
    return [line.replace(" on ", " on sanitize-payload ").replace(" resetkeys", "") for line in rules]


@pytest.mark.parametrize(
    "data", [{}, {"redis_enable_default_user": True}, {"redis_image": "redis:7.0.15"}, {"redis_users": NAMED}]
)
def test_unchanged_users_do_not_differ(data: dict[str, Any]) -> None:
    assert acl.differences(load(data), acl_list(**data)) == []


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("user sessions on", "user sessions off", "the user sessions with other rules (off on)"),
        ("user queues on sanitize-payload #", "user queues on nopass", "the user queues with other rules (# nopass)"),
        ("~rq:*", "~*", "the user queues with other rules (~* ~rq:*)"),
        ("&rq:*", "&*", "the user queues with other rules (&* &rq:*)"),
        ("+shutdown", "+shutdown +flushall", "the user admin with other rules (+flushall)"),
        ("default off", "default on nopass", "the user default with other rules (nopass off on)"),
        ("user health ", "user eve ", "lacks the user health"),
        ("user health ", "user eve ", "has the user eve, which is not in the settings"),
    ],
)
def test_manually_changed_user_differs(before: str, after: str, message: str) -> None:
    running = [line.replace(before, after) for line in acl_list()]
    assert message in "\n".join(acl.differences(load({}), running))


def test_name_that_looks_like_another_one_differs() -> None:
    """Only a space ends a name."""
    (difference,) = acl.differences(load({}), [*acl_list(), "user default\u2003off on  +@all"])
    assert difference == "has the user default\u2003off, which is not in the settings"


def test_redis_7_0_command_rules_are_not_compared() -> None:
    data = {"redis_image": "redis:7.0.15"}
    running = [line.replace(" +get ", " +@string ") for line in acl_list(**data)]
    assert acl.differences(load(data), running) == []
    assert acl.differences(load(data), [line.replace("~rq:*", "~*") for line in running])


def test_unknown_word_of_newer_server_is_no_difference() -> None:
    assert acl.differences(load({}), [f"{line} alldbs" for line in acl_list()]) == []
