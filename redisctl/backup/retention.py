"""Decides which backups to keep, and removes the others."""

import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone

from redisctl.backup import catalog
from redisctl.backup.catalog import BackupSet
from redisctl.core.instance import Instance
from redisctl.core.untrusted_files import remove_tree

# Two times with the same text are in the same hour, day, week or month, in UTC.
_PERIODS = {"hourly": "%Y-%m-%d %H", "daily": "%Y-%m-%d", "weekly": "%G-%V", "monthly": "%Y-%m"}
# Seconds. Backups that a person has just created before a change must not be pruned by the next one.
RECENT = 3600


def backups_to_keep(times: Iterable[float], keep: Mapping[str, int], now: float) -> set[float]:
    """Return the times (seconds since 1970) of the backups to keep.

    These are the newest backup, all of the last hour, and by period the newest backup of each of the last ``keep``
    hours, days, weeks and months that have one. A backup can count for several periods.
    """
    newest_first = sorted(times, reverse=True)
    kept = {*newest_first[:1], *(at for at in newest_first if at > now - RECENT)}
    for period, text in _PERIODS.items():
        newest: dict[str, float] = {}
        for at in newest_first:
            newest.setdefault(datetime.fromtimestamp(at, timezone.utc).strftime(text), at)
        kept |= set(list(newest.values())[: keep.get(period, 0)])
    return kept


def find_prunable(instance: Instance) -> list[BackupSet]:
    """Return the backups that the retention does not keep, newest first.

    The newest verified one is never among them. Bad backups do not take the place of good ones. The same rules keep
    them: another version may load them.
    """
    every = catalog.list_backups(instance.backups)
    kept: set[float] = set()
    for is_bad in (False, True):
        times = [backup.metadata.taken_at for backup in every if backup.is_bad == is_bad]
        kept |= backups_to_keep(times, instance.backup.keep, time.time())
    newest_verified = next((backup.metadata.taken_at for backup in every if backup.is_verified), None)
    return [backup for backup in every if backup.metadata.taken_at not in {*kept, newest_verified}]


def prune(instance: Instance) -> list[str]:
    """Remove the backups that the retention does not keep. Returns their names."""
    pruned = find_prunable(instance)
    for backup in pruned:
        # It leaves the list at once, even if the removal is interrupted.
        partial = backup.path.with_name(f".{backup.id}.partial")
        backup.path.rename(partial)
        remove_tree(partial)
    return [backup.id for backup in pruned]
