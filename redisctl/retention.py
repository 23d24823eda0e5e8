"""Which backups stay. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone

# What makes two moments the same hour, day, week or month, in UTC.
_PERIODS = {"hourly": "%Y-%m-%d %H", "daily": "%Y-%m-%d", "weekly": "%G-%V", "monthly": "%Y-%m"}


# Seconds. What somebody just took by hand, before a change, is not for the next one to remove.
RECENT = 3600


def kept(moments: Iterable[float], keep: Mapping[str, int], now: float) -> set[float]:
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
