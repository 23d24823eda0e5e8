"""The log of writes as Redis keeps it since version 7: a base, what was written since, and a manifest that names both.

Pure. A line of a manifest is ``file NAME seq NUMBER type LETTER``: b is the base, i is written since, h is history,
which Redis is about to remove.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from redisctl.core.errors import Failure

DIRECTORY = "appendonlydir"
MANIFEST = "appendonly.aof.manifest"
BASE, INCREMENT = "b", "i"


class ManifestError(ValueError):
    """A manifest that is none."""


@dataclass(frozen=True)
class Part:
    """One file of the log."""

    name: str
    seq: int
    type: str

    def __str__(self) -> str:
        return f"file {self.name} seq {self.seq} type {self.type}"


def parse(text: str) -> list[Part]:
    """The parts that hold data, in the order in which Redis loads them. Raises ManifestError."""
    parts = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        # Later versions may add further pairs.
        words = shlex.split(line)
        fields = dict(zip(words[::2], words[1::2], strict=False))
        name, seq, kind = fields.get("file", ""), fields.get("seq", ""), fields.get("type", "")
        if not re.fullmatch(r"[^/\s]+", name) or not seq.isdigit() or kind not in ("b", "i", "h"):
            raise ManifestError(f"{line!r} is no line of a manifest")
        parts.append(Part(name, int(seq), kind))
    parts = [part for part in parts if part.type != "h"]
    if not parts or sum(part.type == BASE for part in parts) > 1:
        raise ManifestError("the manifest names no file, or two bases")
    return sorted(parts, key=lambda part: (part.type != BASE, part.seq))


def from_file_names(names: Iterable[str]) -> list[Part] | None:
    """The parts of a log by the names of its files alone, where these leave no doubt: one base, and what follows it.

    None where they do not: two bases, or a number that is missing among the increments.
    """
    parts = [part for part in map(_by_name, names) if part]
    bases = [part for part in parts if part.type == BASE]
    numbers = sorted(part.seq for part in parts if part.type == INCREMENT)
    if len(bases) != 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers)) if numbers else []):
        return None
    return sorted(parts, key=lambda part: (part.type != BASE, part.seq))


def _by_name(name: str) -> Part | None:
    found = re.fullmatch(r".+\.(\d+)\.(base\.(?:rdb|aof)|incr\.aof)", name)
    return Part(name, int(found[1]), BASE if found[2].startswith("base") else INCREMENT) if found else None


def orphaned_parts(text: str | None, names: Iterable[str]) -> list[Part]:
    """A whole log that lies beside one whose manifest does not name it: Redis began anew without its manifest.

    A base alone is none: a rewrite that was killed leaves it.
    """
    try:
        known = {part.name for part in parse(text or "")}
    except ManifestError:
        return []
    parts = from_file_names(name for name in names if name not in known and name not in (text or ""))
    return parts if parts and len(parts) > 1 else []


def find_problem(text: str | None, names: Iterable[str]) -> str:
    """What is wrong with a log by its manifest (None where there is none) and the names of its files; empty if nothing.

    Without a manifest Redis takes the log for a new one, and starts empty.
    """
    there = list(names)
    if text is None:
        parts = [name for name in there if _by_name(name)]
        return f"the manifest is missing beside {', '.join(sorted(parts))}: a start would begin empty" if parts else ""
    try:
        missing = [part.name for part in parse(text) if part.name not in there]
    except ManifestError as error:
        return str(error)
    if missing:
        return f"missing: {', '.join(missing)}"
    beside = orphaned_parts(text, there)
    if beside:
        return f"Redis began anew beside a log that it does not know: {', '.join(part.name for part in beside)}"
    return ""


def to_text(parts: Iterable[Part]) -> str:
    """The manifest of these parts."""
    return "".join(f"{part}\n" for part in parts)


def from_rdb() -> tuple[Part, str]:
    """The base that a snapshot becomes, and the manifest of a log with nothing since."""
    base = Part("appendonly.aof.1.base.rdb", 1, BASE)
    return base, to_text([base])


def read_manifest(log: Path) -> list[Part]:
    """The parts of a log of writes. Raises Failure."""
    try:
        return parse((log / MANIFEST).read_text())
    except FileNotFoundError:
        raise Failure(f"{log} has no {MANIFEST}: not a log of writes as Redis keeps it since version 7") from None
    except (OSError, ValueError) as error:
        raise Failure(f"{log / MANIFEST}: {error}") from None
