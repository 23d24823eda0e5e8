"""What INFO says of databases."""

import re
from typing import Any


def keyspace(info: dict[str, Any]) -> dict[str, dict[str, int]]:
    """What INFO says of databases, by their names: ``db0``."""
    return {name: value for name, value in info.items() if re.fullmatch(r"db\d+", name)}
