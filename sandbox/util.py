"""What every module of the sandbox needs: where things lie, how to speak, how to wait."""

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

# Two checkouts on one machine must not meet: whatever has a machine-wide name carries this.
ID = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
PREFIX = f"redoubt-{ID}"
LABEL = "redoubt.sandbox"
LABELS = {LABEL: ID}

# Sockets live here and not under the checkout: their paths are limited to 108 bytes.
RUNTIME = Path("/run", PREFIX) if os.geteuid() == 0 else Path("/tmp", f"{PREFIX}-{os.geteuid()}")

HEARTBEAT = 5.0


class SandboxError(Exception):
    """Something a person has to know: what failed, where, and what to do about it."""


class NoEngineError(SandboxError):
    """Why no engine answers and none of our own can run on this machine, in its first line. A virtual machine can."""


def write_whole(path: Path, text: str) -> None:
    """Write a file so that whoever reads it finds all of it, or what was there before."""
    unfinished = path.with_name(f"{path.name}.partial")
    unfinished.write_text(text)
    unfinished.replace(path)


def say(topic: str, text: str) -> None:
    """Print one line of progress, on stderr: stdout belongs to results."""
    print(f"  {topic:<8} {text}", file=sys.stderr, flush=True)


def runtime_dir() -> Path:
    """Make the private directory for sockets, and return it."""
    RUNTIME.mkdir(mode=0o700, exist_ok=True)
    owner = RUNTIME.stat().st_uid
    if owner != os.geteuid():
        raise SandboxError(f"{RUNTIME} belongs to uid {owner}, not to you: remove it and try again")
    return RUNTIME


@contextmanager
def lock() -> Iterator[None]:
    """Let one process at a time change the sandbox; the others wait for it."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    with (STATE / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("sandbox", "another command is changing it; waiting for that to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def wait_until(topic: str, text: str, ready: Callable[[], bool], timeout: float) -> bool:
    """Ask `ready` until it says yes or `timeout` seconds have passed; say so while waiting."""
    start = spoken = time.monotonic()
    while not ready():
        now = time.monotonic()
        if now - start > timeout:
            return False
        if now - spoken > HEARTBEAT:
            spoken = now
            say(topic, f"{text} ({now - start:.0f} s)")
        time.sleep(0.1)
    return True


def run_logged(
    topic: str,
    text: str,
    command: Sequence[str | os.PathLike[str]],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a long command with its output in a log; show the log's end if it fails."""
    say(topic, text)
    log = STATE / "log" / f"{topic}-{Path(command[0]).name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env)
        try:
            done = wait_until(topic, text, lambda: process.poll() is not None, timeout)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if not done:
        raise SandboxError(f"{text}: not done after {timeout:.0f} s\n{tail(log)}")
    if process.returncode != 0:
        raise SandboxError(f"{text}: exit code {process.returncode}\n{tail(log)}")


def running(pidfile: Path, argument: str) -> int | None:
    """The process id in a file, if a process runs under it that was given this argument.

    A pid alone proves nothing: after a crash it may be somebody else's.
    """
    try:
        pid = int(pidfile.read_text())
    except (OSError, ValueError):
        return None
    return pid if argument in arguments_of(pid) else None


def arguments_of(pid: int | str) -> list[str]:
    """The arguments of a process; none of one that is not there."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def capabilities_of_this_process(which: str) -> int:
    """A capability set from /proc/self/status (`CapEff`, `CapBnd`), as a bit mask. Another kernel refuses nothing."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1], 16) for line in lines if line.startswith(f"{which}:")), ~0)


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log file, indented, under its name."""
    text = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join([f"the end of {log}:", *(f"  | {line}" for line in text[-lines:])])


def shorten(text: str, width: int = 90) -> str:
    """One line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 3]}..."


def events(
    call: Callable[..., Iterable[dict[str, Any]]], *, silence: float, **arguments: Any
) -> Iterator[dict[str, Any]]:
    """The events of a streaming call to the engine, and an empty one for every quiet second.

    Raises SandboxError if the engine says nothing for `silence` seconds.
    """
    heard: queue.Queue[dict[str, Any] | Exception | None] = queue.Queue()

    def listen() -> None:
        try:
            for event in call(decode=True, **arguments):
                heard.put(event)
            heard.put(None)
        except Exception as error:  # raised again below, where it belongs
            heard.put(error)

    threading.Thread(target=listen, daemon=True).start()
    quiet = 0
    while True:
        try:
            event = heard.get(timeout=1)
        except queue.Empty:
            quiet += 1
            if quiet >= silence:
                raise SandboxError(f"the engine said nothing for {silence:.0f} s") from None
            yield {}
            continue
        quiet = 0
        if event is None:
            return
        if isinstance(event, Exception):
            raise event
        yield event
