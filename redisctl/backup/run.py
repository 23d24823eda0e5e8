"""A backup from start to end: create, verify, prune, copy off the host.

The timer and the operator take it in the same way.
"""

from dataclasses import dataclass

from redisctl.backup import attempt, create, offsite, retention
from redisctl.backup.catalog import BackupSet
from redisctl.backup.verify import verify_backup
from redisctl.core import mounts
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance, error_text


@dataclass(frozen=True)
class Finished:
    """A backup that was taken, and the names of the backups that were pruned for it."""

    backup: BackupSet
    pruned: list[str]


def back_up(instance: Instance, *, verify: bool | None = None) -> Finished:
    """Take a backup and record how it ended, for the health check.

    The caller holds the instance's lock. ``verify`` loads the backup in a second Redis; by default as the settings say.
    Raises Failure.
    """
    mounts.ensure_mounted(instance.root)
    attempt.record_start(instance)
    try:
        backup = create.create_backup(instance)
        if instance.backup.verify if verify is None else verify:
            backup = verify_backup(instance, backup)
        pruned = retention.prune(instance)
        if instance.backup.repository:
            _push(instance, backup)
    except Exception as error:
        attempt.record_end(instance, error_text(error))
        raise
    except KeyboardInterrupt:
        attempt.record_end(instance, "it was cancelled")
        raise
    attempt.record_end(instance, id=backup.id)
    return Finished(backup, pruned)


def _push(instance: Instance, backup: BackupSet) -> None:
    try:
        offsite.push(instance, backup.path)
    except Failure as error:
        raise Failure(f"backup {backup.id} was taken and is on this host, but was not copied off it: {error}") from None
