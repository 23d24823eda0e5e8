"""The record of the last backup attempt.

It is overwritten in place, which needs no space on a full disk.
"""

import json
import os
import time
from typing import Any

from redisctl.core.errors import Failure
from redisctl.core.formatting import printable
from redisctl.core.instance import Instance

_FILE = ".attempt.json"
_BLOCK = 4096
# Bytes of an error. As JSON it is at most twice as long, so that it fits into the block.
_MAX_ERROR = 1500


def record_start(instance: Instance) -> None:
    """Record that a backup has started. Raises Failure."""
    _write(instance, {"started": time.time()})


def record_end(instance: Instance, error: str = "", **values: Any) -> None:
    """Record how the attempt ended. Raises Failure."""
    _write(instance, {**last_attempt_or_empty(instance), "ended": time.time(), "error": _shorten(error), **values})


def last_attempt_or_empty(instance: Instance) -> dict[str, Any]:
    """Return the last attempt; empty before the first one, or if it cannot be read."""
    try:
        return read_last_attempt(instance)
    except (OSError, ValueError):
        return {}


def read_last_attempt(instance: Instance) -> dict[str, Any]:
    """Return when the last attempt started and how it ended.

    Empty before the first attempt. Raises OSError, ValueError.
    """
    path = instance.backups / _FILE
    try:
        attempt: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    if not isinstance(attempt, dict) or not isinstance(attempt.get("started"), (int, float)):
        raise ValueError(f"{path} does not say when the last backup started")
    return attempt


def _shorten(error: str) -> str:
    """Return an error on one line, short enough for the record.

    It has no characters that JSON escapes to more than two bytes.
    """
    return printable(" ".join(error.split())).encode()[:_MAX_ERROR].decode(errors="ignore")


def _write(instance: Instance, values: dict[str, Any]) -> None:
    text = json.dumps(values, ensure_ascii=False).encode().ljust(_BLOCK - 1) + b"\n"
    try:
        descriptor = os.open(instance.backups / _FILE, os.O_WRONLY | os.O_CREAT, 0o600)
        with open(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise Failure(f"{instance.backups}: {error.strerror}") from None
