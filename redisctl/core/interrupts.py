"""Ctrl-C and SIGTERM: the first one cancels the verb, which then cleans up.

Python raises KeyboardInterrupt wherever the signal arrives. In a finalizer it would print a traceback and get lost, and
a second Ctrl-C would interrupt what cleans up after the first one.
"""

import signal
import sys
import time
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds: after which another Ctrl-C interrupts a cleanup that hangs, and until a lost one is repeated.
PATIENCE = 10
_LATER = 0.02


class _State:
    cancelled_at: float | None = None


def listen() -> None:
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt once."""
    _State.cancelled_at = None
    sys.unraisablehook = _report_unraisable
    for number in SIGNALS:
        signal.signal(number, _cancel)


def ignore() -> None:
    """Ignore Ctrl-C and SIGTERM from now on: the verb has ended."""
    for number in SIGNALS:
        # Not in a program that only calls redisctl.
        if signal.getsignal(number) is _cancel:
            signal.signal(number, signal.SIG_IGN)


def _cancel(signum: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _State.cancelled_at is None or now - _State.cancelled_at > PATIENCE:
        _State.cancelled_at = now
        raise KeyboardInterrupt


def _report_unraisable(error: Any) -> None:
    """Repeat an interruption that arrived where Python cannot raise it."""
    if issubclass(error.exc_type, KeyboardInterrupt):
        _State.cancelled_at = None
        # A real signal, which ends a wait. A little later, when the finalizer has returned.
        signal.signal(signal.SIGALRM, _cancel)
        signal.setitimer(signal.ITIMER_REAL, _LATER)
    else:
        sys.__unraisablehook__(error)
