"""Which commands run redisctl, so that pyinfra prints its progress."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent

# The greenlets that run redisctl on a host.
_running: set[Any] = set()


@contextmanager
def printing() -> Iterator[None]:
    """Print the progress of the redisctl that this greenlet runs.

    Its result does not have these lines. The output of other commands may have lines that look the same.
    """
    current = gevent.getcurrent()
    _running.add(current)
    try:
        yield
    finally:
        _running.discard(current)


def is_printed() -> bool:
    """Say whether this greenlet reads the output of a redisctl.

    pyinfra reads in a greenlet that the one of the command has spawned.
    """
    return gevent.getcurrent().spawning_greenlet() in _running
