"""Sizes and times as people read them."""

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
