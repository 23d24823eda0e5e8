"""Progress of long steps. The verbs that show it listen; other verbs do not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[str], None]] = []


@contextmanager
def sent_to(listener: Callable[[str], None]) -> Iterator[None]:
    """Send reports to a listener inside the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def report(step: str) -> None:
    """Report what happens now, with numbers.

    For example ``copying dump.rdb: 1.0 GiB of 3.0 GiB``.
    """
    for listener in _listeners:
        listener(step)
