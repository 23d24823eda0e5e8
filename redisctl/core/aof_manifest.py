"""The AOF since Redis 7: a base file, increments and a manifest that names them.

A line of a manifest is ``file NAME seq NUMBER type LETTER``: b is the base, i an increment, h history, which Redis
removes soon.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from redisctl.core.errors import Failure
from redisctl.core.untrusted_files import UntrustedDirectory

FILE = "appendonly.aof"
DIRECTORY = "appendonlydir"
MANIFEST = "appendonly.aof.manifest"
_SUFFIX = ".manifest"
# Bytes. A manifest names a handful of files, and Redis reads lines of up to 1 KiB.
MAX_MANIFEST = 1024**2
_MAX_LINE = 4096
# Every failed rewrite leaves an increment, and Redis tries again less and less often.
MAX_PARTS = 500
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
        name = self.name if re.fullmatch(r"[\w.,:+@%-]+", self.name, re.ASCII) else _quote(self.name)
        return f"file {name} seq {self.seq} type {self.type}"


def parse(text: str) -> list[Part]:
    """Return the parts that hold data, in the order in which Redis loads them.

    Raises ManifestError.
    """
    parts = []
    for line in text.splitlines():
        if len(line) > _MAX_LINE:
            raise ManifestError(f"the manifest has a line of more than {_MAX_LINE} bytes, which Redis does not read")
        if not line.strip() or line.startswith("#"):
            continue
        # Later versions may add further pairs.
        words = _split(line)
        fields = dict(zip(words[::2], words[1::2], strict=False))
        name, seq, kind = fields.get("file", ""), fields.get("seq", ""), fields.get("type", "")
        if "/" in name or name in (".", ".."):
            raise ManifestError(f"the manifest names {name!r}: a part of an AOF lies in the AOF's directory")
        if not name or "\0" in name or not re.fullmatch(r"[0-9]{1,18}", seq) or kind not in ("b", "i", "h"):
            raise ManifestError(f"{line!r} is not a line of a manifest")
        parts.append(Part(name, int(seq), kind))
    parts = [part for part in parts if part.type != "h"]
    if len(parts) > MAX_PARTS:
        raise ManifestError(f"the manifest names {len(parts)} files: {MAX_PARTS} are the most that are read")
    if not parts or sum(part.type == BASE for part in parts) > 1:
        raise ManifestError("the manifest names no file, or two bases")
    return sorted(parts, key=lambda part: (part.type != BASE, part.seq))


_WORD = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"(?=\s|$)|\'((?:[^\'\\]|\\.)*)\'(?=\s|$)|([^\s"\']\S*))')
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|(.))")
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "a": "\a"}


def _split(line: str) -> list[str]:
    """Split a line as Redis does (sdssplitargs). Raises ManifestError."""
    line = line.rstrip()
    words, position = [], 0
    while position < len(line):
        match = _WORD.match(line, position)
        if not match:
            raise ManifestError(f"{line!r} is not a line of a manifest: a quotation mark is missing")
        words.append(_unquote(match[1]) if match[1] is not None else match[3] or (match[2] or "").replace("\\'", "'"))
        position = match.end()
    return words


def _unquote(text: str) -> str:
    data = _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else _LETTERS.get(match[2], match[2]), text)
    # Redis escapes the bytes of a name one by one.
    return os.fsdecode(data.encode("latin-1")) if data.isascii() or max(data) < "\u0100" else data


def _quote(name: str) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in os.fsencode(name)) + '"'


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


def read_text(directory: UntrustedDirectory, *names: str) -> str:
    """Return the text of a manifest. Raises OSError."""
    return os.fsdecode(directory.read_file(*names, limit=MAX_MANIFEST))


def manifest_of(aof: Path) -> Path:
    """Return the manifest in the directory of an AOF, whatever its name.

    Raises Failure.
    """
    try:
        names = sorted(name for name in UntrustedDirectory(aof, follow=False).list_names() if name.endswith(_SUFFIX))
    except OSError as error:
        raise Failure(f"{error.filename or aof}: {error.strerror}") from None
    if not names:
        raise Failure(
            f"{aof} has no AOF manifest, so it is not an AOF of Redis 7 or newer: give the path of a dump.rdb, or of "
            "an AOF in one file"
        )
    if len(names) > 1:
        raise Failure(f"{aof} has several manifests ({', '.join(map(repr, names[:5]))}): keep only one of them there")
    return aof / names[0]


def read_manifest(aof: Path) -> list[Part]:
    """Return the parts of the AOF in a directory. Raises Failure."""
    path = manifest_of(aof)
    try:
        return parse(read_text(UntrustedDirectory(aof, follow=False), path.name))
    except OSError as error:
        raise Failure(f"{error.filename or aof}: {error.strerror}") from None
    except ManifestError as error:
        raise Failure(f"{path}: {error}") from None
