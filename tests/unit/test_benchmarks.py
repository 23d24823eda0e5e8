"""docs/benchmarks.md has every point of both lists, and names tests that exist."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.test_guarantees import REFERENCE, problem

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
PROVEN, UNPROVEN = {"covered", "partly"}, {"host", "missing", "not applicable"}
# The guide numbers its points with gaps.
STIG_POINTS = 71


@dataclass(frozen=True)
class Row:
    """A point of a list, and how Redoubt compares with it."""

    point: str
    state: str
    tests: str
    notes: str

    @property
    def problems(self) -> list[str]:
        """Return what is wrong with the row."""
        problems = [problem(reference) for reference in re.findall(REFERENCE, self.tests)]
        if self.state not in PROVEN | UNPROVEN:
            problems.append(f"{self.state!r} is not a state")
        if self.state in PROVEN and not re.fullmatch(rf"{REFERENCE}(?:, {REFERENCE})*", self.tests):
            problems.append(f"{self.state}, but no test proves it: {self.tests}")
        if self.state in UNPROVEN and self.tests:
            problems.append(f"{self.state}, but it names tests")
        if self.state != "covered" and not self.notes:
            problems.append(f"{self.state}, but the notes do not say why")
        return [f"{self.point}: {text}" for text in problems if text]


def rows(text: str) -> list[Row]:
    """Return the rows of the page's tables."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [Row(row[0], *row[2:]) for row in cells if re.fullmatch(r"5\.\d+|RD6X-00-\d{6}", row[0])]


def test_every_row_is_proven_or_gives_a_reason() -> None:
    problems = [text for row in rows(PAGE.read_text()) for text in row.problems]
    assert not problems, "\n".join(problems)


def test_page_has_every_point_once() -> None:
    points = [row.point for row in rows(PAGE.read_text())]
    assert [point for point in points if point.startswith("5.")] == [f"5.{number}" for number in range(1, 32)]
    guide = [point for point in points if point.startswith("RD6X")]
    assert len(guide) == len(set(guide)) == STIG_POINTS


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("| 5.1 | it | covered | `tests/unit/test_audit.py::test_failure_summary_is_short` | |", []),
        ("| 5.1 | it | covered | | |", ["5.1: covered, but no test proves it: "]),
        ("| 5.1 | it | covered | by hand | |", ["5.1: covered, but no test proves it: by hand"]),
        ("| 5.1 | it | partly | `tests/unit/test_audit.py` | |", ["5.1: partly, but the notes do not say why"]),
        ("| 5.1 | it | missing | | |", ["5.1: missing, but the notes do not say why"]),
        ("| 5.1 | it | host | `tests/unit/test_audit.py` | why |", ["5.1: host, but it names tests"]),
        ("| 5.1 | it | green | | why |", ["5.1: 'green' is not a state"]),
        (
            "| 5.1 | it | covered | `tests/unit/test_audit.py::test_nothing` | |",
            ["5.1: tests/unit/test_audit.py::test_nothing: there is no such test"],
        ),
    ],
)
def test_row_without_proof_is_reported(row: str, expected: list[str]) -> None:
    (parsed,) = rows(row)
    assert parsed.problems == expected
