"""Disks of an instance that are not mounted, and disks inside its directories.

What is written to the mount point of a disk that is not mounted lands on another disk.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from redisctl import paths
from redisctl.core import process
from redisctl.core.errors import Failure

_MOUNTS = Path("/proc/self/mountinfo")


def unmounted(root: Path) -> tuple[str, ...]:
    """Return the instance's directories on which a disk should be mounted and is not.

    The directories above them count as well. systemd should have mounted these disks: it knows the mount points of
    /etc/fstab and of mount units by a file. What was mounted by hand has none.
    """
    directories = [*reversed(root.parents[:-1]), root, root / paths.DATA, root / paths.LIVE, root / paths.BACKUPS]
    command = ["systemctl", "show", "--property=FragmentPath,ActiveState", *map(str, directories)]
    # A block of lines for each path, in their order.
    blocks = process.run(command).stdout.strip().split("\n\n")
    return tuple(
        str(path)
        for path, block in zip(directories, blocks, strict=False)
        if "FragmentPath=/" in block and "ActiveState=active" not in block.splitlines()
    )


def inside(directories: Iterable[Path]) -> list[Path]:
    """Return the mount points inside these directories.

    Leaves out the directories themselves.
    """
    escaped = [line.split()[4] for line in _MOUNTS.read_bytes().splitlines()]
    points = [Path(os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), path))) for path in escaped]
    return sorted({point for point in points for directory in directories if directory in point.parents})


def ensure_mounted(root: Path) -> None:
    """Raise Failure if a disk of the instance is not mounted."""
    if directories := unmounted(root):
        raise Failure(f"{problem(directories[0])}. Then try again")


def problem(directory: str) -> str:
    """Return what is wrong with an unmounted mount point, and what to do."""
    return (
        f"nothing is mounted on {directory}, a mount point by /etc/fstab or a unit of systemd: run 'mount {directory}' "
        "on the host, or remove the mount point there if the disk is gone for good"
    )
