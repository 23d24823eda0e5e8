"""What the verbs share: options, the instance, tables and JSON."""

import functools
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from redisctl.core.formatting import ago, parse_duration
from redisctl.core.instance import Instance, load_instance

# rich takes longer to import than most verbs take to run: only verbs that print its tables import it.
if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Rows of a longer list that people see.
MAX_ROWS = 20

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")

discard_unsaved_option = click.option(
    "--discard-unsaved", is_flag=True, help="Continue even if Redis cannot save its newest writes."
)


class Duration(click.ParamType[int]):
    """Seconds, from a number with a unit."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return seconds. Fails with an example if the value is not a time."""
        if isinstance(value, int):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()


@contextmanager
def exclusive(instance: Instance, verb: str) -> Iterator[None]:
    """Hold the lock for a verb that works on data, and finish an interrupted transaction first. Raises Failure."""
    from redisctl.core import journal
    from redisctl.core.lock import locked

    with locked(instance, verb):
        if journal.read(instance):
            # Only then: it imports most of the program.
            from redisctl.deploy import recovery

            click.echo(f"redisctl: {recovery.recover(instance)}", err=True)
        yield


def current_instance() -> Instance:
    """Return the instance that this command line is for. Raises Failure.

    It is click's context object if there is one, else the instance whose redisctl.json lies next to the program.
    """
    context = click.get_current_context(silent=True)
    return (context and context.find_object(Instance)) or load_instance()


def with_instance(command: Callable[..., None]) -> Callable[..., None]:
    """Give a verb its instance after click has parsed its options, so that --help needs no root."""

    @functools.wraps(command)
    def wrapper(**options: Any) -> None:
        command(current_instance(), **options)

    return wrapper


class OrderedGroup(click.Group):
    """A group that lists its verbs in the order of their definition."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def console() -> "Console":
    """Return a console for people. Lines stay whole if the output is piped or logged."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def print_json(value: Any) -> None:
    """Print JSON for programs."""
    click.echo(json.dumps(value, indent=2))


def make_table(*columns: str) -> "Table":
    """Return a table with these columns; a name that begins with > is aligned to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    return table


def print_columns(rows: Iterable[tuple[str, ...]]) -> None:
    """Print aligned columns without rich, for verbs that must be quick. On a terminal the last column wraps."""
    cells = [tuple(row) for row in rows]
    if not cells:
        return
    widths = [max(len(click.unstyle(row[column])) for row in cells) for column in range(len(cells[0]) - 1)]
    indent = sum(widths) + 2 * len(widths)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 200
    for *heads, text in cells:
        head = "".join(
            cell + " " * (size - len(click.unstyle(cell)) + 2) for cell, size in zip(heads, widths, strict=True)
        )
        lines = [part for line in text.split("\n") for part in textwrap.wrap(line, max(20, width - indent)) or [""]]
        click.echo(head + f"\n{' ' * indent}".join(lines))


def time_ago(at: int) -> str:
    """Return a time in UTC, with how long ago it was."""
    then = datetime.fromtimestamp(at, timezone.utc)
    since = datetime.now(timezone.utc) - then
    return f"{then:%Y-%m-%d %H:%M:%S} ({ago(max(0, since.total_seconds()))} ago)"


def print_omitted(count: int, what: str) -> None:
    """Print how many rows are left out."""
    if count > MAX_ROWS:
        click.echo(f"and {count - MAX_ROWS} more {what}: --json prints all")
