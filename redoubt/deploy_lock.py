"""The lock of a deploy on the host, and the record that it leaves.

Only one deploy changes an instance at a time. A deploy runs one command on each host from start to end
(files/deploy-lock.sh). The command holds the lock and receives the deploy's record as a heartbeat. When the heartbeat
stops, because the deploy ended, was killed or lost its connection, the command stores the last record and releases the
lock. An interrupted deploy leaves no stale lock.
"""

import getpass
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

from redisctl import paths

# Seconds between heartbeats, and without one until the lock is released. A deploy that loses its network ends after
# 25 s (redoubt.ssh_transport), so the lock is free soon after.
HEARTBEAT, LOCK_TIMEOUT = 5, 30

# Deploys in the history of a host: some hundred bytes each.
MAX_RECORDS = 500

# Longer than Python's buffer for a command on this machine (io.DEFAULT_BUFFER_SIZE), so that a line is written at once.
_LINE_WIDTH = 8200


@dataclass
class Record:
    """The record of a deploy in the history of a host. Nothing in it is secret.

    ``settings`` is the digest of the instance's settings, ``changed`` the names of the operations that changed the
    host, ``failed`` the name of the operation that failed. ``ended`` is empty until the deploy ends.
    """

    verb: str
    settings: str
    image: str
    who: str
    started: str
    run: str = field(default_factory=lambda: uuid4().hex)
    changed: list[str] = field(default_factory=list)
    failed: str = ""
    ended: str = ""

    @property
    def holder(self) -> str:
        """Return who holds the lock, as JSON for the lock file."""
        return json.dumps({"who": self.who, "verb": self.verb, "since": self.started})

    def line(self) -> str:
        """Return the record as one line of JSON."""
        return json.dumps(asdict(self))


def pad_line(line: str) -> str:
    """Pad a line so that a command on this machine gets it at once.

    SSH needs no padding.
    """
    return f"{line:<{_LINE_WIDTH}}"


def operator() -> str:
    """Return who deploys, as user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # In a container, a user may have no name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def now() -> str:
    """Return the current time in the format of a record."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class LockState:
    """The lock of a host. ``state`` is ours, free, held, or denied without root.

    ``error`` says why a free one cannot be locked, as the host's shell reports it.
    """

    state: str
    pid: str = ""
    holder: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


def parse(output: Iterable[str]) -> LockState:
    """Parse the output of files/lock-state.sh. Raises ValueError."""
    state, *lock = output
    if state != "held":
        return LockState(state, error=" ".join(lock))
    _, pid, holder = lock if len(lock) == 3 else ("", "", "{}")
    return LockState(state, pid, json.loads(holder))


def problem(name: str, lock: LockState | None) -> str:
    """Return why an instance cannot be changed now.

    Empty if this deploy holds its lock. Also empty without root, which the inspection of the host reports.
    """
    if lock is None:
        return "the host did not answer as expected; see the lines above"
    if lock.state in ("ours", "denied"):
        return ""
    if lock.state == "free":
        reason = lock.error or "another process held it until a moment ago, or the host is very busy"
        return (
            f"{paths.lock_file(name)} cannot be locked: {reason}. Run the same command again. If that does not "
            f"help, run 'flock {paths.lock_file(name)} true' on the host: it needs flock, and room in /run"
        )
    holder = lock.holder
    if holder and not holder.get("who"):
        return (
            f"redisctl is changing {name} ({holder.get('verb') or 'unknown'}): wait until that ends. If it hangs, "
            f"release the lock with 'kill {lock.pid or '<pid of its holder>'}' on the host"
        )
    if not holder:
        return (
            f"a step of a deploy that has ended still changes {name}: wait until it finishes. If it hangs, release the "
            f"lock with 'kill {lock.pid or '<pid of its holder>'}' on the host"
        )
    return (
        f"{holder.get('who', 'another deploy')} is changing {name} ({holder.get('verb', 'deploy')}, since "
        f"{holder.get('since', 'an unknown time')}): wait until that ends. The lock is released {LOCK_TIMEOUT} s after "
        f"the last heartbeat; if it hangs, release it with 'kill {lock.pid or '<pid of its holder>'}' on the host"
    )


class StreamingLines(list[str]):
    """Lines for standard input that are produced while they are sent.

    pyinfra accepts only a list, and iterates it.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        super().__init__()
        self._lines = lines

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def __bool__(self) -> bool:
        return True
