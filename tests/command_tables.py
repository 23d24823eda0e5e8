"""The commands of a running server, and what each role may call on each version.

``python -m tests.command_tables HOST PORT`` writes the table of a server of the newest version to ``redoubt/commands``.
Then review the commands that ``tests/unit/test_command_table.py`` reports, and write the rights of each role with
``python -m tests.command_tables roles``. Review the difference before you commit it.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from redoubt import acl, command_table
from redoubt.settings.model import Settings
from redoubt.settings.types import Engine

DIRECTORY = Path(__file__).resolve().parents[1] / "redoubt" / "commands"
ROLE_COMMANDS = Path(__file__).resolve().parent / "unit" / "role_commands.json"


def read(client: Redis) -> dict[str, list[str]]:
    """Return the server's commands.

    Each has the version that brought it, and its categories.     ``client`` must speak RESP2 and decode answers.
    """
    client.response_callbacks.clear()
    since = dict(_since(client.execute_command("COMMAND", "DOCS")))
    return {
        name: [since.get(name, "0.0"), *sorted(category.removeprefix("@") for category in categories)]
        for name, categories in sorted(_commands(client.execute_command("COMMAND")))
    }


def _commands(entries: list[Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield each command and subcommand of an answer to COMMAND."""
    for entry in entries:
        yield entry[0].lower(), entry[6]
        yield from _commands(entry[9])


def _since(entries: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield each command of an answer to COMMAND DOCS with its version."""
    for name, values in zip(entries[::2], entries[1::2], strict=True):
        fields = dict(zip(values[::2], values[1::2], strict=True))
        # Redis 8.0 documents no version for the commands of its vector sets.
        yield name.lower(), ".".join(fields.get("since", "0.0").split(".")[:2])
        yield from _since(fields.get("subcommands", []))


def callable_by(client: Redis, user: str) -> dict[str, bool]:
    """Return for each command of a server whether a user may call it.

    ACL DRYRUN says so. Leaves out commands that are disabled or have another name.
    """
    client.response_callbacks.clear()
    lines = {}
    for name, arity in _arities(client.execute_command("COMMAND")):
        command = name.split("|")
        lines[name] = [*command, *["1"] * (abs(arity) - len(command))]
    pipeline = client.pipeline(transaction=False)
    for line in lines.values():
        pipeline.execute_command("ACL", "DRYRUN", user, *line)
    answers = dict(zip(lines, map(str, pipeline.execute(raise_on_error=False)), strict=True))
    return {name: "permissions to run" not in answer for name, answer in answers.items() if "not found" not in answer}


def _arities(entries: list[Any]) -> Iterator[tuple[str, int]]:
    """Yield each command that can be called, with its arity."""
    for entry in entries:
        if not entry[9] or entry[0] == "command":
            yield entry[0].lower(), entry[1]
        yield from _arities(entry[9])


def check_server(client: Redis, settings: Settings) -> set[str]:
    """Compare a server's commands, and what its users may call, with the tables.

    Users may call only what the table allows, on every version. On a version that the table covers, it must be right.
    Returns the commands that no version of the table has, except those of modules. They lack a review.
    """
    table = acl.table_of(settings)
    present = read(client)
    disabled = {name.lower() for name in settings.redis_disabled_commands}
    unknown = set(present) - set(table.categories)
    engine, version = _version(client)
    if command_table.newest(engine) >= tuple(map(int, version.split(".")[:2])):
        changed = {name for name in present.keys() - unknown if set(present[name][1:]) != table.categories[name]}
        # Redis 7.0 does not say that WAIT blocks.
        assert changed <= {"wait"}, f"other categories: {changed}"
        # Redis refuses an ACL file with a command that it does not know.
        missing = set(table.categories) - set(present) - disabled
        assert not missing, f"missing: {missing}"
    for user in acl.users(settings):
        allowed = {name for name, may in callable_by(client, user.name).items() if may}
        names = {rule[1:] for rule in table.rules(user.commands(table))} | {"auth", "hello", "quit", "reset"}
        # The only container in the rules.
        subcommands = {name for name in present if name.startswith("command|") and "command" in names}
        unavailable = disabled | {name.lower() for name in settings.redis_renamed_commands}
        expected = {name for name in names | subcommands if name.partition("|")[0] not in unavailable}
        assert allowed == expected & set(present), f"{user.name}: {allowed ^ (expected & set(present))}"
    return {name for name in unknown - set(command_table.table(engine, (99, 0)).categories) if "." not in name}


def _version(client: Redis) -> tuple[Engine, str]:
    """Return the engine and the version of a server."""
    client.response_callbacks.clear()
    lines = str(client.execute_command("INFO", "server")).splitlines()
    info = dict(line.split(":", 1) for line in lines if ":" in line)
    return ("valkey", info["valkey_version"]) if "valkey_version" in info else ("redis", info["redis_version"])


@contextmanager
def replaced(directory: Path, version: str, change: Callable[[dict[str, list[str]]], object]) -> Iterator[None]:
    """Use another table of Redis: with a changed version and changed commands.

    ``directory`` gets the tables.
    """
    shutil.copytree(DIRECTORY, directory, dirs_exist_ok=True)
    document = json.loads((DIRECTORY / "redis.json").read_text())
    document["version"] = version
    change(document["commands"])
    (directory / "redis.json").write_text(json.dumps(document))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_table, "_DIRECTORY", directory)
        _forget_tables()
        try:
            yield
        finally:
            patch.undo()
            _forget_tables()


def _forget_tables() -> None:
    for function in (command_table.table, command_table.reviewed, command_table._read):
        function.cache_clear()


# The versions that can be deployed and whose commands are known. Newer ones have the rights of the newest of these.
VERSIONS: dict[Engine, list[tuple[int, int]]] = {
    "redis": [(7, 0), (7, 2), (7, 4), (8, 0), (8, 2), (8, 4), (8, 6)],
    "valkey": [(7, 2), (8, 0), (8, 1), (9, 0), (9, 1)],
}


def role_commands() -> dict[str, Any]:
    """Return what each role may call, by version.

    A version has what it adds to the one before.
    """
    listing: dict[str, Any] = {}
    for engine, versions in VERSIONS.items():
        for role in acl.ROLES:
            before: set[str] = set()
            for version in versions:
                commands = acl.User("x", role, keys=()).commands(command_table.table(engine, version))
                assert before <= commands, f"{role} loses commands"
                if added := sorted(commands - before):
                    listing.setdefault(engine, {}).setdefault(role, {})["{}.{}".format(*version)] = " ".join(added)
                before = commands
    return listing


def main() -> None:
    """Write the table of the server at HOST PORT, or the rights of the roles."""
    if sys.argv[1] == "roles":
        ROLE_COMMANDS.write_text(json.dumps(role_commands(), indent=2) + "\n")
        return
    client = Redis(host=sys.argv[1], port=int(sys.argv[2]), protocol=2, decode_responses=True)
    engine, version = _version(client)
    lines = [f"    {json.dumps(name)}: {json.dumps(values)}" for name, values in read(client).items()]
    text = f'{{\n  "version": "{version}",\n  "commands": {{\n' + ",\n".join(lines) + "\n  }\n}\n"
    (DIRECTORY / f"{engine}.json").write_text(text)


if __name__ == "__main__":
    main()
