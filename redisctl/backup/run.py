"""A backup from start to end: create, verify, prune, copy off the host.

The timer and the operator take it in the same way.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from redisctl.backup import attempt, catalog, create, offsite, retention
from redisctl.backup.catalog import BackupSet
from redisctl.backup.verify import verify_backup
from redisctl.core import mounts, progress
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
    Raises Failure at the end, with all problems. A bad backup is not copied off the host.
    """
    mounts.ensure_mounted(instance.root)
    attempt.record_start(instance)
    try:
        backup = create.create_backup(instance)
        # A step that fails stops no other one: backups that are not pruned fill the disk.
        errors: list[Failure] = []
        if instance.backup.verify if verify is None else verify:
            with _collected(errors):
                backup = verify_backup(instance, backup)
        pruned: list[str] = []
        with _collected(errors):
            pruned = retention.prune(instance)
        with _collected(errors):
            if instance.backup.repository and not catalog.open_backup(backup.path).is_bad:
                _push(instance, backup)
        if errors:
            raise Failure("; ".join(map(str, errors)))
    except Exception as error:
        attempt.record_end(instance, error=error_text(error))
        raise
    except KeyboardInterrupt:
        attempt.record_end(instance, error="it was cancelled")
        raise
    attempt.record_end(instance, backup=backup.id)
    return Finished(backup, pruned)


@contextmanager
def _collected(errors: list[Failure]) -> Iterator[None]:
    try:
        yield
    except Failure as error:
        errors.append(error)


def _push(instance: Instance, backup: BackupSet) -> None:
    progress.report(f"copying the backup to {instance.backup.repository}")
    try:
        offsite.push(instance, backup.path)
    except Failure as error:
        raise Failure(f"backup {backup.id} was taken and is on this host, but was not copied off it: {error}") from None
