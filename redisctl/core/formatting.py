"""Sizes and times: parsed, and as people read them."""

import re
from datetime import datetime, timezone

_SECONDS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400}
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def parse_duration(text: str) -> int:
    """Return the seconds of a time such as ``90s``, ``10min`` or ``7d``.

    Raises ValueError.
    """
    match = re.fullmatch(r"(\d+) ?(s|min|h|d|)", text)
    if not match:
        raise ValueError(f"{text!r} is not a time: write 90s, 10min, 2h or 7d")
    return int(match[1]) * _SECONDS[match[2]]


def utc(at: float) -> str:
    """Return a time in UTC. Redis may have answered any number of seconds."""
    try:
        return f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return "an impossible time"


def size(count: float) -> str:
    """Return bytes in the unit that gives a short number: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def ago(seconds: float) -> str:
    """Return a time in its two largest units: ``3 d 4 h``."""
    rest = int(seconds)
    parts: list[str] = []
    for length, unit in _UNITS:
        if rest >= length or (unit == "s" and not parts):
            parts.append(f"{rest // length} {unit}")
            rest %= length
    return " ".join(parts[:2])


def took(seconds: float) -> str:
    """Return a short time in the unit that gives a short number: ``35.0 ms``."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 1000:
            return f"{seconds * factor:.0f} µs" if unit == "µs" else f"{seconds * factor:.1f} ms"
    return f"{seconds:.1f} s"


def printable(text: str) -> str:
    """Replace characters that could control a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def printable_lines(text: str) -> str:
    """Replace characters that could control a terminal, and keep the lines."""
    return "\n".join(map(printable, text.split("\n")))


def words(data: bytes) -> str:
    """Return bytes from Redis as text that cannot control a terminal: ``caf\\xe9``."""
    text = data.decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
