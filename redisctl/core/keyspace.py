"""The databases in INFO."""

import re
from typing import Any

from redisctl.core.answers import ImplausibleAnswer, is_number


def keyspace(info: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the databases in INFO, with their counts, by name: ``db0``.

    Raises ImplausibleAnswer.
    """
    databases = {name: value for name, value in info.items() if re.fullmatch(r"db\d{1,9}", name)}
    for name, counts in databases.items():
        if not isinstance(counts, dict) or not all(is_number(counts.get(count)) for count in ("keys", "expires")):
            raise ImplausibleAnswer(f"INFO has no valid {name}")
    return databases
