"""After a power cut the smoke run requires the writes that the settings promise.

It requires no others.
"""

from typing import Any

import pytest

from redoubt.settings.load import load
from tests.smoke.durability import required_writes, unflushed_seconds


@pytest.mark.parametrize(
    ("settings", "seconds", "writes"),
    [
        ({}, 3, 2),
        ({"redis_appendfsync": "always"}, 0, 4),
        ({"redis_appendfsync": "no"}, None, 0),
        ({"redis_appendonly": False}, None, 0),
        ({"redis_appendonly": False, "redis_appendfsync": "always"}, None, 0),
    ],
)
def test_required_writes_follow_from_the_settings(settings: dict[str, Any], seconds: float | None, writes: int) -> None:
    assert unflushed_seconds(load(settings)) == seconds
    # The last write was not acknowledged before the cut.
    assert required_writes(load(settings), [90, 96.9, 97.1, 99.9, 100.1], 100) == writes
