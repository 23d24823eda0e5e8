"""Begins the transactions that stop Redis and start it again.

A stop by an operator does not begin here: it warns if a later start may fail.
"""

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from redisctl.core import journal, mounts, publishing
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.core.journal import Journal, Kind, Stage

T = TypeVar("T")

# What follows if neither the new nor the old state runs.
RETRIES = "systemd tries again every minute; to try now, run 'redisctl recover'"


def begin(
    instance: Instance,
    operation: str,
    kind: Kind,
    *,
    replacing: Journal | None = None,
    addresses: Collection[str] = (),
    **values: Any,
) -> Journal:
    """Write the journal of a transaction that stops Redis.

    Redis must be able to start again, with its data. ``replacing`` is the journal of a deploy that has replaced files,
    which the transaction continues. ``addresses`` are those on which Redis will publish its ports in addition. Raises
    Failure, with Redis and the journal untouched.
    """
    if replacing is None:
        journal.ensure_none(instance)
    mounts.ensure_mounted(instance.root)
    publishing.ensure_restartable(instance, addresses)
    if replacing is None:
        return journal.begin(instance, operation, kind, **values)
    return journal.advance(instance, replacing, Stage.PREPARED, operation=operation, run="", **values)


def roll_back(reason: object, undo: Callable[[], T]) -> T:
    """Undo a transaction that failed for a reason, and return what ``undo`` returns.

    If the rollback fails as well, Failure has both reasons.
    """
    try:
        return undo()
    except Failure as error:
        raise Failure(f"{reason}. The rollback failed as well: {error}") from None
