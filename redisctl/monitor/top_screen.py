"""Frames on a terminal: 80 columns and 24 lines are enough, and lines never wrap."""

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from redis.exceptions import RedisError
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from redisctl.core.errors import Failure
from redisctl.core.formatting import ago, printable, size, took, utc
from redisctl.core.instance import error_text
from redisctl.monitor.top import Frame, Reader, frame_of

# Cells of the memory bar, and queues that are shown.
BAR, QUEUES = 30, 4
# Shares of maxmemory from which the bar is yellow and red, as for `redisctl health`.
FULL = ((0.9, "red"), (0.75, "yellow"), (0.0, "green"))
# Seconds until the first frame, at most.
FIRST_FRAME = 1.0


def lines(name: str, frame: Frame) -> Iterator[Text]:
    """Yield the lines of a frame, the most important ones first.

    A small terminal shows only those.
    """
    yield Text.assemble((name, "bold"), f"  {frame.server}  up {ago(frame.uptime)}  {utc(frame.at)} UTC")
    yield Text()
    ratio = "" if frame.hits is None else "no reads"
    if frame.hit_ratio is not None:
        ratio = f"{frame.hit_ratio:.1%} found"
    yield _line("commands", f"{_rate(frame.operations)}")
    yield _line("reads", f"{_rate(frame.hits)} hits   {_rate(frame.misses)} misses   {ratio}")
    yield _line("keys gone", f"{_rate(frame.evicted)} evicted   {_rate(frame.expired)} expired", bool(frame.evicted))
    yield _line("network", f"{_flow(frame.network_in)} in   {_flow(frame.network_out)} out")
    yield Text()
    if frame.maxmemory:
        share = frame.memory_used / frame.maxmemory
        full = min(BAR, round(share * BAR))
        colour = next(colour for limit, colour in FULL if share >= limit)
        yield Text.assemble(
            _line("memory", ""),
            ("█" * full, colour),
            ("░" * (BAR - full), "dim"),
            f" {share:.0%}  {size(frame.memory_used)} of {size(frame.maxmemory)}",
        )
    else:
        yield _line("memory", f"{size(frame.memory_used)}, no maxmemory", True)
    yield _line("", f"peak {size(frame.memory_peak)}   fragmentation {frame.fragmentation:.2f}")
    rejected = f"{frame.rejected} rejected" + (
        f" (+{frame.rejected_in_interval})" if frame.rejected_in_interval else ""
    )
    clients = f"{frame.clients} of {frame.maxclients}   {frame.clients_blocked} waiting   {rejected}"
    yield _line("clients", clients, bool(frame.rejected_in_interval))
    yield _line("PING", took(frame.round_trip))
    keys = "   ".join(f"{db}: {n['keys']:,} ({n['expires']:,} with a TTL)" for db, n in frame.keys.items())
    yield _line("keys", keys or "none")
    yield _line("queues", _queues(frame))
    saved = f"{ago(frame.save_age)} ago, {frame.changes_since_save:,} changes since"
    state = ", the last save failed" if frame.save_failed else ", saving now" if frame.saving else ""
    yield _line("saved", saved + state, frame.save_failed)
    yield Text()
    for number, slow in enumerate(frame.slow):
        yield _line("" if number else "slow", f"{took(slow.seconds):>8}  {slow.command}, {ago(slow.ago)} ago")
    if not frame.slow:
        yield _line("slow", "no entries in the slow log")


def _line(name: str, value: str, alarming: bool = False) -> Text:
    return Text.assemble((f"{name:<11}", "cyan"), (value, "red" if alarming else ""))


def _rate(value: float | None) -> str:
    # A low rate has a decimal place: one in ten seconds must not show as 0.
    return "-" if value is None else f"{value:,.{0 if value >= 10 or value == 0 else 1}f}/s"


def _flow(value: float | None) -> str:
    return "-" if value is None else f"{size(value)}/s"


def _queues(frame: Frame) -> str:
    deepest = sorted(frame.queues.items(), key=lambda queue: -queue[1])[:QUEUES]
    omitted = frame.queue_count - len(deepest)
    parts = [*(f"{name}: {depth:,}" for name, depth in deepest), *([f"{omitted} more"] if omitted else [])]
    return "   ".join(parts) or "none"


def plain(name: str, frame: Frame) -> str:
    """Return a frame for a log or a pipe."""
    return "\n".join(line.plain.rstrip() for line in lines(name, frame))


def frames(reader: Reader, interval: float, count: int) -> Iterator[Frame]:
    """Yield frames, one per ``interval`` seconds. Raises RedisError and Failure."""
    before, pause = reader.read(), min(interval, FIRST_FRAME)
    for _ in range(count):
        time.sleep(pause)
        now = reader.read()
        yield frame_of(before, now)
        before, pause = now, interval


def is_terminal() -> bool:
    """Say whether the program runs in a terminal, with a screen and a keyboard."""
    console = Console()
    return console.is_terminal and not console.is_dumb_terminal and sys.stdout.isatty() and sys.stdin.isatty()


def show(name: str, reader: Reader, interval: float, count: int | None) -> None:
    """Show frames on the whole terminal until q, Ctrl-C or ``count`` frames.

    Waits if Redis stops answering. Raises RedisError and Failure if Redis does not answer at the start.
    """
    before, shown, pause = reader.read(), 0, min(interval, FIRST_FRAME)
    live = Live(_whole([Text(name, "bold")]), console=Console(highlight=False), screen=True, auto_refresh=False)
    with suppress(KeyboardInterrupt), _keys() as pressed:
        # Ctrl-C waits until the screen has been set up: it could not be restored in between.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        live.start()
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            while shown != count and not pressed(pause):
                try:
                    now = reader.read()
                except (RedisError, Failure) as error:
                    message = printable(f"Redis does not answer: {error_text(error)}")
                    view = [Text(name, "bold"), Text(), Text(message, "red", no_wrap=False)]
                else:
                    view = list(lines(name, frame_of(before, now)))
                    before = now
                live.update(_whole([*view, Text(), Text("q quits", "dim")]), refresh=True)
                shown, pause = shown + 1, interval
        finally:
            live.stop()


def _whole(view: list[Text]) -> Group:
    for line in view:
        if line.no_wrap is None:
            line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*view)


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Read keys without echo.

    Gives a function that waits some seconds, and returns True at once if q is pressed.
    """
    keyboard = sys.stdin.fileno()
    before: list[Any] = termios.tcgetattr(keyboard)

    def pressed(seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([keyboard], [], [], left)
            # An empty read means that the terminal is gone.
            if ready and os.read(keyboard, 1) in (b"q", b"Q", b""):
                return True
        return False

    tty.setcbreak(keyboard)
    try:
        yield pressed
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
