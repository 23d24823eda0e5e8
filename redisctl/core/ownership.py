"""A change of the owner of all files below a directory, without following a link."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redisctl.core import progress

Owner = tuple[int, int]

# Levels of directories. Redis needs two; what is deeper keeps its owner.
_MAX_DEPTH = 16
# An entry of any kind, without opening its contents: a FIFO does not block, and a link is the link itself.
_ENTRY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def give_files(directory: Path, old: Owner, new: Owner) -> None:
    """Give everything of one user below a directory to another user.

    Owners are uid and gid. Files of other users stay, and a group changes only from the old one to the new one. Redis
    must not run; other processes of the old user may exchange entries during the change. A directory changes after its
    contents, so an interrupted call can be repeated. Raises OSError with the path.
    """
    descriptor = os.open(directory, _DIRECTORY)
    try:
        _give_contents(descriptor, directory, old, new)
    finally:
        os.close(descriptor)


def _give_contents(directory: int, path: Path, old: Owner, new: Owner, depth: int = _MAX_DEPTH) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                with _named(path / entry.name):
                    descriptor = os.open(entry.name, _ENTRY, dir_fd=directory)
            except FileNotFoundError:
                continue
            try:
                _give(descriptor, path / entry.name, old, new, depth)
            finally:
                os.close(descriptor)


def _give(entry: int, path: Path, old: Owner, new: Owner, depth: int) -> None:
    """Give an entry, after its contents.

    Its descriptor stays with it if another process gives its name to something else.
    """
    status = os.fstat(entry)
    if stat.S_ISDIR(status.st_mode) and depth > 0:
        with _named(path):
            inner = os.open(".", _DIRECTORY, dir_fd=entry)
        try:
            _give_contents(inner, path, old, new, depth - 1)
        finally:
            os.close(inner)
    progress.report(f"giving files to {new[0]}:{new[1]}: {path.name}")
    if status.st_uid == old[0]:
        gid = new[1] if status.st_gid == old[1] else status.st_gid
        with _named(path):
            # fchown refuses such a descriptor. This name leads to its entry and no further, also if that is a link.
            os.chown(f"/proc/self/fd/{entry}", new[0], gid)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Give an error the path, instead of a name in a directory or a descriptor."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
