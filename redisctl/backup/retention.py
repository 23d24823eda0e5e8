"""Which backups stay, and the removal of the others."""

import shutil
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone

from redisctl.backup import catalog
from redisctl.core.instance import Instance

# What makes two moments the same hour, day, week or month, in UTC.
_PERIODS = {"hourly": "%Y-%m-%d %H", "daily": "%Y-%m-%d", "weekly": "%G-%V", "monthly": "%Y-%m"}


# Seconds. What somebody just took by hand, before a change, is not for the next one to remove.
RECENT = 3600


def backups_to_keep(moments: Iterable[float], keep: Mapping[str, int], now: float) -> set[float]:
    """The moments (seconds since the epoch) of the backups to keep: the newest, and of each kind as many as ``keep``.

    Those of the last hour stay all.

    The newest of an hour stays for that hour, for as many hours as have a backup; days, weeks and months likewise. A
    backup that is wanted for several counts for each of them.
    """
    newest_first = sorted(moments, reverse=True)
    stays = {*newest_first[:1], *(moment for moment in newest_first if moment > now - RECENT)}
    for kind, form in _PERIODS.items():
        newest: dict[str, float] = {}
        for moment in newest_first:
            newest.setdefault(datetime.fromtimestamp(moment, timezone.utc).strftime(form), moment)
        stays |= set(list(newest.values())[: keep.get(kind, 0)])
    return stays


def prune(instance: Instance) -> list[str]:
    """Remove backups that retention does not keep; never the newest that was verified. Their names.

    Bad ones take nobody's place, and are kept by the same rules: another version may load what this one does not.
    """
    every = catalog.list_backups(instance.backups)
    stays: set[float] = set()
    for is_bad in (False, True):
        moments = [one.metadata.taken_at for one in every if one.is_bad == is_bad]
        stays |= backups_to_keep(moments, instance.backup.keep, time.time())
    newest_good = next((one.metadata.taken_at for one in every if one.is_verified), None)
    gone = [one for one in every if one.metadata.taken_at not in {*stays, newest_good}]
    for one in gone:
        # Out of the list at once, whatever happens meanwhile.
        leaving = one.path.with_name(f".{one.id}.partial")
        one.path.rename(leaving)
        shutil.rmtree(leaving)
    return [one.id for one in gone]
