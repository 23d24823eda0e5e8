"""What the verbs share: options, the instance, and all output.

Most of what the verbs print comes from Redis, its files or its clients. So everything for people goes through ``echo``,
``print_columns`` and ``print_table``, which replace characters that could control the terminal.
"""

import functools
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from redisctl.cli import progress
from redisctl.core.errors import Failure
from redisctl.core.formatting import ago, parse_duration, printable, printable_lines, utc
from redisctl.core.instance import Instance, load_instance, with_present_owner

# Rows of a longer list that people see.
MAX_ROWS = 20

# The key in click's context that says that the verb prints JSON, so that its errors are JSON, too.
PRINTS_JSON = "redisctl.json"
# What a verb says that only showed what it would do.
UNCHANGED = "nothing was changed: --yes does it"


def _note_json(context: click.Context, _: click.Parameter, value: bool) -> bool:
    context.meta[PRINTS_JSON] = value or context.meta.get(PRINTS_JSON, False)
    return value


as_json = click.option("--json", "as_json", is_flag=True, callback=_note_json, help="Print JSON, for programs.")

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
    """Hold the lock for a verb that works on data.

    Finishes an interrupted transaction first. Raises Failure.
    """
    from redisctl.core import journal
    from redisctl.core.lock import locked

    as_json = click.get_current_context().meta.get(PRINTS_JSON, False)
    with locked(instance, verb), progress.shown(as_json=as_json):
        if journal.read(instance):
            # Only then: it imports most of the program.
            from redisctl.deploy import recovery

            message = recovery.recover(instance)
            if with_present_owner(instance) != instance:
                raise Failure(f"{message}. Run the command again: Redis runs as another user now")
            echo(f"redisctl: {message}", err=True)
        yield


def current_instance() -> Instance:
    """Return the instance that this command line is for. Raises Failure.

    It is click's context object if there is one, else the instance whose redisctl.json lies next to the program.
    """
    context = click.get_current_context(silent=True)
    return (context and context.find_object(Instance)) or load_instance()


def with_instance(command: Callable[..., None]) -> Callable[..., None]:
    """Give a verb its instance after click has parsed its options.

    This way --help needs no root.
    """

    @functools.wraps(command)
    def wrapper(**options: Any) -> None:
        command(current_instance(), **options)

    return wrapper


class OrderedGroup(click.Group):
    """A group that lists its verbs in the order of their definition."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def echo(text: str = "", *, err: bool = False, colour: str | None = None) -> None:
    """Print text for people, to standard output or standard error.

    A colour shows on terminals only.
    """
    progress.hide()
    click.echo(click.style(printable_lines(text), fg=colour), err=err)


def print_json(value: Any) -> None:
    """Print JSON for programs."""
    click.echo(json.dumps(value, indent=2))


def print_json_line(value: Any) -> None:
    """Print JSON on one line, for programs that read lines."""
    click.echo(json.dumps(value))


# A cell of a table. A text is one line, whatever it contains; several lines are a tuple.
Cell = str | tuple[str, ...]


def _cell(cell: Cell) -> str:
    return printable(cell) if isinstance(cell, str) else "\n".join(map(printable, cell))


def print_columns(rows: Iterable[Sequence[Cell]], colours: Iterable[str | None] | None = None) -> None:
    """Print aligned columns without rich, for verbs that must be quick.

    On a terminal the last column wraps. ``colours`` are those of the first column.
    """
    progress.hide()
    cells = [tuple(map(_cell, row)) for row in rows]
    if not cells:
        return
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]) - 1)]
    indent = sum(widths) + 2 * len(widths)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 200
    for (*heads, text), colour in zip(cells, colours or [None] * len(cells), strict=True):
        first, *others = (head.ljust(size + 2) for head, size in zip(heads, widths, strict=True))
        lines = [part for line in text.split("\n") for part in textwrap.wrap(line, max(20, width - indent)) or [""]]
        click.echo("".join([click.style(first, fg=colour), *others]) + f"\n{' ' * indent}".join(lines))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print a table; nothing without rows.

    A column whose name begins with > is aligned to the right. Without a terminal, lines stay whole.
    """
    # rich takes longer to import than most verbs take to run.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    progress.hide()
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    for row in rows:
        # As text, because rich would read [words] in brackets as markup.
        table.add_row(*(Text(_cell(cell)) for cell in row))
    if table.row_count:
        Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


def time_ago(at: int) -> str:
    """Return a time in UTC, with how long ago it was."""
    return f"{utc(at)} ({ago(max(0, time.time() - at))} ago)"


def print_omitted(count: int, what: str) -> None:
    """Print how many rows are left out."""
    if count > MAX_ROWS:
        echo(f"and {count - MAX_ROWS} more {what}: --json prints all")
