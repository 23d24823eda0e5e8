"""The growth of keys since earlier backups."""

from redisctl.apps import growth
from tests.unit.test_health import NOW

HOUR, DAY = 3600.0, 86400.0


def test_growth_is_reported_for_backup_day_and_week() -> None:
    before = [(NOW - hours * HOUR, 1000 - int(hours)) for hours in (1, 2, 23, 26, 100, 160, 300)]
    changes = growth.growth(NOW, 1100, before)
    assert [(round((NOW - change["since"]) / HOUR), change["count"], change["change"]) for change in changes] == [
        (1, 999, 101),
        (23, 977, 123),
        (160, 840, 260),
    ]
    assert list(growth.rows(NOW, changes[:1])) == [("growth", "+101 (+10%) in 1 h: the backup had 999")]
    assert growth.growth(NOW, 5, []) == []
    # The only backup is the newest one and a day old. It is reported once.
    assert growth.growth(NOW, 5, [(NOW - DAY, 9)]) == [{"since": NOW - DAY, "count": 9, "change": -4}]
