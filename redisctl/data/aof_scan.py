"""Counts of the commands and keys in part of an AOF file, even if it is damaged.

The file is only read. Redis stops at the first byte that is not part of a command. After it there are usually complete
commands again. They are counted, so that a repair can say what would be lost.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from redisctl.core.formatting import words

# Bytes to scan: some ten seconds of one core. Anything beyond is reported as a number of bytes. They are read, and not
# mapped: if Redis truncates a mapped file, the kernel kills the process that reads it.
SCAN_LIMIT = 128 * 1024**2
# Bytes that are read at once from the end of a file, and more than a timestamp takes.
_BLOCK, _OVERLAP = 1024**2, 64
# More or longer arguments are treated as damage.
_MAX_ARGUMENTS, _MAX_LENGTH = 1024**2, 512 * 1024**2
_TIMESTAMP = re.compile(rb"(?:^|\n)#TS:(\d{1,12})\r\n")
# All arguments of these are keys, or every other one. Of other commands with keys it is the first argument.
_ALL_KEYS, _PAIRS = {b"DEL", b"UNLINK", b"TOUCH"}, {b"MSET", b"MSETNX"}
_NO_KEY = {b"SELECT", b"MULTI", b"EXEC", b"FLUSHALL", b"FLUSHDB", b"PUBLISH", b"SPUBLISH", b"SWAPDB", b"SCRIPT"}


@dataclass
class Losses:
    """Commands by name and keys by kind.

    ``first`` and ``last`` are when they were written, if that is known. ``size`` is in bytes. Of these, ``unclear``
    belong to no command and ``unseen`` were not scanned.
    """

    size: int = 0
    unclear: int = 0
    unseen: int = 0
    commands: Counter[str] = field(default_factory=Counter)
    keys: dict[str, set[bytes]] = field(default_factory=dict)
    first: float | None = None
    last: float | None = None

    def as_dict(self, *, names: bool) -> dict[str, Any]:
        """Return it for JSON: the number of keys, and with ``names`` the keys themselves."""
        values: dict[str, Any] = {
            "size": self.size,
            "unclear": self.unclear,
            "unseen": self.unseen,
            "commands": dict(self.commands.most_common()),
            "keys": {kind: len(keys) for kind, keys in sorted(self.keys.items())},
            "written": None if self.first is None else {"from": self.first, "to": self.last},
        }
        if names:
            values["names"] = sorted(words(key) for keys in self.keys.values() for key in keys)
        return values


def count(losses: Losses, file: BinaryIO, start: int, session_keys: str) -> None:
    """Add what an AOF file contains from byte ``start`` on."""
    size = os.fstat(file.fileno()).st_size
    losses.size += size - start
    if size <= start:
        return
    file.seek(start)
    data = file.read(min(size - start, SCAN_LIMIT))
    losses.unseen += size - start - len(data)
    position = 0
    for command_start, command_end, arguments in commands(data, 0, len(data)):
        losses.unclear += command_start - position
        position = command_end
        _add(losses, arguments, session_keys)
    losses.unclear += len(data) - position
    times = [int(match[1]) for match in _TIMESTAMP.finditer(data)]
    for at in times[:1] + times[-1:]:
        losses.first = float(at) if losses.first is None else losses.first
        losses.last = float(at)


def last_timestamp(file: BinaryIO, end: int) -> float | None:
    """Return when the last command before byte ``end`` was written.

    Returns None if the AOF has no times.
    """
    position = end
    while position > 0:
        start = max(0, position - _BLOCK)
        file.seek(start)
        data = file.read(min(end, position + _OVERLAP) - start)
        # Only the beginning of the file is the beginning of a line without a line before it.
        matches = list(_TIMESTAMP.finditer(data, 1 if start else 0))
        if matches:
            return float(matches[-1][1])
        position = start
    return None


def _add(losses: Losses, arguments: list[bytes], session_keys: str) -> None:
    name = arguments[0].upper()
    losses.commands[name.decode(errors="backslashreplace")] += 1
    if name in _NO_KEY:
        return
    keys = arguments[1:] if name in _ALL_KEYS else arguments[1::2] if name in _PAIRS else arguments[1:2]
    for key in keys:
        losses.keys.setdefault(kind(key, session_keys), set()).add(key)


def kind(key: bytes, session_keys: str) -> str:
    """Return the kind of a key: sessions, jobs, queues or other.

    ``session_keys`` is a pattern that ends in a star.
    """
    if key.startswith(session_keys.rstrip("*").replace("\\", "").encode()):
        return "sessions"
    if key.startswith(b"rq:job:"):
        return "jobs"
    return "queues" if key.startswith(b"rq:") else "other"


def commands(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, list[bytes]]]:
    """Yield the complete commands between two offsets.

    Yields where each begins and ends, and its arguments.
    """
    position = start
    while position < end:
        command = _command(data, position, end)
        if command:
            yield position, *command
            position = command[0]
            continue
        if data[position : position + 1] == b"#" and (line := data.find(b"\n", position, end)) >= 0:
            # An annotation of Redis, such as a timestamp.
            position = line + 1
            continue
        # The next command can begin at a star at the beginning of a line.
        line = data.find(b"\n*", position, end)
        position = line + 1 if line >= 0 else end


def _command(data: bytes, position: int, end: int) -> tuple[int, list[bytes]] | None:
    header = _number(data, position, end, b"*", _MAX_ARGUMENTS)
    if not header or not header[1]:
        return None
    position, argument_count = header
    arguments = []
    for _ in range(argument_count):
        length = _number(data, position, end, b"$", _MAX_LENGTH)
        if not length:
            return None
        position = length[0] + length[1] + 2
        if position > end or data[position - 2 : position] != b"\r\n":
            return None
        arguments.append(bytes(data[length[0] : position - 2]))
    return position, arguments


def _number(data: bytes, position: int, end: int, mark: bytes, maximum: int) -> tuple[int, int] | None:
    """Parse a line of a mark and a number.

    Returns the offset of the next line, and the number.
    """
    if data[position : position + 1] != mark:
        return None
    line = data.find(b"\r\n", position, min(end, position + 24))
    text = bytes(data[position + 1 : line]) if line >= 0 else b""
    if not text.isdigit() or int(text) > maximum:
        return None
    return line + 2, int(text)
