"""What a part of a log of writes holds, damaged as it is: commands and keys, counted. Pure but for reading the file.

Redis stops at the first byte that fits no command. Behind it there are whole commands again, mostly: they are looked
for, so that a repair says what it would cut off.
"""

import mmap
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Bytes that are looked at: some ten seconds of one core. What is beyond is told as bytes alone.
LOOKED_AT = 128 * 1024**2
# More arguments or longer ones are taken for damage.
_ARGUMENTS, _LENGTH = 1024**2, 512 * 1024**2
_STAMP = re.compile(rb"(?:^|\n)#TS:(\d{1,12})\r\n")
# Of these every argument is a key, or every other one; the first argument is one of all others that have any.
_ALL_KEYS, _PAIRS = {b"DEL", b"UNLINK", b"TOUCH"}, {b"MSET", b"MSETNX"}
_NO_KEY = {b"SELECT", b"MULTI", b"EXEC", b"FLUSHALL", b"FLUSHDB", b"PUBLISH", b"SPUBLISH", b"SWAPDB", b"SCRIPT"}


@dataclass
class Losses:
    """Commands by name and keys by kind. ``first`` and ``last`` are when they were written, where the log says that.

    ``size`` is bytes in all, ``unclear`` those of which nothing can be made, ``unseen`` those that were not looked at.
    ``keys`` has the keys themselves.
    """

    size: int = 0
    unclear: int = 0
    unseen: int = 0
    commands: Counter[str] = field(default_factory=Counter)
    keys: dict[str, set[bytes]] = field(default_factory=dict)
    first: float | None = None
    last: float | None = None

    def as_dict(self, *, names: bool) -> dict[str, Any]:
        """For JSON: keys as numbers, with their names where these are wanted."""
        told: dict[str, Any] = {
            "size": self.size,
            "unclear": self.unclear,
            "unseen": self.unseen,
            "commands": dict(self.commands.most_common()),
            "keys": {kind: len(keys) for kind, keys in sorted(self.keys.items())},
            "written": None if self.first is None else {"from": self.first, "to": self.last},
        }
        if names:
            told["names"] = sorted(key.decode(errors="backslashreplace") for keys in self.keys.values() for key in keys)
        return told


def count(losses: Losses, path: Path, start: int, session_keys: str) -> None:
    """Add what a file of a log holds from ``start`` on."""
    size = path.stat().st_size
    losses.size += size - start
    if size <= start:
        return
    end = min(size, start + LOOKED_AT)
    losses.unseen += size - end
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = start
        for begins, ends, words in commands(data, start, end):
            losses.unclear += begins - place
            place = ends
            _add(losses, words, session_keys)
        losses.unclear += end - place
        stamps = [int(found[1]) for found in _STAMP.finditer(data, start, end)]
    for stamp in stamps[:1] + stamps[-1:]:
        losses.first = float(stamp) if losses.first is None else losses.first
        losses.last = float(stamp)


def last_timestamp(path: Path, end: int) -> float | None:
    """When the last of what a file holds before ``end`` was written; None where the log does not say."""
    if not end or not path.stat().st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = end
        while (place := data.rfind(b"#TS:", 0, place)) >= 0:
            found = _STAMP.match(data, max(0, place - 1), end)
            if found:
                return float(found[1])
    return None


def _add(losses: Losses, words: list[bytes], session_keys: str) -> None:
    name = words[0].upper()
    losses.commands[name.decode(errors="backslashreplace")] += 1
    if name in _NO_KEY:
        return
    keys = words[1:] if name in _ALL_KEYS else words[1::2] if name in _PAIRS else words[1:2]
    for key in keys:
        losses.keys.setdefault(kind(key, session_keys), set()).add(key)


def kind(key: bytes, session_keys: str) -> str:
    """Whose key it is. ``session_keys`` is a pattern that ends in a star."""
    if key.startswith(session_keys.rstrip("*").replace("\\", "").encode()):
        return "sessions"
    if key.startswith(b"rq:job:"):
        return "jobs"
    return "queues" if key.startswith(b"rq:") else "other"


def commands(data: Any, start: int, end: int) -> Iterator[tuple[int, int, list[bytes]]]:
    """Whole commands between two places, wherever they stand: where each begins and ends, and its words."""
    place = start
    while place < end:
        found = _command(data, place, end)
        if found:
            yield place, *found
            place = found[0]
            continue
        if data[place : place + 1] == b"#" and (line := data.find(b"\n", place, end)) >= 0:
            # A note of Redis's own, such as the time.
            place = line + 1
            continue
        # A star behind the end of a line begins the next command, where it is one.
        line = data.find(b"\n*", place, end)
        place = line + 1 if line >= 0 else end


def _command(data: Any, place: int, end: int) -> tuple[int, list[bytes]] | None:
    number = _number(data, place, end, b"*", _ARGUMENTS)
    if not number or not number[1]:
        return None
    place, wanted = number
    words = []
    for _ in range(wanted):
        length = _number(data, place, end, b"$", _LENGTH)
        if not length:
            return None
        place = length[0] + length[1] + 2
        if place > end or data[place - 2 : place] != b"\r\n":
            return None
        words.append(bytes(data[length[0] : place - 2]))
    return place, words


def _number(data: Any, place: int, end: int, mark: bytes, most: int) -> tuple[int, int] | None:
    """A line of a mark and a number: where the next begins, and the number."""
    if data[place : place + 1] != mark:
        return None
    line = data.find(b"\r\n", place, min(end, place + 24))
    text = bytes(data[place + 1 : line]) if line >= 0 else b""
    if not text.isdigit() or int(text) > most:
        return None
    return line + 2, int(text)
