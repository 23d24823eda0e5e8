"""The AOF since Redis 7: a base file, increments and a manifest that names them.

A line of a manifest is ``file NAME seq NUMBER type LETTER``: b is the base, i an increment, h history, which Redis
removes soon.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from redisctl.core.errors import Failure

DIRECTORY = "appendonlydir"
MANIFEST = "appendonly.aof.manifest"
# Bytes. A manifest names a handful of files.
MAX_MANIFEST = 1024**2
BASE, INCREMENT = "b", "i"
# How the problem begins that a repair can solve although Redis serves.
STARTED_EMPTY = "Redis started empty"


class ManifestError(ValueError):
    """A manifest is damaged."""


@dataclass(frozen=True)
class Part:
    """One file of an AOF."""

    name: str
    seq: int
    type: str

    def __str__(self) -> str:
        return f"file {self.name} seq {self.seq} type {self.type}"


def parse(text: str) -> list[Part]:
    """Return the parts that hold data, in the order in which Redis loads them.

    Raises ManifestError.
    """
    parts = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        # Later versions may add further pairs.
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise ManifestError(f"{line!r} is not a line of a manifest: {error}") from None
        fields = dict(zip(words[::2], words[1::2], strict=False))
        name, seq, kind = fields.get("file", ""), fields.get("seq", ""), fields.get("type", "")
        if not re.fullmatch(r"[^/\s]+", name) or not re.fullmatch(r"[0-9]{1,18}", seq) or kind not in ("b", "i", "h"):
            raise ManifestError(f"{line!r} is not a line of a manifest")
        parts.append(Part(name, int(seq), kind))
    parts = [part for part in parts if part.type != "h"]
    if not parts or sum(part.type == BASE for part in parts) > 1:
        raise ManifestError("the manifest names no file, or two bases")
    return sorted(parts, key=lambda part: (part.type != BASE, part.seq))


def from_file_names(names: Iterable[str]) -> list[Part] | None:
    """Return the parts of an AOF by its file names, None if they are ambiguous.

    They are unambiguous if there is one base and the numbers of the increments have no gap.
    """
    parts = [part for part in map(_by_name, names) if part]
    bases = [part for part in parts if part.type == BASE]
    numbers = sorted(part.seq for part in parts if part.type == INCREMENT)
    if len(bases) != 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers)) if numbers else []):
        return None
    return sorted(parts, key=lambda part: (part.type != BASE, part.seq))


def _by_name(name: str) -> Part | None:
    match = re.fullmatch(r".+\.([0-9]{1,18})\.(base\.(?:rdb|aof)|incr\.aof)", name)
    return Part(name, int(match[1]), BASE if match[2].startswith("base") else INCREMENT) if match else None


def orphaned_parts(text: str | None, names: Iterable[str]) -> list[Part]:
    """Return a complete AOF that the manifest does not name.

    It is left when Redis started empty because the manifest was missing. A base alone does not count: a rewrite that
    was killed leaves one.
    """
    try:
        known = {part.name for part in parse(text or "")}
    except ManifestError:
        return []
    parts = from_file_names(name for name in names if name not in known and name not in (text or ""))
    return parts if parts and len(parts) > 1 else []


def find_problem(text: str | None, names: Iterable[str]) -> str:
    """Say how an AOF's manifest and file names differ; empty if they match.

    The manifest is None if it is missing. Without a manifest Redis ignores the other files and starts empty.
    """
    present = list(names)
    if text is None:
        parts = [name for name in present if _by_name(name)]
        return f"the manifest of {', '.join(sorted(parts))} is missing: Redis would start empty" if parts else ""
    try:
        missing = [part.name for part in parse(text) if part.name not in present]
    except ManifestError as error:
        return str(error)
    if missing:
        return f"missing: {', '.join(missing)}"
    orphans = orphaned_parts(text, present)
    if orphans:
        return f"{STARTED_EMPTY} next to an AOF that it ignores: {', '.join(part.name for part in orphans)}"
    return ""


def to_text(parts: Iterable[Part]) -> str:
    """Return the manifest of these parts."""
    return "".join(f"{part}\n" for part in parts)


def from_rdb() -> tuple[Part, str]:
    """Return an RDB snapshot as the base of an AOF, and the manifest of that AOF.

    The AOF has no other files.
    """
    base = Part("appendonly.aof.1.base.rdb", 1, BASE)
    return base, to_text([base])


def read_manifest(aof: Path) -> list[Part]:
    """Return the parts of the AOF in a directory. Raises Failure."""
    try:
        return parse((aof / MANIFEST).read_text())
    except FileNotFoundError:
        raise Failure(f"{aof} has no {MANIFEST}: it is not an AOF of Redis 7 or newer") from None
    except (OSError, ValueError) as error:
        raise Failure(f"{aof / MANIFEST}: {error}") from None
