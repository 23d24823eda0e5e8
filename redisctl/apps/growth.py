"""Growth of sessions and jobs since earlier backups, which counted them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from redisctl.backup import catalog
from redisctl.core.formatting import ago
from redisctl.core.instance import Instance

DAY, WEEK = 86400, 7 * 86400
# Comparisons with about a day and a week ago: youngest, oldest and ideal age in seconds.
AGES = ((0.75 * DAY, 1.5 * DAY, DAY), (5 * DAY, 9 * DAY, WEEK))
# Seconds between a backup and its verification. A later one does not count sessions that have expired since.
PROMPT = 1800


def counted(instance: Instance, what: str) -> list[tuple[float, int]]:
    """Return the times and counts of verified backups, newest first.

    ``what`` is ``sessions`` or ``jobs``. Leaves out backups that were verified again long after they were taken.
    """
    return [
        (backup.metadata.taken_at, int(backup.verified[what]))
        for backup in catalog.list_backups(instance.backups)
        if backup.is_verified and what in backup.verified and backup.verified["at"] - backup.metadata.taken_at < PROMPT
    ]


def growth(now: float, count: int, before: Sequence[tuple[float, int]]) -> list[dict[str, Any]]:
    """Compare ``count`` with the newest earlier one and those a day and a week ago.

    For a day and a week ago it takes the nearest count. Returns each comparison once; none without an earlier count.
    """
    past = [entry for entry in before if entry[0] <= now]
    chosen = [max(past)] if past else []
    for youngest, oldest, ideal in AGES:
        candidates = [entry for entry in past if youngest <= now - entry[0] <= oldest]
        if candidates:
            chosen.append(min(candidates, key=lambda entry: abs(now - entry[0] - ideal)))
    return [{"since": since, "count": then, "change": count - then} for since, then in dict.fromkeys(chosen)]


def rows(now: float, changes: Iterable[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield the growth for people, as names and values."""
    for change in changes:
        share = f" ({change['change'] / change['count']:+.0%})" if change["count"] else ""
        age = ago(now - change["since"])
        yield "growth", f"{change['change']:+d}{share} in {age}: the backup had {change['count']}"
