"""Times on the command line: ``90``, ``90s``, ``10min``, ``2h``, ``7d``."""

import re
from typing import Any

import click

_SECONDS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType[int]):
    """Seconds, from a number with a unit."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Of a value that is not one, say how it is written."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+) ?(s|min|h|d|)", value)
        if not found:
            self.fail(f"{value!r} is no time such as 90s, 10min, 2h or 7d", param, ctx)
        return int(found[1]) * _SECONDS[found[2]]


DURATION = Duration()
