"""The lock of an instance: one change at a time, by a deploy or a redisctl verb.

The lock is a flock on a file in /run. A verb that a person starts holds it exclusively. A deploy lasts for many
commands: its heartbeat (files/deploy-lock.sh) takes the lock, writes the id of the deploy and then shares it; the verbs
that the deploy calls share it as well, if the file still has their deploy's id. So the lock stays held until the last
of them has exited, however the deploy ended.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from redisctl import paths
from redisctl.core import process
from redisctl.core.errors import Failure
from redisctl.core.formatting import ago
from redisctl.core.instance import Instance
from redisctl.core.untrusted_files import remove_tree

_POLL = 0.2
# Seconds for which others hold the lock at most: to see whether it is held, or to change from exclusive to shared.
_GRACE = 2
# A lock file is a few hundred bytes.
_MAX_SIZE = 64 * 1024


@dataclass(frozen=True)
class Holder:
    """The deploy or verb that holds the lock.

    The fields are the id of the deploy (empty for a verb), process, operator, verb, and since when (epoch). Without
    ``verb`` it is a step of a deploy whose heartbeat has ended.
    """

    run: str
    pid: int
    who: str
    verb: str
    since: float

    def __str__(self) -> str:
        if not self.verb:
            return f"a step of a deploy that has ended is still at work (process {self.pid})"
        what = f"{self.who} is changing it" if self.who else "redisctl is at work"
        return f"{what} ({self.verb}, process {self.pid}, for {ago(time.time() - self.since)})"


# The label of containers that redisctl starts next to the instance; its value is the instance's name.
LABEL = "redoubt.redisctl"


@contextmanager
def locked(instance: Instance, verb: str, *, run: str = "") -> Iterator[None]:
    """Hold the lock for a verb that works on data.

    Removes what a killed verb left behind. Raises Failure.
    """
    with hold(instance.name, verb, run=run):
        clean_up(instance)
        yield


def clean_up(instance: Instance) -> None:
    """Remove what a killed verb left: its containers and incomplete directories."""
    command = ["docker", "ps", "--all", "--quiet", "--filter", f"label={LABEL}={instance.name}"]
    containers = process.run(command).stdout.split()
    if containers:
        process.run(["docker", "rm", "--force", *containers], timeout=120)
    for partial in instance.backups.glob(".*.partial"):
        remove_tree(partial)
    # An interrupted transaction still needs its staged data.
    if not (instance.root / paths.JOURNAL).exists():
        remove_tree(instance.root / paths.STAGING, ignore_errors=True)


@contextmanager
def hold(name: str, verb: str, *, run: str = "", wait: float = 0) -> Iterator[None]:
    """Hold the instance's lock.

    The kernel releases it when this process and the programs that it started exit. With ``run``, share the lock of that
    deploy. ``wait`` is how many seconds to wait for another holder. Raises Failure that names the current holder.
    """
    with open(paths.lock_file(name), "a+", opener=_open_private) as file:
        if run:
            _share(file, name, run)
        else:
            _acquire(file, name, wait)
            _write(file, verb)
        try:
            # If this process is killed, a Compose that it started still works on the containers.
            with process.inherited(file.fileno()):
                yield
        finally:
            if not run:
                file.truncate(0)


def holder(name: str) -> Holder | None:
    """Return who holds the lock; None if it is free."""
    try:
        with open(paths.lock_file(name), encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read(file)
    except (FileNotFoundError, PermissionError):
        pass
    return None


def _acquire(file: IO[str], name: str, wait: float) -> None:
    deadline = time.monotonic() + max(wait, _GRACE)
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Failure(f"{name} is locked: {_read(file)}. Wait until that ends, then try again") from None
        time.sleep(_POLL)


def _share(file: IO[str], name: str, run: str) -> None:
    # The deploy writes its id a moment before it shares the lock.
    deadline = time.monotonic() + _GRACE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Failure(f"{name} is locked by another change: {_read(file)}") from None
        time.sleep(_POLL)
    if _read(file).run != run:
        raise Failure(f"the deploy that started this has lost its lock on {name}: run it again")


def _write(file: IO[str], verb: str) -> None:
    file.truncate(0)
    holder = json.dumps({"who": "", "verb": verb, "since": time.time()})
    file.write(f"\n{os.getpid()}\n{holder}\n")
    file.flush()


def _read(file: IO[str]) -> Holder:
    file.seek(0)
    content = file.read(_MAX_SIZE)
    if not content:
        return Holder("", _locking_process(file), "", "", time.time())
    run, pid, text = (*content.split("\n"), "", "", "")[:3]
    try:
        values = json.loads(text or "{}")
        since = values.get("since", time.time())
        if isinstance(since, str):
            since = datetime.fromisoformat(since).timestamp()
        return Holder(run, int(pid or 0), str(values.get("who", "")), str(values.get("verb", "")), float(since))
    except (ValueError, AttributeError, TypeError):
        return Holder(run, 0, "", "", time.time())


def _locking_process(file: IO[str]) -> int:
    """Return a process that holds the lock, by the kernel's list.

    Returns 0 if it is not visible from here.
    """
    inode = os.fstat(file.fileno()).st_ino
    # 1: FLOCK ADVISORY READ 4711 00:1a:1234 0 EOF
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
            return int(words[4])
    return 0


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
