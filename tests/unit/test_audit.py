"""The security report: only tests that ran and passed prove a control.

The docs have the same promises.
"""

from pathlib import Path

import pytest

from tests.host.controls import CONTROLS, Check, Control, Verdict, verdict

DOCS = Path(__file__).resolve().parents[2] / "docs" / "audit.md"
CONTROL = Control("A promise.")


def checks(*outcomes: str) -> list[Check]:
    return [Check("network", "redis-1", f"test_{outcome}", outcome, "", outcome) for outcome in outcomes]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (["passed"], Verdict("proven", "proven by 1 test")),
        (["passed", "passed", "left out"], Verdict("proven", "proven by 2 tests, 1 left out")),
        (["passed", "failed", "not run"], Verdict("failed", "FAILED: 1 of 2 tests")),
        (["left out"], Verdict("left out", "left out: 1 test", "all of its tests are left out, see below")),
        ([], Verdict("not proven", "not proven", "no test of it was collected")),
        (
            ["passed", "not selected"],
            Verdict("not proven", "not proven (1 passed)", "of its tests, 1 not selected"),
        ),
        (
            ["skipped", "not run", "left out"],
            Verdict("not proven", "not proven", "of its tests, 1 not run, 1 skipped"),
        ),
    ],
)
def test_only_passed_tests_prove_a_control(outcomes: list[str], expected: Verdict) -> None:
    assert verdict(CONTROL, checks(*outcomes)) == expected


def test_control_that_lacks_a_part_is_never_proven() -> None:
    incomplete = Control("A promise.", lacks="half of it is not tested.")
    assert verdict(incomplete, checks("passed")) == Verdict("not proven", "not proven (1 passed)", incomplete.lacks)
    assert verdict(incomplete, checks("passed", "failed")).state == "failed"


def test_failure_summary_is_short() -> None:
    text = ">   assert 1 == 2\nE   AssertionError: no\nE   second\nE   third\nE   fourth\n\nfile.py:3: AssertionError"
    (check,) = checks("failed")
    check.reason = text
    assert check.summary == "AssertionError: no\nsecond\nthird"
    check.reason = "something broke\nat last"
    assert check.summary == "at last"


def test_docs_have_every_control_with_its_promise() -> None:
    rows = [line.split(" | ") for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    documented = {row[0].removeprefix("| "): row[1] for row in rows}
    assert {name: documented.get(name) for name in CONTROLS} == {
        name: control.promise for name, control in CONTROLS.items()
    }
