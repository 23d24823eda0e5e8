"""The language of the repository: plain words and short test names.

CONTRIBUTING.md has the rules.
"""

import ast
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Phrases that need a second reading, and words for which the field has a standard term.
UNCLEAR = re.compile(
    r"\b(told|anew|broken off|cut off|called off|go(?:es)? on with|gone on with|lets? go of|in words|as wanted|way back"
    r"|log of writes|set aside|kept aside|comes? to its end|came to its end|stands? in the way|for want of|nobody"
    r"|whoever)\b",
    re.IGNORECASE,
)
# Python, where a list has the name `words`: "for word in words", "assert option in words".
CODE = re.compile(r"\b(?:for|assert) \w+ in words\b")
MAX_TEST_NAME = 60
MAX_DOCSTRING_LINE = 79


# What is not part of the repository, as .gitignore says.
IGNORED = {
    ".git",
    ".sandbox",
    ".venv",
    "__pycache__",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    "audit",
    "secrets",
}


def _files(*suffixes: str) -> list[Path]:
    """Return the repository's files with these endings.

    This also works where it is not a git checkout.
    """
    paths = []
    for directory, directories, names in os.walk(ROOT):
        directories[:] = sorted(set(directories) - IGNORED)
        paths += [Path(directory, name) for name in sorted(names) if name.endswith(suffixes)]
    return paths


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def unclear_lines(text: str) -> list[str]:
    """Return the lines with unclear words, with their numbers.

    Names of code count as well.
    """
    lines = enumerate(text.splitlines(), 1)
    return [
        f"{number}: {line.strip()}" for number, line in lines if UNCLEAR.search(CODE.sub("", line).replace("_", " "))
    ]


@pytest.mark.parametrize("path", _files(".py", ".sh", ".md", ".j2", ".in", "Makefile"), ids=_relative)
def test_file_uses_plain_words(path: Path) -> None:
    """This file is left out because it contains the words."""
    lines = [] if path == Path(__file__) else unclear_lines(path.read_text())
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# The host is told.", ["1: # The host is told."]),
        ("x = 1\n    told = 2", ["2: told = 2"]),
        ("def test_memory_is_told() -> None:", ["1: def test_memory_is_told() -> None:"]),
        ("# It fails in words.", ["1: # It fails in words."]),
        ("rules = [word for word in words]", []),
        ("# He hands out an untold number.", []),
    ],
)
def test_unclear_words_are_found(text: str, expected: list[str]) -> None:
    assert unclear_lines(text) == expected


@pytest.mark.parametrize("path", [path for path in _files(".py") if "tests" in path.parts], ids=_relative)
def test_test_names_are_short(path: Path) -> None:
    """The full sentence belongs in the docstring."""
    names = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    assert not [name for name in names if name.startswith("test_") and len(name) > MAX_TEST_NAME]


def long_first_lines(source: str) -> list[str]:
    """Return the first lines of docstrings that are too long, with their numbers.

    The length is that of the text, without quotes and indentation.
    """
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            first_line = (ast.get_docstring(node) or "").partition("\n")[0]
            if len(first_line) > MAX_DOCSTRING_LINE:
                lines.append(f"{node.body[0].lineno}: {first_line}")
    return lines


@pytest.mark.parametrize("path", _files(".py"), ids=_relative)
def test_docstrings_have_short_first_lines(path: Path) -> None:
    """Arguments, units, errors and changes of the host follow after an empty line."""
    lines = long_first_lines(path.read_text())
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (f'"""{"a" * 79}"""', []),
        (f'"""{"a" * 80}"""', [f"1: {'a' * 80}"]),
        (f'"""{"a" * 79}\n\n{"a" * 80}\n"""', []),
        (f'class A:\n    def f(self):\n        """{"a" * 80}"""', [f"3: {'a' * 80}"]),
        (f'async def f():\n    """{"a" * 80}\n\n    More.\n    """', [f"2: {'a' * 80}"]),
        (f'x = """{"a" * 80}"""', []),
    ],
)
def test_long_first_lines_are_found(source: str, expected: list[str]) -> None:
    assert long_first_lines(source) == expected
