"""The databases in INFO."""

import re
from typing import Any


def keyspace(info: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the databases in INFO, with their counts, by name: ``db0``."""
    return {name: value for name, value in info.items() if re.fullmatch(r"db\d+", name)}
