"""The record of the last backup attempt. It is overwritten in place, which needs no space on a full disk."""

import json
import os
import time
from typing import Any

from redisctl.core.errors import Failure
from redisctl.core.instance import Instance

_FILE = ".attempt.json"
_BLOCK = 4096


def record_start(instance: Instance) -> None:
    """Record that a backup has begun. Raises Failure."""
    _write(instance, {"began": time.time()})


def record_end(instance: Instance, error: str = "", **values: Any) -> None:
    """Record how the attempt ended. Raises Failure."""
    _write(instance, {**last_attempt_or_empty(instance), "ended": time.time(), "error": error[:2000], **values})


def last_attempt_or_empty(instance: Instance) -> dict[str, Any]:
    """Return the last attempt; empty before the first one, or if it cannot be read."""
    try:
        return read_last_attempt(instance)
    except (OSError, ValueError):
        return {}


def read_last_attempt(instance: Instance) -> dict[str, Any]:
    """Return when the last attempt began and how it ended; empty before the first. Raises OSError, ValueError."""
    path = instance.backups / _FILE
    try:
        attempt: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    if not isinstance(attempt, dict) or not isinstance(attempt.get("began"), (int, float)):
        raise ValueError(f"{path} does not say when the last backup began")
    return attempt


def _write(instance: Instance, values: dict[str, Any]) -> None:
    text = json.dumps(values)[: _BLOCK - 1].ljust(_BLOCK - 1) + "\n"
    try:
        descriptor = os.open(instance.backups / _FILE, os.O_WRONLY | os.O_CREAT, 0o600)
        with open(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise Failure(f"{instance.backups}: {error.strerror}") from None
