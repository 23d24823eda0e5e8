"""Commands: every known one is reviewed, and no role gains one by an upgrade."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redoubt import acl, command_table
from redoubt.command_table import UnknownRule, table
from redoubt.settings.load import SettingsError, load
from tests import command_tables

KINDS = ("application", "named", "never")


# Commands that lack a review, in categories that rules and the role admin name.
UNREVIEWED = {"backup": ["slow"], "backup|start": ["slow"], "newadmin": ["admin"], "newget": ["read", "fast", "hash"]}


@pytest.fixture
def unreviewed(tmp_path: Path) -> Iterator[None]:
    """Give Redis 8.10 a table with new commands."""
    added = {name: ["8.10", *categories] for name, categories in UNREVIEWED.items()}
    with command_tables.replaced(tmp_path, "8.10.2", lambda commands: commands.update(added)):
        yield


def review_differences() -> tuple[set[str], set[str]]:
    """Return the commands that lack a review, and reviews of no command."""
    tables = [table(engine, (99, 0)) for engine in command_tables.VERSIONS]
    names = {name for one in tables for name in one.categories if name == "command" or not one.subcommands(name)}
    reviewed = {name for kind in KINDS for name in command_table.reviewed(kind)}
    return names - reviewed, reviewed - names


def test_every_command_is_reviewed_once() -> None:
    """Add a new command to one list of redoubt/commands/reviewed.json."""
    assert review_differences() == (set(), set())
    lists = [command_table.reviewed(kind) for kind in KINDS]
    assert sum(map(len, lists)) == len(frozenset.union(*lists))


@pytest.mark.usefixtures("unreviewed")
def test_unreviewed_command_fails_the_review() -> None:
    assert review_differences() == (UNREVIEWED.keys() - {"backup"}, set())


@pytest.mark.usefixtures("unreviewed")
@pytest.mark.parametrize("role", acl.ROLES)
def test_no_role_gains_an_unreviewed_command(role: str) -> None:
    """Not even by a category such as admin's +@all."""
    assert set(table("redis", (8, 10)).categories) - set(table("redis", (8, 6)).categories) == set(UNREVIEWED)
    before, after = (acl.User("x", role, keys=()).commands(table("redis", version)) for version in ((8, 6), (8, 10)))
    assert after == before


def test_rights_of_roles_are_the_reviewed_ones() -> None:
    """If this difference is right: python -m tests.command_tables roles."""
    assert command_tables.role_commands() == json.loads(command_tables.ROLE_COMMANDS.read_text())


@pytest.mark.parametrize("role", sorted(set(acl.ROLES) - {"admin", "admin without transactions", "health"}))
def test_no_role_of_applications_has_a_forbidden_command(role: str) -> None:
    for engine, versions in command_tables.VERSIONS.items():
        for version in versions:
            commands = acl.User("x", role, keys=()).commands(table(engine, version))
            assert commands & command_table.reviewed("never") == set()


@pytest.mark.parametrize("command", ["hotkeys|start", "evalsha", "eval", "fcall", "keys", "monitor"])
def test_admin_does_not_have_commands(command: str) -> None:
    """On every version, also of commands that only newer versions have."""
    assert command in table("redis", (99, 0)).categories
    for engine, versions in command_tables.VERSIONS.items():
        for version in (*versions, (99, 0)):
            assert command not in acl.User("x", "admin", keys=()).commands(table(engine, version))


def test_listed_versions_end_with_the_table() -> None:
    """A version that is not listed has the rights of the newest one."""
    assert {engine: versions[-1] for engine, versions in command_tables.VERSIONS.items()} == {
        engine: command_table.newest(engine) for engine in command_tables.VERSIONS
    }


def test_newer_version_has_the_commands_of_the_newest_known_one() -> None:
    known = table("redis", (8, 6))
    assert table("redis", (8, 10, 2)).categories == known.categories
    assert table("redis", (8, 10, 2)).title == "Redis 8.6, the newest version whose commands are known"
    assert table("redis", ()).categories == table("redis", (7, 2)).categories
    assert "client|setinfo" not in table("redis", (7, 0, 15)).categories


@pytest.mark.parametrize(
    ("rules", "allowed", "denied"),
    [
        ("+@slow", {"acl|setuser", "config|set", "lpos"}, {"get"}),
        ("+@all -@dangerous", {"get", "acl|whoami"}, {"keys", "acl|setuser"}),
        ("-@dangerous +@all", {"keys"}, set()),
        ("+client -client|kill", {"client|id", "client|list"}, {"client|kill"}),
        ("+client|kill -client", set(), {"client|kill", "client|id"}),
        ("+@hash -hset", {"hget", "hsetnx"}, {"hset", "get"}),
    ],
)
def test_rules_expand_as_in_redis(rules: str, allowed: set[str], denied: set[str]) -> None:
    """tests/lifecycle/test_upgrade_paths.py compares with real servers."""
    commands = table("redis", (8, 0)).expand(rules.split())
    assert allowed <= set(commands)
    assert denied & set(commands) == set()


@pytest.mark.parametrize("rule", ["+nosuch", "-nosuch", "+@nosuch", "+get|x", "+client|setinfo"])
def test_unknown_rule_is_an_error(rule: str) -> None:
    with pytest.raises(UnknownRule, match=r"is not a (command|category) of Redis 7\.0"):
        table("redis", (7, 0)).expand([rule])


def test_unknown_rule_is_refused_before_it_is_used() -> None:
    """A deploy checks the host with the refused settings as well."""
    with pytest.raises(SettingsError) as caught:
        load({"redis_users": {"shop": {"role": "custom", "keys": ["shop:*"], "rules": "+nosuch +get"}}})
    assert acl.differences(caught.value.valid_part, []) != []


def refusal(user: dict[str, Any], **data: Any) -> str:
    """Return why a user is refused; empty if it is accepted."""
    try:
        load({"redis_users": {"shop": user}, **data})
    except SettingsError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("+@slow", "rules: '+@slow' allows ACL DELUSER and"),
        ("+@connection", "'+@connection' allows CLIENT KILL and 6 more: no application may have it, because it"),
        ("+@read", "'+@read' allows KEYS and 3 more: no application may have it"),
        ("+@read", "take it back with '-keys -dbsize -randomkey -scan' after it"),
        ("+@read -keys", "'+@read' allows DBSIZE and 2 more: only its own name, '+dbsize', may allow it"),
        ("+@read -keys -scan -randomkey -dbsize", ""),
        ("+acl|setuser", "'+acl|setuser' allows ACL SETUSER: no application may have it"),
        ("+acl -acl", ""),
        ("+client", "'+client' allows CLIENT KILL and"),
        ("+hotkeys|start", "'hotkeys|start' is not a command of Redis 8.0"),
        ("+scan +slowlog|get +eval", ""),
        ("+slowlog", "take it back with '-slowlog|get -slowlog|reset' after it"),
        ("+nosuch", "'nosuch' is not a command of Redis 8.0: correct it or remove it"),
        ("+json.get", "'+json.get' is a command of a module, but redis_extra_config has no loadmodule"),
    ],
)
def test_rules_are_judged_by_the_commands_that_they_allow(rules: str, words: str) -> None:
    found = refusal({"role": "custom", "keys": ["shop:*"], "rules": rules}, redis_image="redis:8.0.2")
    if words:
        assert words in found
    else:
        assert found == ""


@pytest.mark.usefixtures("unreviewed")
@pytest.mark.parametrize("rules", ["+backup|start", "+backup", "+newadmin", "+newget", "+@admin"])
def test_rule_with_an_unreviewed_command_is_refused(rules: str) -> None:
    found = refusal({"role": "custom", "keys": ["shop:*"], "rules": rules}, redis_image="redis:8.10.2")
    assert f"{rules!r} allows " in found
    assert rules == "+@admin" or "it has not been reviewed" in found


def test_command_of_a_newer_version_is_judged_by_the_table() -> None:
    user = {"role": "custom", "keys": ["shop:*"], "rules": "+hotkeys|start"}
    assert "because it shows the commands of all clients; remove it" in refusal(user, redis_image="redis:8.6.7")
    assert "is not a command of Redis 8.6, the newest" in refusal({**user, "rules": "+backup"})


def test_command_of_a_loaded_module_is_kept() -> None:
    user = {"role": "custom", "keys": ["shop:*"], "rules": "+json.get"}
    data: dict[str, Any] = {"redis_users": {"shop": user}, "redis_extra_config": {"loadmodule": "/x/rejson.so"}}
    file = acl.acl_file(load(data), dict.fromkeys((*acl_names(data), "default"), ("x",)))
    assert " +json.get" in next(line for line in file.splitlines() if " shop " in line)


def acl_names(data: dict[str, Any]) -> list[str]:
    return [user.name for user in acl.users(load(data))]


@pytest.mark.parametrize(
    ("pattern", "owner"),
    [
        ("*", "sessions"),
        ("*:session:*", "sessions"),
        ("[a-z]*", "sessions"),
        ("??:queue:*", "queues"),
        ("r*", "queues"),
        ("redoubt:health:x", "health"),
        ("blog:*", "blog"),
        ("shop:*", ""),
        ("rq:queue:low", ""),
        ("blog:session:*", ""),
    ],
)
def test_pattern_is_judged_by_the_keys_that_it_matches(pattern: str, owner: str) -> None:
    """A pattern may lie inside the namespace of another user, on purpose."""
    blog = {"role": "session", "keys": ["blog:session:*"]}
    users = {"shop": {"role": "cache", "keys": [pattern]}, "blog": blog}
    found = refusal({}, redis_users=users)
    assert (f"shop: keys: {pattern!r} matches keys of the user {owner} (" in found) == bool(owner)
    assert bool(found) == bool(owner)
    # A reader may read the keys of others.
    users["shop"]["role"] = "read-only"
    assert ("matches keys" in refusal({}, redis_users=users)) is False


def test_channels_of_workers_are_reserved() -> None:
    user = {"role": "custom", "keys": ["shop:*"], "rules": "+publish", "channels": ["*"]}
    assert "channels: '*' matches channels of the user queues" in refusal(user)
    assert refusal({**user, "channels": ["shop:*", "__keyevent@*__:expired"]}) == ""


@pytest.mark.parametrize("pattern", ["celery*", "celery:*", "__keyevent@0__:expired", "shop:*"])
def test_pattern_is_judged_by_the_channels_that_it_matches(pattern: str) -> None:
    """A pattern may lie inside that of another user.

    Everyone may listen to the events of Redis itself.
    """
    custom = {"role": "custom", "rules": "+publish"}
    users = {
        "jobs": {**custom, "keys": ["jobs:*"], "channels": ["celery:*", "__keyevent@*__:*"]},
        "shop": {**custom, "keys": ["shop:*"], "channels": [pattern]},
    }
    problem = "shop: channels: 'celery*' matches channels of the user jobs (celery:*): use a prefix of its own"
    assert (problem in refusal({}, redis_users=users)) == (pattern == "celery*")
    assert bool(refusal({}, redis_users=users)) == (pattern == "celery*")
