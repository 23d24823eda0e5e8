"""Backups on a schedule: the unit that takes one, and the timer that starts it."""

import math

from redoubt.filesystem import AbsentPath, DesiredFile
from redoubt.host_files import redisctl_path, template
from redoubt.settings.model import Settings
from redoubt.sizes import MIB


def timer(settings: Settings) -> str:
    """The name of the unit that knows when."""
    return f"{settings.redis_name}-backup.timer"


def job(settings: Settings) -> str:
    """The name of the unit that takes a backup."""
    return f"{settings.redis_name}-backup.service"


def packages(settings: Settings) -> list[str]:
    """What brings copies off the host: restic, and SSH where it goes by that; nothing without a repository."""
    if not settings.redis_backup_restic_repository:
        return []
    return ["restic", *(["openssh-client"] if settings.redis_backup_restic_repository.startswith("sftp:") else [])]


def files(settings: Settings) -> list[DesiredFile | AbsentPath]:
    """The two units; none of them without a calendar."""
    paths = [f"/etc/systemd/system/{unit}" for unit in (job(settings), timer(settings))]
    if not settings.redis_backup_schedule:
        return [AbsentPath(path) for path in paths]
    texts = [
        template("backup.service.j2", s=settings, program=redisctl_path(settings), seconds=backup_timeout(settings)),
        template("backup.timer.j2", s=settings),
    ]
    return [DesiredFile(path, text, mode=0o644, uid=0, gid=0) for path, text in zip(paths, texts, strict=True)]


def backup_timeout(settings: Settings) -> int:
    """Seconds after which a backup is ended, as one that hangs.

    An hour, and a second for each MiB of a snapshot and a log of writes twice as long as it, each as big as maxmemory:
    a line of 10 Mbit/s carries 1.2 MiB/s, and every disk writes more.
    """
    return 3600 + 3 * math.ceil(settings.redis_maxmemory / MIB)
