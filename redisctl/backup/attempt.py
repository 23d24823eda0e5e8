"""The record of the last backup attempt.

It is overwritten in place, which needs no space on a full disk.
"""

import dataclasses
import json
import os
import time
from dataclasses import dataclass

from redisctl import schema
from redisctl.core.errors import Failure
from redisctl.core.formatting import printable
from redisctl.core.instance import Instance

_FILE = ".attempt.json"
_BLOCK = 4096
# Bytes of an error. As JSON it is at most twice as long, so that it fits into the block.
_MAX_ERROR = 1500
# In the year 4147.
_MAX_TIME = 2.0**36


@dataclass(frozen=True)
class Attempt:
    """A backup attempt. Times are in seconds since the epoch.

    ``ended`` is None while it runs, and after an interruption. ``error`` is empty and ``id`` is that of the backup if
    it succeeded.
    """

    started: float
    ended: float | None = None
    error: str = ""
    id: str = ""


def record_start(instance: Instance) -> None:
    """Record that a backup has started. Raises Failure."""
    _write(instance, Attempt(started=time.time()))


def record_end(instance: Instance, *, error: str = "", backup: str = "") -> None:
    """Record how the attempt ended. Raises Failure.

    ``error`` is empty if it succeeded. Then ``backup`` is the id of the backup.
    """
    try:
        last = read_last_attempt(instance)
    except (OSError, ValueError):
        last = None
    now = time.time()
    _write(instance, Attempt(last.started if last else now, now, _shorten(error), backup))


def read_last_attempt(instance: Instance) -> Attempt | None:
    """Return the last attempt, or None before the first one.

    Raises OSError, ValueError.
    """
    path = instance.backups / _FILE
    try:
        text = instance.untrusted(path.parent).read_file(_FILE, limit=_BLOCK).decode()
    except FileNotFoundError:
        return None
    try:
        attempt = schema.load(Attempt, text)
    except schema.SchemaError as error:
        raise ValueError(f"{path} does not say how the last backup went: {error}") from None
    if not 0 <= attempt.started < _MAX_TIME:
        raise ValueError(f"{path} does not say when the last backup started")
    return attempt


def _shorten(error: str) -> str:
    """Return an error on one line, short enough for the record.

    It has no characters that JSON escapes to more than two bytes.
    """
    return printable(" ".join(error.split())).encode()[:_MAX_ERROR].decode(errors="ignore")


def _write(instance: Instance, attempt: Attempt) -> None:
    text = json.dumps(dataclasses.asdict(attempt), ensure_ascii=False).encode().ljust(_BLOCK - 1) + b"\n"
    try:
        descriptor = os.open(instance.backups / _FILE, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        with open(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise Failure(f"{instance.backups}: {error.strerror}") from None
