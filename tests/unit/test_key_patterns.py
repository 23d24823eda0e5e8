"""Patterns of keys are compared by what they match."""

import time
from fnmatch import fnmatchcase
from itertools import product

import pytest

from redoubt.key_patterns import contains, overlaps, wildcards
from redoubt.settings.types import MAX_WILDCARDS

KEYS = ["".join(letters) for length in range(6) for letters in product("ab:", repeat=length)]
PATTERNS = ["*", "", "a*", "*a", "a?b", "?", "??*", "[ab]*", "[a]:*", "a:*b", "*:*", "a:b", "[:-b]?", "*a*b*", "**a"]


@pytest.mark.parametrize("one", PATTERNS)
@pytest.mark.parametrize("other", PATTERNS)
def test_comparison_is_that_of_all_short_keys(one: str, other: str) -> None:
    """Every key of up to five letters, matched by Python."""
    first, second = ([key for key in KEYS if fnmatchcase(key, pattern)] for pattern in (one, other))
    if set(first) & set(second):
        assert overlaps(one, other)
    else:
        assert not overlaps(one, other)
    if not set(second) <= set(first):
        assert not contains(one, other)
    if contains(one, other):
        assert set(second) <= set(first)


@pytest.mark.parametrize(
    ("pattern", "keys", "does_overlap"),
    [
        ("*", "rq:*", True),
        ("*:session:*", "app:session:*", True),
        ("[a-z]*", "rq:*", True),
        ("??:queue:*", "rq:*", True),
        ("[^q]*", "rq:*", True),
        ("[^r]*", "rq:*", False),
        ("[z-a]q:x", "rq:*", True),
        ("[r", "r", True),
        ("[]r", "rq:*", False),
        ("shop:*", "rq:*", False),
        ("rq*", "rq:*", True),
        (r"r\q:1", "rq:*", True),
        (r"\*", "*", True),
        (r"\*", "a", False),
    ],
)
def test_classes_and_escapes_are_those_of_redis(pattern: str, keys: str, does_overlap: bool) -> None:
    assert overlaps(pattern, keys) == overlaps(keys, pattern) == does_overlap


@pytest.mark.parametrize(
    ("outer", "inner", "does_contain"),
    [
        ("rq:*", "rq:*", True),
        ("rq:*", "rq:queue:*", True),
        ("rq:*", "[r]q:?", True),
        ("rq:*", "rq*", False),
        ("*", "[^a]?x*", True),
        ("[a-c]*", "[ab]*", True),
        ("[^a]*", "[^ab]*", True),
        ("[^ab]*", "[^a]*", False),
        ("app:session:*", "*:session:*", False),
    ],
)
def test_pattern_inside_another_is_found(outer: str, inner: str, does_contain: bool) -> None:
    assert contains(outer, inner) == does_contain


@pytest.mark.parametrize("pattern", ["ab" * 5000, "[ab]" * 5000, "*a" * 500], ids=["letters", "classes", "stars"])
def test_long_patterns_are_compared(pattern: str) -> None:
    """Settings are checked before they are compared, but derived patterns are not."""
    assert overlaps(pattern, f"{pattern}*")
    assert not overlaps(f"{pattern}z", "c*y")


@pytest.mark.parametrize("pattern", ["*a" + "?" * 7 + "*", "*a" + "[ab]" * 8, "*a?*b?*c?*d?*"])
def test_most_wildcards_are_compared_quickly(pattern: str) -> None:
    """Each further wildcard may take twice as long, so the settings bound them."""
    assert wildcards(pattern) <= MAX_WILDCARDS < wildcards(f"{pattern}??????")
    started = time.process_time()
    for inner in ("*a*", "*?????????*", pattern):
        contains(pattern, inner)
    assert time.process_time() - started < 2
