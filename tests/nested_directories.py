"""Directories that are nested deeper than a path can say."""

import os
from pathlib import Path


def nest_directories(directory: Path, depth: int, owner: tuple[int, int] = (-1, -1)) -> None:
    """Create directories in each other, below an existing one.

    ``owner`` is their uid and gid, by default those of this process.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.fchown(inner, *owner)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
