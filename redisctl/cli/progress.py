"""Shows the progress of long steps on standard error.

On a terminal it is one line, which is removed before anything else is printed. Elsewhere, for example in systemd's
journal, it is a line now and then. With --json it is nothing.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from redisctl import schema
from redisctl.core import progress
from redisctl.core.formatting import printable

if TYPE_CHECKING:
    from rich.status import Status

# Seconds between two lines where there is no terminal. A shorter verb prints none.
INTERVAL = 10


class Display:
    """Where the steps of a verb are shown."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._printed = time.monotonic()

    def show(self, step: str) -> None:
        """Show what happens now."""
        if sys.stderr.isatty():
            self._show_status(printable(step))
        elif time.monotonic() - self._printed >= INTERVAL:
            self._printed = time.monotonic()
            click.echo(printable(step), err=True)

    def _show_status(self, step: str) -> None:
        # rich takes longer to import than most verbs take to run.
        from rich.console import Console
        from rich.text import Text

        if self._status is None:
            self._status = Console(stderr=True).status(Text(step))
            self._status.start()
        else:
            self._status.update(Text(step))

    def hide(self) -> None:
        """Remove the line from the terminal."""
        if self._status is not None:
            self._status.stop()
            self._status = None


_display = Display()


@contextmanager
def sent_to_deploy() -> Iterator[None]:
    """Print the steps of the block for the deploy that called the verb, now and then."""
    printed = time.monotonic()

    def send(step: str) -> None:
        nonlocal printed
        if time.monotonic() - printed >= INTERVAL:
            printed = time.monotonic()
            click.echo(f"{schema.PROGRESS}{printable(step)}")

    with progress.sent_to(send):
        yield


@contextmanager
def shown(*, as_json: bool) -> Iterator[None]:
    """Show the steps of the block, unless the verb prints JSON."""
    if as_json:
        yield
        return
    try:
        with progress.sent_to(_display.show):
            yield
    finally:
        hide()


def hide() -> None:
    """Remove the line from the terminal, before something else is printed."""
    _display.hide()
