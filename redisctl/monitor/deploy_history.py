"""The history of deploys and day-2 verbs.

It is read from the records that each of them wrote on this host.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from redisctl import paths
from redisctl.core import lock

# How a deploy ended. Interrupted means that it was killed or lost its connection.
CHANGED, UNCHANGED, FAILED, INTERRUPTED, RUNNING = "changed", "no change", "failed", "interrupted", "running"


@dataclass(frozen=True)
class Deploy:
    """One deploy or day-2 verb.

    Times are ISO 8601 in UTC, ``started`` a valid one. ``settings`` is a digest. ``changed`` and ``failed`` name
    operations.
    """

    verb: str
    who: str
    started: str
    ended: str
    result: str
    settings: str
    image: str
    changed: tuple[str, ...]
    failed: str

    def as_dict(self) -> dict[str, Any]:
        """Return the record for JSON; unknown values are null."""
        return {**vars(self), "changed": list(self.changed), "ended": self.ended or None, "failed": self.failed or None}

    @property
    def what(self) -> tuple[str, ...]:
        """The operations that changed something, and the one that failed."""
        return (*self.changed, *([f"failed: {self.failed}"] if self.failed else []))


def deploys(lines: Iterable[str], running: str) -> tuple[list[Deploy], int]:
    """Parse the records into deploys, newest first, and count damaged lines.

    A deploy has a line for its start and one for its end, with the same id. ``running`` is the id of the deploy that
    holds the lock.
    """
    by_id: dict[str, Deploy] = {}
    damaged = 0
    for line in lines:
        try:
            record = json.loads(line)
            by_id[record["run"]] = _deploy(record, running)
        except (ValueError, TypeError, KeyError):
            # A power cut may leave an incomplete line.
            damaged += 1
    return sorted(by_id.values(), key=lambda deploy: deploy.started, reverse=True), damaged


def _deploy(record: dict[str, Any], running: str) -> Deploy:
    datetime.fromisoformat(record["started"])
    changed, failed, ended = tuple(record["changed"]), record["failed"], record["ended"]
    if not ended:
        result = RUNNING if record["run"] == running else INTERRUPTED
    else:
        result = FAILED if failed else CHANGED if changed else UNCHANGED
    values = {name: record[name] for name in ("verb", "who", "started", "settings", "image")}
    return Deploy(**values, ended=ended, result=result, changed=changed, failed=failed)


def load(name: str) -> tuple[list[Deploy], int]:
    """Return an instance's deploys, newest first, and the number of damaged lines."""
    try:
        lines = Path(paths.history_file(name)).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    return deploys(lines, _running(name))


def _running(name: str) -> str:
    """Return the id of the deploy that holds the lock; empty without one.

    A deploy shares its lock with the verbs that it calls.
    """
    holder = lock.holder(name)
    return holder.run if holder else ""
