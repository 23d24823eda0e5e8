"""The language of the repository: plain words and short test names.

CONTRIBUTING.md has the rules.
"""

import ast
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Phrases that need a second reading or for which the field has a standard term, with their replacements.
REPLACEMENTS = dict(
    line.split(": ", 1)
    for line in Path(__file__).with_name("plain_words.txt").read_text().splitlines()
    if not line.startswith("#")
)
UNCLEAR = re.compile(rf"\b({'|'.join(REPLACEMENTS)})\b", re.IGNORECASE)
MAX_TEST_NAME = 60
# Ways to logs that pass on what a Redis that was taken over wrote for the reader's terminal.
RAW_LOGS = re.compile(
    r"docker (compose )?logs\b|\b(tail|less|cat|grep|head)\s[^|`\n]*redis\.log|(see|in) logs/redis\.log"
)
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
    """Return the lines with unclear phrases: number, text and replacement.

    Names of code count as well.
    """
    return [
        f"{number}: {line.strip()} -> {REPLACEMENTS[match[1].lower()]}"
        for number, line in enumerate(text.splitlines(), 1)
        if (match := UNCLEAR.search(line.replace("_", " ")))
    ]


@pytest.mark.parametrize("path", _files(".py", ".sh", ".md", ".j2", ".in", "Makefile"), ids=_relative)
def test_file_uses_plain_words(path: Path) -> None:
    lines = unclear_lines(path.read_text())
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize("phrase", REPLACEMENTS)
def test_unclear_phrases_are_found(phrase: str) -> None:
    """In sentences and in names, but not as a part of another word."""
    name, replacement = phrase.replace(" ", "_"), REPLACEMENTS[phrase]
    sentence = f"# {phrase.capitalize()} in a sentence."
    assert unclear_lines(sentence) == [f"1: {sentence} -> {replacement}"]
    assert unclear_lines(f"x = 1\n    {name} = 2") == [f"2: {name} = 2 -> {replacement}"]
    assert unclear_lines(f"un{phrase}s") == []


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


def test_nothing_names_a_raw_way_to_logs() -> None:
    """Messages and documentation name redisctl log, which bounds and escapes."""
    paths = [path for path in _files(".md", ".py", ".sh", ".j2") if not _relative(path).startswith("tests/")]
    raw = {f"{_relative(path)}: {match[0]}" for path in paths for match in RAW_LOGS.finditer(path.read_text())}
    assert raw == set()
    for line in ("docker logs --tail 9 redis", "tail -f logs/redis.log", "docker compose logs", "see logs/redis.log"):
        assert RAW_LOGS.search(line)
