"""A repair uses the source with the smallest loss."""

from dataclasses import replace
from pathlib import Path

import pytest

from redisctl.data.file_check import Finding, RdbCheck
from redisctl.data.repair import AOF, RDB, Report, best_source


@pytest.mark.parametrize(
    ("snapshot", "aof", "last_write", "mtime", "expected"),
    [
        ((500.0, ""), AOF, None, 900.0, AOF),  # The AOF has no timestamps: its end may be newer than the RDB snapshot.
        ((500.0, ""), AOF, 400.0, 900.0, RDB),
        ((500.0, ""), AOF, 600.0, 900.0, AOF),
        ((500.0, ""), AOF, None, 500.5, RDB),  # The AOF was not written after the RDB snapshot.
        ((500.0, "truncated"), AOF, 400.0, 900.0, AOF),
        ((None, ""), AOF, 400.0, 900.0, AOF),
        ((500.0, ""), "", None, 900.0, RDB),
        ((500.0, "truncated"), "", None, 900.0, ""),
        ((None, ""), "", None, 900.0, ""),
    ],
)
def test_best_source_loses_least(
    snapshot: tuple[float | None, str], aof: str, last_write: float | None, mtime: float, expected: str
) -> None:
    taken_at, problem = snapshot
    rdb = None if taken_at is None else RdbCheck(Path("dump.rdb"), problem, 10, taken_at)
    report = Report([Finding("x", "damaged")], source=aof, cut=True, last_write=last_write, mtime=mtime, snapshot=rdb)
    assert best_source(report) == expected
    intact = replace(report, findings=[], cut=False)
    assert best_source(intact) == aof
