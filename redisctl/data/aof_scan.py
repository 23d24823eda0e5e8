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

from redisctl.core.contents import key_prefixes
from redisctl.core.formatting import words

# Bytes to scan, and arguments to parse, of all files: some ten seconds of one core. Anything beyond is reported as a
# number of bytes. They are read, and not mapped: if Redis truncates a mapped file, the kernel kills the process that
# reads it. After damage commands may be nested in others, so that a byte is parsed many times.
SCAN_LIMIT, PARSE_LIMIT = 128 * 1024**2, 5_000_000
# Bytes that are read at once from the end of a file, and more than a timestamp takes.
_BLOCK, _OVERLAP = 1024**2, 64
# More or longer arguments are treated as damage.
_MAX_ARGUMENTS, _MAX_LENGTH = 1024**2, 512 * 1024**2
_TIMESTAMP = re.compile(rb"(?:^|\n)#TS:(\d{1,12})\r\n")
# All arguments of these are keys, or every other one. Of other commands with keys it is the first argument.
_ALL_KEYS, _PAIRS = {b"DEL", b"UNLINK", b"TOUCH"}, {b"MSET", b"MSETNX"}
_NO_KEY = {b"SELECT", b"MULTI", b"EXEC", b"FLUSHALL", b"FLUSHDB", b"PUBLISH", b"SPUBLISH", b"SWAPDB", b"SCRIPT"}


@dataclass
class Budget:
    """The bytes and arguments that may still be read."""

    size: int = field(default_factory=lambda: SCAN_LIMIT)
    arguments: int = field(default_factory=lambda: PARSE_LIMIT)


@dataclass
class Losses:
    """Commands by name and keys by kind.

    ``first`` and ``last`` are when they were written, if that is known. ``size`` is in bytes. Of these, ``unclear``
    belong to no command and ``unseen`` were not scanned, because ``budget`` was spent.
    """

    size: int = 0
    unclear: int = 0
    unseen: int = 0
    commands: Counter[str] = field(default_factory=Counter)
    keys: dict[str, set[bytes]] = field(default_factory=dict)
    first: float | None = None
    last: float | None = None
    budget: Budget = field(default_factory=Budget)

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
    data = file.read(min(size - start, losses.budget.size))
    losses.budget.size -= len(data)
    losses.unseen += size - start - len(data)
    position = 0
    for command_start, command_end, arguments in commands(data, losses.budget):
        losses.unclear += command_start - position
        position = command_end
        _add(losses, arguments, session_keys)
    if losses.budget.arguments > 0:
        losses.unclear += len(data) - position
    else:
        losses.unseen += len(data) - position
    for match in _TIMESTAMP.finditer(data):
        losses.last = float(match[1])
        losses.first = losses.last if losses.first is None else losses.first


def is_torn(file: BinaryIO, start: int) -> bool:
    """Say whether an AOF file ends inside its last command or transaction.

    That begins at byte ``start``. Otherwise something is damaged, and complete commands follow.
    """
    size = os.fstat(file.fileno()).st_size
    if size - start > SCAN_LIMIT:
        return False
    file.seek(start)
    data, position, budget = file.read(size - start), 0, Budget()
    for command_start, command_end, arguments in commands(data, budget):
        in_transaction = position or arguments[0].upper() == b"MULTI"
        if command_start != position or not in_transaction or arguments[0].upper() == b"EXEC":
            return False
        position = command_end
    return budget.arguments > 0


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
    for name, prefix in key_prefixes(session_keys).items():
        if key.startswith(prefix):
            return name
    return "queues" if key.startswith(b"rq:") else "other"


def commands(data: bytes, budget: Budget) -> Iterator[tuple[int, int, list[bytes]]]:
    """Yield the complete commands until the budget is spent.

    Yields where each begins and ends, and its arguments.
    """
    position, end = 0, len(data)
    while position < end and budget.arguments > 0:
        command = _command(data, position, budget)
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


def _command(data: bytes, position: int, budget: Budget) -> tuple[int, list[bytes]] | None:
    budget.arguments -= 1
    end = len(data)
    header = _number(data, position, end, b"*", _MAX_ARGUMENTS)
    if not header or not header[1]:
        return None
    position, argument_count = header
    # Copied when the command is complete: a byte that is parsed again is not copied again.
    places = []
    for _ in range(argument_count):
        budget.arguments -= 1
        length = _number(data, position, end, b"$", _MAX_LENGTH)
        if not length or budget.arguments <= 0:
            return None
        position = length[0] + length[1] + 2
        if position > end or data[position - 2 : position] != b"\r\n":
            return None
        places.append((length[0], position - 2))
    return position, [data[start:stop] for start, stop in places]


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
