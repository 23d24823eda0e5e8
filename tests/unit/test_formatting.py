"""Sizes and times as people read them."""

import pytest

from redisctl.core.formatting import ago, size

GIB = 1024**3


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (GIB, "1.0 GiB"), (5e12, "4.5 TiB")]
)
def test_sizes_are_short(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h"), (90061, "1 d 1 h")]
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert ago(seconds) == text
