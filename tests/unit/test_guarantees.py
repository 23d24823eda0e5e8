"""docs/guarantees.md maps each promise to existing tests, and misses no module."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guarantees.md"
OTHER_PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted({*(ROOT / "docs").glob("*.md")} - {PAGE})]
# A row's second column: `tests/unit/test_x.py` or `tests/unit/test_x.py::test_y`, separated by commas.
REFERENCE = r"`(tests/\w+/test_\w+\.py(?:::\w+)*)`"
# How prose names a test module: tests/unit/test_x.py, or unit/test_x.
MENTION = re.compile(r"\b(?:unit|redisctl|host|lifecycle|apps|smoke)/test_\w+")


def promises(text: str) -> dict[str, list[str]]:
    """Return the references of each promise.

    Raises ValueError if a row is not of the expected form.
    """
    rows: dict[str, list[str]] = {}
    in_table = False
    for line in text.splitlines():
        if not line.startswith("|"):
            in_table = False
        elif line == "| Promise | Tests |":
            in_table = True
        elif in_table and not line.startswith("|---"):
            row = re.fullmatch(rf"\| (.+) \| ({REFERENCE}(?:, {REFERENCE})*) \|", line)
            if not row:
                raise ValueError(f"not '| promise | `tests/...`, `tests/...` |': {line}")
            if row[1] in rows:
                raise ValueError(f"this promise is there twice: {row[1]}")
            rows[row[1]] = re.findall(REFERENCE, row[2])
    return rows


def problem(reference: str) -> str:
    """Say why a reference leads nowhere; empty if the test exists."""
    module, _, test = reference.partition("::")
    if not (ROOT / module).is_file():
        return f"{reference}: there is no such file"
    return f"{reference}: there is no such test" if test and test not in names_in(ROOT / module) else ""


@cache
def names_in(module: Path) -> frozenset[str]:
    """Return the names of a module's tests.

    Those of a class are TestClass and TestClass::test_name.
    """
    return frozenset(_tests(ast.parse(module.read_text()).body, ""))


def _tests(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield f"{prefix}{node.name}"
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield f"{prefix}{node.name}"
            yield from _tests(node.body, f"{prefix}{node.name}::")


def test_referenced_tests_exist() -> None:
    references = {reference for row in promises(PAGE.read_text()).values() for reference in row}
    problems = [problem(reference) for reference in sorted(references) if problem(reference)]
    assert references
    assert not problems, "\n".join(problems)


def test_every_test_module_proves_a_promise() -> None:
    rows = promises(PAGE.read_text()).values()
    referenced = {reference.partition("::")[0] for row in rows for reference in row}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    missing = sorted(modules - referenced)
    assert not missing, "\n".join([f"no row of {PAGE.name} names these:", *missing])


@pytest.mark.parametrize("page", OTHER_PAGES, ids=lambda page: page.name)
def test_test_modules_named_in_docs_exist(page: Path) -> None:
    mentions = set(MENTION.findall(page.read_text()))
    missing = sorted(name for name in mentions if not (ROOT / "tests" / f"{name}.py").is_file())
    assert not missing, "\n".join([f"{page.name} names test modules that do not exist:", *missing])


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("tests/unit/test_guarantees.py", ""),
        ("tests/unit/test_guarantees.py::test_missing_tests_are_reported", ""),
        ("tests/unit/test_guarantees.py::test_nothing", "there is no such test"),
        ("tests/unit/test_nothing.py", "there is no such file"),
    ],
)
def test_missing_tests_are_reported(reference: str, expected: str) -> None:
    assert problem(reference).endswith(expected)
    assert bool(problem(reference)) == bool(expected)


@pytest.mark.parametrize(
    "row",
    [
        "| A promise. | |",
        "| A promise. | by hand |",
        "| A promise. | `tests/unit/test_x.py` and others |",
        "| A promise. | tests/unit/test_x.py |",
    ],
)
def test_promise_without_tests_is_refused(row: str) -> None:
    with pytest.raises(ValueError, match=r"A promise\."):
        promises(f"| Promise | Tests |\n|---|---|\n{row}\n")
