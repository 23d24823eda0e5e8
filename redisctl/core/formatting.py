"""Sizes and times: parsed, and as people read them."""

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


_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def size(count: float) -> str:
    """Bytes, in the unit that leaves a short number: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def ago(seconds: float) -> str:
    """A time in its two largest units: ``3 d 4 h``."""
    left = int(seconds)
    parts: list[str] = []
    for length, unit in _UNITS:
        if left >= length or (unit == "s" and not parts):
            parts.append(f"{left // length} {unit}")
            left %= length
    return " ".join(parts[:2])


def took(seconds: float) -> str:
    """A short time, in the unit that leaves a short number: ``35.0 ms``."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 1000:
            return f"{seconds * factor:.0f} µs" if unit == "µs" else f"{seconds * factor:.1f} ms"
    return f"{seconds:.1f} s"


def words(data: bytes) -> str:
    """What somebody stored, as text that cannot move a terminal's cursor: ``caf\\xe9``."""
    text = data.decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
