"""The systemd service that takes scheduled backups, and its timer."""

import math

from redisctl import paths
from redoubt.filesystem import AbsentPath, DesiredFile
from redoubt.host_files import redisctl_path, template
from redoubt.settings.model import Settings
from redoubt.sizes import MIB


def timer(settings: Settings) -> str:
    """Return the name of the timer."""
    return paths.unit(settings.redis_name, paths.BACKUP_TIMER)


def job(settings: Settings) -> str:
    """Return the name of the service that takes a backup."""
    return paths.unit(settings.redis_name, paths.BACKUP_SERVICE)


def packages(settings: Settings) -> list[str]:
    """Return the packages that copy backups off the host.

    These are restic, and SSH for an SFTP repository.
    """
    if not settings.redis_backup_restic_repository:
        return []
    return ["restic", *(["openssh-client"] if settings.redis_backup_restic_repository.startswith("sftp:") else [])]


def files(settings: Settings) -> list[DesiredFile | AbsentPath]:
    """Return the two units; absent without a schedule."""
    units = [f"{paths.SYSTEMD_UNITS}/{unit}" for unit in (job(settings), timer(settings))]
    if not settings.redis_backup_schedule:
        return [AbsentPath(path) for path in units]
    texts = [
        template(
            "backup.service.j2",
            s=settings,
            program=redisctl_path(settings),
            seconds=backup_timeout(settings),
            data=paths.DATA,
            backups=paths.BACKUPS,
        ),
        template("backup.timer.j2", s=settings),
    ]
    return [DesiredFile(path, text, mode=0o644, uid=0, gid=0) for path, text in zip(units, texts, strict=True)]


def backup_timeout(settings: Settings) -> int:
    """Return the seconds after which systemd stops a hung backup.

    One hour plus 3 x redis_maxmemory at 1 MiB/s: an RDB snapshot of that size and an AOF of twice that size. A link of
    10 Mbit/s carries 1.2 MiB/s, and disks are faster.
    """
    return 3600 + 3 * math.ceil(settings.redis_maxmemory / MIB)
