"""The security report: nothing counts as proven but what ran and passed, and the docs promise what the table does."""

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
        (["left out"], Verdict("left out", "left out: 1 test", "all of its tests are left out, see there")),
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
def test_a_control_is_proven_by_what_ran_and_passed_alone(outcomes: list[str], expected: Verdict) -> None:
    assert verdict(CONTROL, checks(*outcomes)) == expected


def test_a_control_that_lacks_something_is_not_proven_by_tests_of_the_rest() -> None:
    lacking = Control("A promise.", lacks="half of it is not tested.")
    assert verdict(lacking, checks("passed")) == Verdict("not proven", "not proven (1 passed)", lacking.lacks)
    assert verdict(lacking, checks("passed", "failed")).state == "failed"


def test_a_failure_is_told_in_few_words() -> None:
    text = ">   assert 1 == 2\nE   AssertionError: no\nE   second\nE   third\nE   fourth\n\nfile.py:3: AssertionError"
    (check,) = checks("failed")
    check.why = text
    assert check.complaint == "AssertionError: no\nsecond\nthird"
    check.why = "something broke\nat last"
    assert check.complaint == "at last"


def test_the_docs_have_every_control_with_its_promise() -> None:
    rows = [line.split(" | ") for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    documented = {row[0].removeprefix("| "): row[1] for row in rows}
    assert {name: documented.get(name) for name in CONTROLS} == {name: it.promise for name, it in CONTROLS.items()}
