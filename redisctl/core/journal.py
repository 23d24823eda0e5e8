"""The journal of a transaction, by which ``redisctl recover`` can finish it.

It records how far the transaction has come. Everything that stops Redis or replaces its data is one kind of
transaction. Its journal lies next to the data, on the same file system, in a directory that only root can write.
"""

import contextlib
import dataclasses
import json
import os
import stat
import time
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from redisctl import paths, schema
from redisctl.core.errors import Failure
from redisctl.core.files import fsync_directory, write_json
from redisctl.core.instance import Instance

_MAX_SIZE = 1024 * 1024


class Stage(str, Enum):
    """Stages of a transaction, in the order in which it goes through them."""

    # A deploy replaces the configuration of a running Redis, one file after another. The old one is saved.
    REPLACING_FILES = "replacing files"
    # Docker loses the means to start Redis by itself. Nothing else has changed.
    PREPARED = "prepared"
    # redisctl has asked Redis to exit. Its data and configuration are the old ones.
    STOPPING = "stopping"
    # Redis is down, and its stop was checked. Data and configuration are the old ones.
    STOPPED = "stopped"
    # The old data becomes the previous data.
    STASHING = "stashing the old data"
    # The new data becomes the live data.
    INSTALLING = "installing the new data"
    # The files of Redis get another owner.
    GIVING_FILES = "giving the files to another user"
    # Redis starts with the new data or the new configuration, and is checked.
    STARTING = "starting"
    # The old data and configuration are being put back.
    ROLLING_BACK = "rolling back"
    # The old data and configuration are back; Redis starts with them.
    RESTARTING_OLD = "starting the old state"
    # The old or the new state runs; what the other one needed is being removed.
    FINISHING = "finishing"


class Kind(str, Enum):
    """What a transaction does, which decides how it is recovered."""

    DATA = "data"
    SERVICE = "service"
    STOP = "stop"
    START = "start"
    OWNER = "owner"


@dataclass(frozen=True)
class Journal:
    """A transaction that is under way or was interrupted.

    ``operation`` names it for people, for example "restore of 20260102T030405Z". ``restart_policy`` is what the
    container had before. ``staged`` and ``previous`` are directories below the root: where the new data lay and where
    the old data goes. ``request`` is what a recovery needs to repeat a start or a stop. ``run`` is the id of the deploy
    that replaces files.
    """

    operation: str
    kind: Kind
    stage: Stage
    started: float
    restart_policy: str = ""
    staged: str = ""
    previous: str = ""
    request: dict[str, Any] = field(default_factory=dict)
    run: str = ""


def begin(instance: Instance, operation: str, kind: Kind, **values: Any) -> Journal:
    """Write the journal of a new transaction.

    Raises Failure if another one has not finished.
    """
    ensure_none(instance)
    return _write(instance, Journal(operation, kind, **{"stage": Stage.PREPARED, "started": time.time(), **values}))


def try_begin(instance: Instance, operation: str, kind: Kind, **values: Any) -> Journal:
    """Begin a transaction that replaces no data, even if the disk is full or missing.

    Without a journal, an interruption leaves it to the next run. Raises Failure if another one has not finished.
    """
    ensure_none(instance)
    record = Journal(operation, kind, Stage.PREPARED, time.time(), **values)
    with contextlib.suppress(Failure):
        _write(instance, record)
    return record


def advance(instance: Instance, journal: Journal, stage: Stage, **values: Any) -> Journal:
    """Record that the transaction has reached a stage.

    The record is on disk when this returns.
    """
    return _write(instance, dataclasses.replace(journal, stage=stage, **values))


def try_advance(instance: Instance, journal: Journal, stage: Stage) -> Journal:
    """Record a stage of a rollback, if the disk has room for the journal.

    A rollback must not fail because of a full disk.
    """
    with contextlib.suppress(Failure):
        return advance(instance, journal, stage)
    return dataclasses.replace(journal, stage=stage)


def end(instance: Instance) -> None:
    """Remove the journal: the transaction has finished."""
    path = instance.root / paths.JOURNAL
    path.unlink(missing_ok=True)
    if path.parent.is_dir():
        fsync_directory(path.parent)


def read(instance: Instance) -> Journal | None:
    """Return the journal; None if no transaction is under way.

    Raises Failure if it cannot be read.
    """
    path = instance.root / paths.JOURNAL
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Failure(f"{path} cannot be read: it is not a regular file")
        return schema.load(Journal, os.read(descriptor, _MAX_SIZE).decode())
    except (ValueError, OSError) as error:
        raise Failure(
            f"{path} cannot be read: {error}. If another release wrote it, deploy with that release. If it is damaged, "
            f"check that {paths.LIVE} has the data, then move the file away"
        ) from None
    finally:
        os.close(descriptor)


def ensure_none(instance: Instance) -> None:
    """Raise Failure if a transaction was interrupted and not recovered."""
    journal = read(instance)
    if journal:
        raise Failure(
            f"{journal.operation} was interrupted while {journal.stage.value}: run 'redisctl recover' to finish it"
        )


def _write(instance: Instance, journal: Journal) -> Journal:
    path: Path = instance.root / paths.JOURNAL
    try:
        write_json(path, json.loads(schema.dump(journal)), (os.geteuid(), os.getegid()))
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}") from None
    return journal
