"""Helpers of the sandbox: paths, progress messages, waiting, running commands."""

from __future__ import annotations

import fcntl
import hashlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".sandbox"

# A part of all names that are unique on the machine, so that two checkouts do not collide.
ID = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
PREFIX = f"redoubt-{ID}"
LABEL = "redoubt.sandbox"
LABELS = {LABEL: ID}

# For sockets, whose paths are limited to 108 bytes.
RUNTIME = Path("/run", PREFIX) if os.geteuid() == 0 else Path("/tmp", f"{PREFIX}-{os.geteuid()}")

# Seconds between two messages while something lasts.
HEARTBEAT = 5.0


class SandboxError(Exception):
    """An error for the operator: what failed, where, and what to do."""


class NoEngineError(SandboxError):
    """Docker does not answer and cannot run on this machine.

    A virtual machine can still run. The first line of the message says why Docker cannot.
    """


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically: a reader gets the old or the new text."""
    unfinished = path.with_name(f"{path.name}.partial")
    unfinished.write_text(text)
    unfinished.replace(path)


def say(topic: str, text: str) -> None:
    """Print a line of progress on stderr; stdout is for results."""
    print(f"  {topic:<8} {text}", file=sys.stderr, flush=True)


def runtime_dir() -> Path:
    """Create the private directory for sockets and return it."""
    RUNTIME.mkdir(mode=0o700, exist_ok=True)
    owner = RUNTIME.stat().st_uid
    if owner != os.geteuid():
        raise SandboxError(f"{RUNTIME} belongs to uid {owner}, not to you: remove it and try again")
    return RUNTIME


@contextmanager
def lock() -> Iterator[None]:
    """Hold the lock of the sandbox: one process at a time changes it."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    with (STATE / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("sandbox", "waiting for another command that changes it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def wait_until(topic: str, text: str, ready: Callable[[], bool], timeout: float) -> bool:
    """Wait until `ready` returns true, and return whether it did.

    The wait takes at most `timeout` seconds.
    """
    start = last_message = time.monotonic()
    while not ready():
        now = time.monotonic()
        if now - start > timeout:
            return False
        if now - last_message > HEARTBEAT:
            last_message = now
            say(topic, f"{text} ({now - start:.0f} s)")
        # A look costs time of the machine that is waited for, so a long wait has few.
        time.sleep(min(max(0.1, (now - start) / 10), 2))
    return True


def run_logged(
    topic: str,
    text: str,
    command: Sequence[str | os.PathLike[str]],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a long command with its output in a log.

    `timeout` is in seconds. Raises SandboxError with the end of the log if the command fails.
    """
    say(topic, text)
    log = STATE / "log" / f"{topic}-{Path(command[0]).name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env)
        try:
            has_ended = wait_until(topic, text, lambda: process.poll() is not None, timeout)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if not has_ended:
        raise SandboxError(f"{text}: not done after {timeout:.0f} s\n{tail(log)}")
    if process.returncode != 0:
        raise SandboxError(f"{text}: exit code {process.returncode}\n{tail(log)}")


def running(pidfile: Path, argument: str) -> int | None:
    """Return the process id in a file, if this process runs with the argument.

    The id alone proves nothing: after a crash another process may have it.
    """
    try:
        pid = int(pidfile.read_text())
    except (OSError, ValueError):
        return None
    return pid if argument in arguments_of(pid) else None


def arguments_of(pid: int | str) -> list[str]:
    """Return the arguments of a process; none if it does not exist."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def capabilities_of_this_process(which: str) -> int:
    """Return a capability set of this process as a bit mask.

    `which` is its name in /proc/self/status (`CapEff`, `CapBnd`). Without Linux, all bits are set.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1], 16) for line in lines if line.startswith(f"{which}:")), ~0)


def tail(log: Path, lines: int = 15) -> str:
    """Return the end of a log file, indented, with its name."""
    text = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join([f"the end of {log}:", *(f"  | {line}" for line in text[-lines:])])


def shorten(text: str, width: int = 90) -> str:
    """Return the text as one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 3]}..."


def events(
    call: Callable[..., Iterable[dict[str, Any]]], *, silence: float, **arguments: Any
) -> Iterator[dict[str, Any]]:
    """Yield the events of a streaming call to Docker.

    Yield an empty event for each second without one. Raises SandboxError if Docker sends nothing for `silence` seconds.
    """
    received: queue.Queue[dict[str, Any] | Exception | None] = queue.Queue()

    def listen() -> None:
        try:
            for event in call(decode=True, **arguments):
                received.put(event)
            received.put(None)
        except Exception as error:  # raised again below, in the calling thread
            received.put(error)

    threading.Thread(target=listen, daemon=True).start()
    quiet = 0
    while True:
        try:
            event = received.get(timeout=1)
        except queue.Empty:
            quiet += 1
            if quiet >= silence:
                raise SandboxError(f"Docker sent nothing for {silence:.0f} s") from None
            yield {}
            continue
        quiet = 0
        if event is None:
            return
        if isinstance(event, Exception):
            raise event
        yield event
