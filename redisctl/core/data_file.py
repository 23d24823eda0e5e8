"""What a data file is, by its first bytes. Nothing in the file is trusted.

Redis's own checkers and a scratch Redis judge the rest of the file.
"""

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from redisctl.core.untrusted_files import UntrustedDirectory

# Bytes. The auxiliary fields of an RDB snapshot take about 100.
HEAD = 1024
_MAGIC = re.compile(rb"(?:(REDIS)([0-9]{4})|(VALKEY)([0-9]{3}))")
# A command of an AOF, or the annotation with a time. A crash may leave a file that ends inside of it.
_AOF = re.compile(
    rb"#TS:|\*[1-9][0-9]{0,9}\r\n\$|"
    rb"(?:#(?:TS?)?|\*(?:[1-9][0-9]{0,9}(?:\r\n?)?)?)\Z"
)
_PACKED = {
    b"\x1f\x8b": "gunzip",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\xfd7zXZ\x00": "unxz",
    b"BZh": "bunzip2",
    b"\x04\x22\x4d\x18": "unlz4",
    b"PK\x03\x04": "unzip",
}


class Kind(Enum):
    """Kinds of files.

    An AOF that begins with an RDB snapshot looks like a snapshot here.
    """

    RDB, AOF, PACKED, UNKNOWN = range(4)


@dataclass(frozen=True)
class Head:
    """The first bytes of a file, parsed.

    ``format`` is the version of the RDB format, ``server`` the server that wrote the snapshot, ``memory`` the bytes of
    memory that it used then, and ``created`` its time. ``tool`` unpacks a compressed file.
    """

    kind: Kind
    magic: str = ""
    format: int = 0
    server: str = ""
    memory: int | None = None
    created: float | None = None
    tool: str = ""


def read_head(path: Path) -> Head:
    """Parse the first bytes of a regular file. Follows no link. Raises OSError."""
    with UntrustedDirectory(path.parent).open_file(path.name) as file:
        return parse_head(file.read(HEAD))


def parse_head(data: bytes) -> Head:
    """Parse the first bytes of a file."""
    magic = _MAGIC.match(data)
    if magic:
        name, number = (magic[1], magic[2]) if magic[1] else (magic[3], magic[4])
        engine = "Valkey" if (version := _text(data, b"valkey-ver")) else "Redis"
        memory, created = _number(data, b"used-mem"), _number(data, b"ctime")
        server = f"{engine} {version or _text(data, b'redis-ver')}".strip()
        return Head(Kind.RDB, name.decode(), int(number), server, memory, None if created is None else float(created))
    if is_aof(data):
        return Head(Kind.AOF)
    tool = next((tool for prefix, tool in _PACKED.items() if data.startswith(prefix)), "")
    if data[257:262] == b"ustar":
        tool = "tar -xf"
    return Head(Kind.PACKED, tool=tool) if tool else Head(Kind.UNKNOWN)


def is_aof(data: bytes) -> bool:
    """Say whether bytes begin like a command of an AOF, or like a time in it.

    Fewer than 16 bytes are all that a file has.
    """
    return _AOF.match(data) is not None


def _text(data: bytes, name: bytes) -> str:
    """Return an auxiliary field that is a short text; empty without it."""
    match = re.search(rb"\xfa" + bytes([len(name)]) + name + rb"([\x01-\x3f])", data)
    value = data[match.end() : match.end() + match[1][0]] if match else b""
    return re.sub(r"[^\w.+-]", "?", value.decode("ascii", "replace"))


def _number(data: bytes, name: bytes) -> int | None:
    """Return an auxiliary field that is a number: one, two or four bytes, or a text."""
    field = rb"\xfa" + bytes([len(name)]) + name
    match = re.search(field + rb"(?:\xc0(.)|\xc1(..)|\xc2(....))", data, re.DOTALL)
    if match:
        return int.from_bytes(match[1] or match[2] or match[3], "little")
    text = _text(data, name)
    return int(text) if text.isascii() and text.isdigit() else None
