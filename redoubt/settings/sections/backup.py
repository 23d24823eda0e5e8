"""Settings of backups: when, how many, and where their copies go."""

from typing import ClassVar

from redoubt.settings.field import Section, setting
from redoubt.settings.types import Int, Repository, RepositoryFile, Schedule

# The newest backup of each of these periods is kept.
PERIODS = ("hourly", "daily", "weekly", "monthly")


class BackupsSection(Section):
    """Backups."""

    title: ClassVar[str] = "Backups"

    redis_backup_schedule: Schedule = setting(
        "*-*-* 03:00:00",
        "When systemd takes backups, as an OnCalendar expression: daily, hourly, 'Mon..Fri 03:00'. In the host's time "
        "zone, or in one that you name ('03:00 Europe/Berlin'). '': never.",
        effect="none",
    )
    redis_backup_randomized_delay: Int = setting(
        1800,
        "Maximum delay of a backup in seconds. Each host has its own fixed delay, so that many hosts do not write at "
        "the same time.",
        effect="none",
        ge=0,
        le=86400,
    )
    redis_backup_verify: bool = setting(
        True,
        "Load each backup in a separate container and check its contents. This needs the memory of a second Redis "
        "while it runs.",
        effect="none",
    )
    redis_upgrade_verify: bool = setting(
        True,
        "Before an upgrade starts, load the backup with the old and the new version. This needs the memory of a second "
        "Redis while it runs. False: the upgrade still takes a backup, but does not load it.",
        effect="none",
    )
    redis_backup_max_age: Int = setting(
        26,
        "Hours. redisctl health warns if the newest verified backup is older, and is critical at twice that age.",
        effect="none",
        ge=1,
        le=8784,
    )
    redis_backup_keep_hourly: Int = setting(
        24,
        "Number of hourly backups to keep: the newest one of each hour. The same numbers apply to off-host copies.",
        effect="none",
        ge=0,
        le=1000,
    )
    redis_backup_keep_daily: Int = setting(7, "Number of daily backups to keep.", effect="none", ge=0, le=1000)
    redis_backup_keep_weekly: Int = setting(4, "Number of weekly backups to keep.", effect="none", ge=0, le=1000)
    redis_backup_keep_monthly: Int = setting(6, "Number of monthly backups to keep.", effect="none", ge=0, le=1000)
    redis_backup_restic_repository: Repository = setting(
        "",
        "restic repository for encrypted copies of the backups: sftp:user@host:/path, s3:https://host/bucket, "
        "gs:bucket:/path, rest:https://host/path, or a directory. Each instance needs its own. '': no copies.",
        effect="none",
        example="sftp:backup@nas.example.com:/redis-1",
    )
    redis_backup_repository_files: dict[RepositoryFile, str] = setting(
        {},
        "Credentials for the repository, as paths of files on the machine that deploys: ssh_key and known_hosts "
        "(sftp), aws_credentials (s3), google_credentials (gs), ca_certificate (s3, rest), client_certificate (rest).",
        effect="none",
        example={"ssh_key": "backup/id_ed25519", "known_hosts": "backup/known_hosts"},
    )
