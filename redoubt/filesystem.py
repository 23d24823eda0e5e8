"""Directories and files as they should be on a host, and the steps from what is there to that.

Owners are numbers: the host may call uid 999 anything or nothing. Contents travel on standard input, so that
they appear in no command line and no temporary file that others can read.
"""

import base64
import gzip
import hashlib
import shlex
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

from redoubt.settings.types import REDIS_GID, REDIS_UID


@dataclass(frozen=True)
class DesiredDirectory:
    """A directory that should exist."""

    path: str
    mode: int = 0o750
    uid: int = REDIS_UID
    gid: int = REDIS_GID


@dataclass(frozen=True)
class DesiredFile:
    """A regular file that should exist with exactly this text, which must end with a line break.

    ``secret`` keeps its contents out of ``--diff``.
    """

    path: str
    content: str = field(repr=False)
    mode: int = 0o640
    uid: int = REDIS_UID
    gid: int = REDIS_GID
    secret: bool = False

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the contents."""
        return _sha256(self.data)

    @property
    def data(self) -> bytes:
        """Return the contents as they are on the host."""
        return self.content.encode()

    @property
    def stdin(self) -> str:
        """Return the contents as the command that writes the file reads them."""
        return self.content


@dataclass(frozen=True)
class DesiredProgram(DesiredFile):
    """A file of bytes. They are packed only if the host needs them."""

    content: str = field(default="", init=False, repr=False)
    program: bytes = field(default=b"", repr=False, kw_only=True)

    @property
    def data(self) -> bytes:
        """Return the bytes of the file."""
        return self.program

    @property
    def stdin(self) -> str:
        """Return the bytes packed, see ``pack``."""
        return pack(self.program)


# Every host of a deploy gets the same program, so its digest and its packed form are computed once.
@cache
def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@cache
def pack(data: bytes) -> str:
    """Return bytes as text, compressed for slow links: pyinfra sends only text."""
    # Level 9 takes nine times as long for 7 % less.
    return base64.encodebytes(gzip.compress(data, compresslevel=4, mtime=0)).decode()


@dataclass(frozen=True)
class AbsentPath:
    """A regular file that a former deploy may have left and that should go, or a directory, which is empty by then."""

    path: str


@dataclass(frozen=True)
class PathState:
    """What a path is on the host now. ``digest`` is the SHA-256 of a regular file, else empty.

    Of a secret file the host says no digest, only whether it ``matches``: who reads it in a log could guess at it.
    """

    st_mode: int
    uid: int
    gid: int
    digest: str = ""
    matches: bool = False


@dataclass(frozen=True)
class Step:
    """One command that mends one path, what it reads on standard input, and why it is needed."""

    path: str
    why: str
    command: str
    stdin: str | None = field(default=None, repr=False)


class PathConflict(ValueError):
    """Something of another kind is where a file or directory should be; it is never removed."""


def plan(wanted: Iterable[DesiredDirectory | DesiredFile | AbsentPath], present: Mapping[str, PathState]) -> list[Step]:
    """The steps that make the host as wanted; none when it is already. Raises Obstacle."""
    steps = []
    for entry in wanted:
        there = present.get(entry.path)
        if isinstance(entry, AbsentPath):
            if there is not None:
                remove = "rmdir" if stat.S_ISDIR(there.st_mode) else "rm -f"
                steps.append(Step(entry.path, "no longer wanted", f"{remove} {shlex.quote(entry.path)}"))
            continue
        if there is not None:
            _refuse_other_kind(entry, there)
        if isinstance(entry, DesiredFile):
            if there is None or not (there.matches if entry.secret else there.digest == entry.digest):
                steps.append(_write(entry, "missing" if there is None else "content differs"))
                continue
        elif there is None:
            path = shlex.quote(entry.path)
            steps.append(
                Step(
                    entry.path,
                    "missing",
                    f"install -d -m {entry.mode:04o} -o {entry.uid} -g {entry.gid} {path}",
                )
            )
            continue
        assert there is not None
        steps += _attributes(entry, there)
    return steps


def _refuse_other_kind(entry: DesiredDirectory | DesiredFile, there: PathState) -> None:
    kind, right = (
        ("regular file", stat.S_ISREG(there.st_mode))
        if isinstance(entry, DesiredFile)
        else ("directory", stat.S_ISDIR(there.st_mode))
    )
    if not right:
        what = (
            "symbolic link" if stat.S_ISLNK(there.st_mode) else "directory" if stat.S_ISDIR(there.st_mode) else "file"
        )
        raise PathConflict(
            f"{entry.path} is a {what}; a {kind} is needed there. Look what it is, move it away and deploy again"
        )


def _attributes(entry: DesiredDirectory | DesiredFile, there: PathState) -> list[Step]:
    path = shlex.quote(entry.path)
    steps = []
    if (there.uid, there.gid) != (entry.uid, entry.gid):
        why = f"owner {there.uid}:{there.gid}, should be {entry.uid}:{entry.gid}"
        steps.append(Step(entry.path, why, f"chown {entry.uid}:{entry.gid} {path}"))
    if stat.S_IMODE(there.st_mode) != entry.mode:
        why = f"mode {stat.S_IMODE(there.st_mode):04o}, should be {entry.mode:04o}"
        steps.append(Step(entry.path, why, f"chmod {entry.mode:04o} {path}"))
    return steps


def _write(entry: DesiredFile, why: str) -> Step:
    """Write beside the target under a name nobody can guess, with nobody else able to read it, then rename.

    A lost connection ends standard input early: the length is compared before the rename, so that the target
    is either the old file or the whole new one.
    """
    directory, _, name = entry.path.rpartition("/")
    is_program = isinstance(entry, DesiredProgram)
    assert is_program or entry.content.endswith("\n"), entry.path
    take = "base64 -d | gunzip" if is_program else "cat"
    size = len(entry.data)
    target, temporary = shlex.quote(entry.path), shlex.quote(f"{directory}/.{name}.XXXXXX")
    command = " && ".join(
        (
            f"umask 077; t=$(mktemp {temporary})",
            "trap 'rm -f \"$t\"' EXIT HUP INT TERM",
            f'{take} > "$t"',
            f'[ "$(wc -c < "$t")" -eq {size} ]',
            f'chown {entry.uid}:{entry.gid} "$t"',
            f'chmod {entry.mode:04o} "$t"',
            f'mv -fT "$t" {target}',
        )
    )
    return Step(entry.path, why, command, stdin=entry.stdin)
