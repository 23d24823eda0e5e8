"""What the verbs share: the options, the instance, tables and JSON."""

import functools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from redisctl.core import journal
from redisctl.core.formatting import ago
from redisctl.core.instance import Instance, load_instance
from redisctl.core.lock import locked

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


discard_unsaved_option = click.option(
    "--discard-unsaved", is_flag=True, help="Go on although Redis cannot save its newest writes."
)


@contextmanager
def exclusive(instance: Instance, verb: str) -> Iterator[None]:
    """Hold the lock for a verb that works on data, and finish an interrupted transaction first. Raises Failure."""
    with locked(instance, verb):
        if journal.read(instance):
            # Only then: it imports most of the program.
            from redisctl.deploy import recovery

            click.echo(f"redisctl: {recovery.recover(instance)}", err=True)
        yield


def with_instance(command: Callable[..., None]) -> Callable[..., None]:
    """Give a verb its instance, once its own options are understood: help needs no root."""

    @functools.wraps(command)
    def called(**options: Any) -> None:
        command(load_instance(), **options)

    return called


class OrderedGroup(click.Group):
    """Verbs in the order in which they are written here: what is looked at first comes first."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def console() -> Console:
    """Where people read."""
    # Piped or logged, lines stay whole.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def print_json(value: Any) -> None:
    """What programs read."""
    click.echo(json.dumps(value, indent=2))


# Rows that people read of a longer list.
MAX_ROWS = 20


def make_table(*columns: str) -> Table:
    """A table with these columns; a name that begins with > is aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    return table


def time_ago(at: int) -> str:
    """A time in UTC, with how long ago that was."""
    then = datetime.fromtimestamp(at, timezone.utc)
    since = datetime.now(timezone.utc) - then
    return f"{then:%Y-%m-%d %H:%M:%S} ({ago(max(0, since.total_seconds()))} ago)"


def print_omitted(count: int, what: str) -> None:
    """Say how many rows are left out."""
    if count > MAX_ROWS:
        console().print(f"and {count - MAX_ROWS} {what} more: --json has all")
