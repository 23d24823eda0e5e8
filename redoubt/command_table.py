"""The commands of every server version, and which of them ACL rules allow.

``redoubt/commands`` has one table for each engine, which a real server of its newest known version has reported: each
command and subcommand with the version that brought it and its ACL categories. ``reviewed.json`` says for each of them
what an application may have:

- ``application``: a role or a rule may allow it, by its name or by a category
- ``named``: only by its own name. It shows data or names of others, or runs scripts
- ``never``: no application may have it, with the reason

A version that is newer than the table has the commands of the newest known version, so no user gains a command
without a review. An image whose tag has no version gets the commands that every maintained version has.
``tests/command_tables.py`` writes the tables.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from redoubt.settings.types import TITLES, Engine

_DIRECTORY = Path(__file__).parent / "commands"
# For both engines.
_OLDEST_MAINTAINED = (7, 2)


class UnknownRule(ValueError):
    """A rule names a command or a category that the server does not have."""


@dataclass(frozen=True)
class CommandTable:
    """The commands of one version, with the ACL categories of each.

    A subcommand is ``client|kill``, and ``client`` is its container.
    """

    title: str
    categories: Mapping[str, frozenset[str]]

    @cached_property
    def _containers(self) -> Mapping[str, frozenset[str]]:
        """The subcommands of each container."""
        names = sorted(name for name in self.categories if "|" in name)
        return {container: frozenset(found) for container, found in groupby(names, lambda name: name.partition("|")[0])}

    def subcommands(self, name: str) -> frozenset[str]:
        """Return the subcommands of a container."""
        return self._containers.get(name, frozenset())

    def has(self, rule: str) -> bool:
        """Say whether a rule without its sign names a command or a category."""
        try:
            return bool(self.matching(rule))
        except UnknownRule:
            return False

    def matching(self, rule: str) -> set[str]:
        """Return the commands that a rule allows or denies, without its sign.

        As in Redis, a container includes its subcommands. Raises UnknownRule.
        """
        if rule == "@all":
            return set(self.categories)
        if rule.startswith("@"):
            found = {command for command, names in self.categories.items() if rule[1:] in names}
        else:
            found = {rule} & set(self.categories)
        if not found:
            raise UnknownRule(f"{rule!r} is not a {'category' if rule[0] == '@' else 'command'} of {self.title}")
        return found | {sub for command in found for sub in self.subcommands(command)}

    def expand(self, rules: Iterable[str]) -> dict[str, str]:
        """Return the commands that rules allow, each with the rule that allows it.

        The order counts: a later rule replaces earlier ones for the same command. Raises UnknownRule.
        """
        allowed: dict[str, str] = {}
        for rule in rules:
            for command in self.matching(rule[1:]):
                if rule[0] == "+":
                    allowed[command] = rule
                else:
                    allowed.pop(command, None)
        return allowed

    def rules(self, commands: Iterable[str]) -> list[str]:
        """Return ACL rules that allow exactly these commands, by name.

        A container is left out: its rule would also allow the subcommands of a newer server. Only COMMAND can be called
        without a subcommand, and all of its subcommands are harmless.
        """
        chosen = set(commands)
        whole = {"command"} & chosen
        return [
            f"+{command}"
            for command in sorted(chosen)
            if command in whole or (not self.subcommands(command) and command.partition("|")[0] not in whole)
        ]


@cache
def table(engine: Engine, version: tuple[int, ...]) -> CommandTable:
    """Return the commands of a version, such as (8, 10, 2), (8,) or ()."""
    document = _read(f"{engine}.json")
    newest = _numbers(document["version"])
    wanted = (*version, 0)[:2] if version else _OLDEST_MAINTAINED
    known = min(wanted, newest)
    commands = document["commands"]
    title = f"{TITLES[engine]} {'.'.join(map(str, known))}"
    return CommandTable(
        f"{title}, the newest version whose commands are known" if wanted > newest else title,
        {name: frozenset(categories) for name, (since, *categories) in commands.items() if _numbers(since) <= known},
    )


def newest(engine: Engine) -> tuple[int, ...]:
    """Return the newest version whose commands are known."""
    return _numbers(_read(f"{engine}.json")["version"])


@cache
def reviewed(kind: str) -> frozenset[str]:
    """Return the commands of a list of the review.

    ``kind`` is ``application``, ``named`` or ``never``.
    """
    return frozenset(_read("reviewed.json")[kind])


def objection(command: str, rule: str) -> str:
    """Return why a rule must not give a command to an application; empty if it may."""
    if reason := _read("reviewed.json")["never"].get(command):
        return f"no application may have it, because {reason}"
    if command in reviewed("named"):
        return "" if rule == f"+{command}" else f"only its own name, '+{command}', may allow it"
    return "" if command in reviewed("application") else "it has not been reviewed"


@cache
def _read(name: str) -> Any:
    return json.loads((_DIRECTORY / name).read_text())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")[:2]))
