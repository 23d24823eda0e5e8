"""One change of an instance at a time: the lock of a deploy on the host, and the record that it leaves there.

A deploy runs one command on each host from before its first look to its end (files/hold-lock.sh). The command holds the
lock and hears how the deploy is coming on; when it hears nothing more, since the deploy ended, was killed or lost its
connection, it lets go and keeps what it heard last. So nothing has to be undone after a deploy that was broken off.
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

# Seconds between signs of life, and seconds without one after which a deploy is over. One whose network is gone ends by
# itself after 25 s (redoubt.ssh_transport); whoever runs it again then need not wait long for the lock.
HEARTBEAT, LOCK_TIMEOUT = 5, 30

# Deploys that the host remembers: some hundred bytes each.
MAX_RECORDS = 500

# Longer than what Python keeps back before it writes to a command of this machine (io.DEFAULT_BUFFER_SIZE).
_WIDTH = 8200


@dataclass
class Record:
    """What a deploy leaves on the host: who did what when, and what came of it. Nothing in it is secret.

    ``settings`` is the digest of the instance's settings, ``changed`` names operations, ``failed`` the
    one that did. ``ended`` is empty until the deploy has come to its end.
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
        """Who holds the lock, for others to read."""
        return json.dumps({"who": self.who, "verb": self.verb, "since": self.started})

    def line(self) -> str:
        """All of it, on one line."""
        return json.dumps(asdict(self))


def pad_line(line: str) -> str:
    """A line that a command of this machine gets at once. Over SSH all do."""
    return f"{line:<{_WIDTH}}"


def operator() -> str:
    """The person at this machine, as far as it knows: user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # In a container, a user may have no name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class LockState:
    """What a host says of its lock. ``state`` is ours, free, held, or denied to those who are not root."""

    state: str
    pid: str = ""
    holder: Mapping[str, str] = field(default_factory=dict)


def parse(output: Iterable[str]) -> LockState:
    """Read what files/lock-state.sh prints. Raises ValueError."""
    state, *lock = output
    if state != "held":
        return LockState(state)
    _, pid, holder = lock if len(lock) == 3 else ("", "", "{}")
    return LockState(state, pid, json.loads(holder))


def problem(name: str, answer: LockState | None) -> str:
    """Why an instance cannot be changed now, for the operator; empty when it can, or when others say why not."""
    if answer is None:
        return "the host did not answer as expected; the lines above say more"
    if answer.state in ("ours", "denied"):
        return ""
    if answer.state == "free":
        return f"{paths.lock_file(name)} cannot be locked, and nobody else holds it: is /run full or read-only?"
    told = answer.holder
    return (
        f"{told.get('who', 'somebody')} is changing {name} ({told.get('verb', 'a deploy')}) since "
        f"{told.get('since', 'some time')}: wait until that ends. It is over {LOCK_TIMEOUT} s after it was last heard "
        f"of; where it hangs, kill {answer.pid or 'what has the lock'} on the host lets go of the lock"
    )


class StreamingLines(list[str]):
    """Lines that are made while they are read. pyinfra takes a list for standard input and goes through it."""

    def __init__(self, lines: Iterator[str]) -> None:
        super().__init__()
        self._lines = lines

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def __bool__(self) -> bool:
        return True
