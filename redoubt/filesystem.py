"""Desired paths of a host, and the steps from its present state to them.

Paths are directories and files. Owners are numbers, because the host may have any name or none for the uid of Redis.
Contents travel on standard input, so that they appear in no command line and in no temporary file that others can read.
"""

import base64
import gzip
import hashlib
import shlex
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache


@dataclass(frozen=True)
class DesiredDirectory:
    """A directory that should exist.

    By default only root may enter it.
    """

    path: str
    mode: int = 0o700
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True)
class DesiredFile:
    """A regular file that should exist with this text.

    The text must end with a line break. By default only root may read the file. ``secret`` keeps its contents out of
    ``--diff``.
    """

    path: str
    content: str = field(repr=False)
    mode: int = 0o600
    uid: int = 0
    gid: int = 0
    secret: bool = False

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the contents."""
        return _sha256(self.data)

    @property
    def data(self) -> bytes:
        """Return the contents on the host."""
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
    """A regular file or empty directory of a previous deploy that should not exist."""

    path: str


@dataclass(frozen=True)
class PathState:
    """The present state of a path.

    ``digest`` is the SHA-256 of a regular file, else empty. A secret file has no digest, which would allow guesses:
    ``matches`` says whether its contents are right.
    """

    st_mode: int
    uid: int
    gid: int
    digest: str = ""
    matches: bool = False


@dataclass(frozen=True)
class Step:
    """One command that repairs one path, its standard input, and the reason."""

    path: str
    why: str
    command: str
    stdin: str | None = field(default=None, repr=False)


class PathConflict(ValueError):
    """A path is of another kind than desired. A deploy never removes it."""


def plan(
    entries: Iterable[DesiredDirectory | DesiredFile | AbsentPath], present: Mapping[str, PathState]
) -> list[Step]:
    """Return the steps from the present state to the desired one.

    Raises PathConflict.
    """
    steps = []
    for entry in entries:
        state = present.get(entry.path)
        if isinstance(entry, AbsentPath):
            if state is not None:
                remove = "rmdir" if stat.S_ISDIR(state.st_mode) else "rm -f"
                steps.append(Step(entry.path, "no longer needed", f"{remove} {shlex.quote(entry.path)}"))
            continue
        if state is not None:
            _ensure_kind(entry, state)
        if isinstance(entry, DesiredFile):
            if state is None or not (state.matches if entry.secret else state.digest == entry.digest):
                steps.append(_write(entry, "missing" if state is None else "content differs"))
                continue
        elif state is None:
            path = shlex.quote(entry.path)
            steps.append(
                Step(
                    entry.path,
                    "missing",
                    f"install -d -m {entry.mode:04o} -o {entry.uid} -g {entry.gid} {path}",
                )
            )
            continue
        assert state is not None
        steps += _attribute_steps(entry, state)
    return steps


def _ensure_kind(entry: DesiredDirectory | DesiredFile, state: PathState) -> None:
    kind, is_right = (
        ("regular file", stat.S_ISREG(state.st_mode))
        if isinstance(entry, DesiredFile)
        else ("directory", stat.S_ISDIR(state.st_mode))
    )
    if not is_right:
        present = (
            "symbolic link" if stat.S_ISLNK(state.st_mode) else "directory" if stat.S_ISDIR(state.st_mode) else "file"
        )
        raise PathConflict(
            f"{entry.path} is a {present}, but must be a {kind}: check what it is, move it away and deploy again"
        )


def _attribute_steps(entry: DesiredDirectory | DesiredFile, state: PathState) -> list[Step]:
    path = shlex.quote(entry.path)
    steps = []
    if (state.uid, state.gid) != (entry.uid, entry.gid):
        why = f"owner {state.uid}:{state.gid}, should be {entry.uid}:{entry.gid}"
        steps.append(Step(entry.path, why, f"chown {entry.uid}:{entry.gid} {path}"))
    if stat.S_IMODE(state.st_mode) != entry.mode:
        why = f"mode {stat.S_IMODE(state.st_mode):04o}, should be {entry.mode:04o}"
        steps.append(Step(entry.path, why, f"chmod {entry.mode:04o} {path}"))
    return steps


def _write(entry: DesiredFile, why: str) -> Step:
    """Write a private temporary file in the same directory, then rename it.

    A lost connection ends standard input early, so the length is checked before the rename: the target is either the
    old file or the whole new one.
    """
    directory, _, name = entry.path.rpartition("/")
    is_program = isinstance(entry, DesiredProgram)
    assert is_program or entry.content.endswith("\n"), entry.path
    read = "base64 -d | gunzip" if is_program else "cat"
    size = len(entry.data)
    target, temporary = shlex.quote(entry.path), shlex.quote(f"{directory}/.{name}.XXXXXX")
    command = " && ".join(
        (
            f"umask 077; t=$(mktemp {temporary})",
            "trap 'rm -f \"$t\"' EXIT HUP INT TERM",
            f'{read} > "$t"',
            f'[ "$(wc -c < "$t")" -eq {size} ]',
            f'chown {entry.uid}:{entry.gid} "$t"',
            f'chmod {entry.mode:04o} "$t"',
            f'mv -fT "$t" {target}',
        )
    )
    return Step(entry.path, why, command, stdin=entry.stdin)
