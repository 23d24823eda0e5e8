"""A repair uses the source that loses least."""

from dataclasses import replace
from pathlib import Path

import pytest

from redisctl.data.repair import AOF, RDB, Finding, RdbCheck, Report, best_source


@pytest.mark.parametrize(
    ("snapshot", "log", "until", "before", "chosen"),
    [
        ((500.0, ""), AOF, None, 900.0, AOF),  # Nobody knows when the log was cut: it may be later.
        ((500.0, ""), AOF, 400.0, 900.0, RDB),
        ((500.0, ""), AOF, 600.0, 900.0, AOF),
        ((500.0, ""), AOF, None, 500.5, RDB),  # Nothing was written after it.
        ((500.0, "cut off"), AOF, 400.0, 900.0, AOF),
        ((None, ""), AOF, 400.0, 900.0, AOF),
        ((500.0, ""), "", None, 900.0, RDB),
        ((500.0, "cut off"), "", None, 900.0, ""),
        ((None, ""), "", None, 900.0, ""),
    ],
)
def test_best_source_loses_least(
    snapshot: tuple[float | None, str], log: str, until: float | None, before: float, chosen: str
) -> None:
    taken, problem = snapshot
    there = None if taken is None else RdbCheck(Path("dump.rdb"), problem, 10, taken)
    report = Report([Finding("x", "damaged")], source=log, cut=True, last_write=until, mtime=before, snapshot=there)
    assert best_source(report) == chosen
    whole = replace(report, findings=[], cut=False)
    assert best_source(whole) == log
