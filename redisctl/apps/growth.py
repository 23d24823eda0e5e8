"""How a number grew, by what verified backups counted. Pure, but for looking at the list of backups."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from redisctl.backup import catalog
from redisctl.core.formatting import ago
from redisctl.core.instance import Instance

DAY, WEEK = 86400, 7 * 86400
# About a day and a week ago: seconds from and to.
AGES = ((0.75 * DAY, 1.5 * DAY, DAY), (5 * DAY, 9 * DAY, WEEK))
# Seconds between a backup and its verification, which does not count sessions whose time is over by then.
PROMPT = 1800


def counted(instance: Instance, what: str) -> list[tuple[float, int]]:
    """What verified backups counted (``sessions`` or ``jobs``), and the moments whose data that was; newest first.

    One that was verified again long afterwards is left out: sessions have ended since.
    """
    return [
        (one.metadata.taken_at, int(one.verified[what]))
        for one in catalog.list_backups(instance.backups)
        if one.is_verified and what in one.verified and one.verified["at"] - one.metadata.taken_at < PROMPT
    ]


def growth(now: float, count: int, before: Sequence[tuple[float, int]]) -> list[dict[str, Any]]:
    """How ``count`` differs from the newest of what was counted ``before``, and from about a day and a week ago.

    Of those the nearest counts; one that is there already is not told again. Empty where nothing was counted.
    """
    past = [one for one in before if one[0] <= now]
    chosen = [max(past)] if past else []
    for youngest, oldest, wanted in AGES:
        of_age = [one for one in past if youngest <= now - one[0] <= oldest]
        if of_age:
            chosen.append(min(of_age, key=lambda one: abs(now - one[0] - wanted)))
    return [{"since": since, "count": then, "change": count - then} for since, then in dict.fromkeys(chosen)]


def rows(now: float, found: Iterable[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """The same for people."""
    for one in found:
        share = f" ({one['change'] / one['count']:+.0%})" if one["count"] else ""
        yield "growth", f"{one['change']:+d}{share} in {ago(now - one['since'])}: the backup had {one['count']}"
