"""The commands, settings and links of the documentation work as they are written."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from redisctl.cli import main
from redoubt.facts.host import Build
from redoubt.settings.load import SettingsError, load
from redoubt.versions import judge

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def _blocks(page: Path, language: str) -> Iterator[str]:
    yield from (block[2] for block in BLOCK.finditer(page.read_text()) if block[1] == language)


def redisctl_calls(page: Path) -> Iterator[str]:
    """Yield the arguments of each call of redisctl, in shell blocks and sentences."""
    lines = [line.partition(" #")[0] for block in _blocks(page, "sh") for line in block.splitlines()]
    codes = re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text()))
    for text in [*lines, *codes]:
        yield from (call[1] for call in re.finditer(r"(?:^|[\s(])redisctl ((?:'[^']*'|[^#&|;>)'])+)", text))


def call_problem(arguments: str) -> str:
    """Say why redisctl does not accept a call; empty if it does."""
    command: click.Command = main.cli
    words = shlex.split(arguments)
    try:
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            _, found, words = command.resolve_command(click.Context(command), words)
            command = found or command
        if words or not isinstance(command, click.Group):
            command.make_context("redisctl", words)
    except click.exceptions.Exit:
        pass  # The call shows the help.
    except click.ClickException as error:
        return f"redisctl {arguments}: {error.format_message()}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_redisctl_accepts_the_documented_calls(page: Path) -> None:
    assert not [problem for call in redisctl_calls(page) if (problem := call_problem(call))]


@pytest.mark.parametrize("arguments", ["queues prune", "health --now", "reload", "backup verify a b"])
def test_wrong_calls_are_found(arguments: str) -> None:
    assert call_problem(arguments)


def _problems(settings: dict[str, Any]) -> tuple[str, ...]:
    try:
        load(settings)
    except SettingsError as error:
        return error.problems
    return ()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_settings_are_accepted(page: Path) -> None:
    for block in _blocks(page, "python"):
        try:
            statements = ast.parse(block).body
        except SyntaxError:
            continue  # A part of an inventory.
        settings = {
            target.id: ast.literal_eval(statement.value)
            for statement in statements
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name) and target.id.startswith("redis_")
        }
        assert not [problem for problem in _problems(settings) if "no such file on this machine" not in problem]


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page: its headings, as GitHub does, and named ones."""
    text = BLOCK.sub("", page.read_text())
    headings = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}
    return headings | set(re.findall(r'<a id="([^"]+)">', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", BLOCK.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_example_of_a_refused_version_is_current() -> None:
    example = " ".join((ROOT / "docs" / "versions.md").read_text().split())
    assert judge(Build("redis", "8.2.8")).problem in example
