"""One verb at a time that reads or changes data files; and what one that was killed left behind."""

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from redisctl.core.formatting import ago
from redisctl.core.instance import Failure, Instance

# Of containers that redisctl starts beside the instance, with its name as the value.
LABEL = "redoubt.redisctl"
# Of a replacement of data: how far it came, below the instance's root; and what is to come in, below data.
JOURNAL, STAGING = "replace.json", ".incoming"


@contextmanager
def locked(instance: Instance, verb: str) -> Iterator[None]:
    """Hold the instance's lock, which ends with this process however it ends. Raises Failure, with who holds it.

    Takes away containers and half-written directories that a killed verb left.
    """
    with open(instance.root / "redisctl.lock", "a+", opener=_private) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"{holder(instance) or 'another redisctl'}: wait until it ends") from None
        file.truncate(0)
        json.dump({"verb": verb, "pid": os.getpid(), "since": time.time()}, file)
        file.flush()
        clear(instance)
        try:
            yield
        finally:
            file.truncate(0)


def holder(instance: Instance) -> str:
    """Who holds the lock and since when, in words; empty when nobody does."""
    try:
        with (instance.root / "redisctl.lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                told = json.loads(file.read() or "{}")
                since = ago(time.time() - told.get("since", time.time()))
                return f"redisctl {told.get('verb', '?')} has run for {since} (process {told.get('pid', '?')})"
    except FileNotFoundError:
        pass
    return ""


def clear(instance: Instance) -> None:
    """Remove what a verb that was killed left: its containers, and directories that are not whole."""
    found = subprocess.run(
        ["docker", "ps", "--all", "--quiet", "--filter", f"label={LABEL}={instance.name}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout.split()
    if found:
        subprocess.run(["docker", "rm", "--force", *found], capture_output=True, timeout=120, check=False)
    for left in instance.backups.glob(".*.partial"):
        shutil.rmtree(left)
    # A replacement that was broken off still needs what it had laid out.
    if not (instance.root / JOURNAL).exists():
        shutil.rmtree(instance.data / STAGING, ignore_errors=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
