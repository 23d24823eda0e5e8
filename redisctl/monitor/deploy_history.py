"""What deploys and day-2 verbs did to the instance: the records that each of them left on this host."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from redisctl.core import lock

LOGS = Path("/var/log/redoubt")

# How a deploy ended: well, with and without a change; not well; not by itself, but killed or cut off; not yet.
CHANGED, UNCHANGED, FAILED, INTERRUPTED, RUNNING = "changed", "no change", "failed", "interrupted", "running"


@dataclass(frozen=True)
class Deploy:
    """One deploy or day-2 verb. Times are ISO 8601, in UTC; ``settings`` is a digest; the rest names operations.

    ``started`` was read as a time: it can be shown and compared.
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
        """For programs; what is not known is null."""
        return {**vars(self), "changed": list(self.changed), "ended": self.ended or None, "failed": self.failed or None}

    @property
    def what(self) -> str:
        """What was changed and where it failed, in words."""
        failed = [f"failed: {self.failed}"] if self.failed else []
        return "\n".join([*self.changed, *failed])


def deploys(lines: Iterable[str], under_way: str) -> tuple[list[Deploy], int]:
    """The deploys that these lines tell of, the newest first, and how many lines are damaged.

    A deploy has a line for its beginning and one for what it had done in the end, under one id. ``under_way`` is the id
    of the one that has the lock.
    """
    found: dict[str, Deploy] = {}
    damaged = 0
    for line in lines:
        try:
            told = json.loads(line)
            found[told["run"]] = _deploy(told, under_way)
        except (ValueError, TypeError, KeyError):
            # Of a host that lost its power while it wrote.
            damaged += 1
    return sorted(found.values(), key=lambda deploy: deploy.started, reverse=True), damaged


def _deploy(told: dict[str, Any], under_way: str) -> Deploy:
    datetime.fromisoformat(told["started"])
    changed, failed, ended = tuple(told["changed"]), told["failed"], told["ended"]
    if not ended:
        result = RUNNING if told["run"] == under_way else INTERRUPTED
    else:
        result = FAILED if failed else CHANGED if changed else UNCHANGED
    return Deploy(
        told["verb"], told["who"], told["started"], ended, result, told["settings"], told["image"], changed, failed
    )


def load(name: str) -> tuple[list[Deploy], int]:
    """The same, of the instance of this name on this host."""
    try:
        lines = (LOGS / f"{name}.jsonl").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    return deploys(lines, _running(name))


def _running(name: str) -> str:
    """The id of the deploy that holds the lock; empty without one. A deploy shares its lock, so lock.holder asks."""
    holder = lock.holder(name)
    return holder.run if holder else ""
