"""Replacement of an instance's data in one transaction.

The old data stays as the previous data. The new data is staged in a directory on the same file system. Then Redis is
stopped and its stop is checked; two renames make the old directory the previous data and the staged directory the live
data; Redis starts and is checked. If anything goes wrong or the host goes down, the old data comes back.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redisctl import paths
from redisctl.backup.catalog import backup_id
from redisctl.core import docker, journal, service, transaction
from redisctl.core.errors import Failure
from redisctl.core.files import fsync_directory
from redisctl.core.instance import Instance
from redisctl.core.journal import Journal, Kind, Stage
from redisctl.core.service import Check, UncleanStop
from redisctl.core.untrusted_files import remove_tree
from redisctl.data.layout import form, previous_data_dirs, upgrade_in_progress

# Before these stages, and after the last of them, the live data is the old data.
_DATA_MOVES = (Stage.STASHING, Stage.INSTALLING, Stage.STARTING, Stage.ROLLING_BACK)
_RECOVERY = "The old state comes back by itself within seconds; 'redisctl recover' waits for it"


@dataclass(frozen=True)
class Swapped:
    """A swap that succeeded.

    It has the seconds that Redis did not serve, the name of the previous data, and a warning.
    """

    downtime: float
    previous: str
    warning: str = ""


@contextmanager
def staging_dir(instance: Instance) -> Iterator[Path]:
    """Give an empty directory for new data, owned by Redis, next to the live data.

    It is removed at the end.
    """
    path = instance.root / paths.STAGING / "new"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    remove_tree(path, ignore_errors=True)
    instance.untrusted(path.parent).make_directory(path.name)
    try:
        yield path
    finally:
        # A swap that was interrupted needs it until it is recovered.
        if journal.read(instance) is None:
            remove_tree(path, ignore_errors=True)


@contextmanager
def redis_stopped(instance: Instance, operation: str, *, discard_unsaved: bool = False) -> Iterator[Journal]:
    """Keep Redis down while its files are examined.

    Afterwards it runs again if it ran before, whatever happened. Gives the journal of a transaction that ``swap_data``
    can continue; a swap that was interrupted is left to the recovery. Raises Failure.
    """
    journal.ensure_none(instance)
    instance.refresh_container()
    state = instance.container.get("State", {})
    was_running = bool(state.get("Running") or state.get("Restarting"))
    policy = service.restart_policy(instance)
    with interruptible(instance, operation):
        record, _ = _stop(instance, operation, discard_unsaved=discard_unsaved)
        try:
            yield record
        finally:
            current = journal.read(instance)
            # Once the data has moved, only the recovery knows which data Redis must start with.
            if current is not None and current.stage is Stage.STOPPED:
                if was_running:
                    service.start(instance, policy)
                else:
                    service.set_restart_policy(instance, policy)
                journal.end(instance)
                remove_tree(instance.root / paths.STAGING, ignore_errors=True)


def swap_data(
    instance: Instance,
    staged: Path,
    check: Check,
    operation: str,
    *,
    discard_unsaved: bool = False,
    stopped: Journal | None = None,
    previous: str = "",
) -> Swapped:
    """Make a staged directory the live data and start Redis with it.

    ``check`` returns what is wrong with the new data once Redis serves it. If it returns something, or Redis does not
    become healthy, the old data is put back and Failure says why. ``discard_unsaved`` accepts that Redis cannot write
    its last changes when it stops. ``stopped`` is the journal of ``redis_stopped``, which this continues. ``previous``
    is an unused name for the previous data. Raises Failure.
    """
    if stopped is None:
        journal.ensure_none(instance)
    if upgrade_in_progress(instance):
        raise Failure("an upgrade has not finished: the previous version's data is still kept. Deploy again first")
    previous = previous or unused_name(instance)
    began = time.monotonic()
    with interruptible(instance, operation, previous):
        directories = {"staged": str(staged.relative_to(instance.root)), "previous": f"{paths.PREVIOUS}/{previous}"}
        if stopped is None:
            record, warning = _stop(instance, operation, discard_unsaved=discard_unsaved, **directories)
        else:
            record, warning = journal.advance(instance, stopped, Stage.STOPPED, **directories), ""
        problems = _install(instance, record, check)
        if problems:
            reason = f"{operation}: {'; '.join(problems)}"
            transaction.roll_back(reason, lambda: _roll_back(instance, record))
            raise Failure(f"{reason}. The old data is back and Redis serves it; nothing else changed")
        journal.end(instance)
    return Swapped(time.monotonic() - began, previous, warning)


@contextmanager
def interruptible(instance: Instance, operation: str, previous: str = "") -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a message that says what follows.

    systemd or ``redisctl recover`` finishes the interrupted transaction. ``previous`` is the name that the previous
    data gets.
    """
    try:
        yield
    except KeyboardInterrupt:
        if journal.read(instance) is not None:
            outcome = f"was interrupted. {_RECOVERY}"
        elif previous and (instance.previous / previous).exists():
            outcome = "had finished when it was interrupted: Redis serves the new data"
        else:
            outcome = "was interrupted. Nothing has changed"
        raise Failure(f"{operation} {outcome}") from None


def _stop(instance: Instance, operation: str, *, discard_unsaved: bool, **directories: Any) -> tuple[Journal, str]:
    """Begin a transaction and stop Redis.

    Returns the journal, and what the old data may lack. If Redis cannot save, the transaction ends, Redis runs with the
    old data, and Failure says what to do.
    """
    policy = service.restart_policy(instance)
    # A person stopped the instance. It will run with the new data, as after 'redisctl start'.
    running_policy = instance.restart if policy == "no" else policy
    record = transaction.begin(instance, operation, Kind.DATA, restart_policy=running_policy, **directories)
    try:
        service.hold_down(instance)
        record = journal.advance(instance, record, Stage.STOPPING)
        stopped = service.stop(instance, discard_unsaved=discard_unsaved)
        return journal.advance(instance, record, Stage.STOPPED), stopped.warning
    except UncleanStop as error:
        if error.running:
            outcome = "Nothing has changed"
            service.set_restart_policy(instance, policy)
        else:
            problems = service.start_and_check(instance, lambda _: [], running_policy)
            _leave_to_recovery(record, problems)
            running = f"Redis does not start again: {'; '.join(problems)}" if problems else "Redis runs again as before"
            outcome = f"Nothing was replaced, and {running}"
        journal.end(instance)
        raise Failure(
            f"{error}. {outcome}. Free some space and try again, or use --discard-unsaved: it replaces the data "
            "although the newest writes cannot be saved"
        ) from None
    except Failure as error:
        if record.stage is Stage.STOPPING:
            # Redis may have exited, or be about to. The recovery starts it again.
            raise Failure(f"{error}. {_RECOVERY}") from None
        service.set_restart_policy(instance, policy)
        journal.end(instance)
        raise


def _leave_to_recovery(record: Journal, problems: list[str]) -> None:
    """Raise Failure if Redis did not start because Docker is down.

    The journal stays: Docker itself would not start Redis when it is back.
    """
    if problems and not docker.answers():
        raise Failure(f"{record.operation}: {'; '.join(problems)}. {transaction.RETRIES}")


def _install(instance: Instance, record: Journal, check: Check) -> list[str]:
    """Swap the directories and start Redis. Returns what is wrong with it."""
    try:
        record = journal.advance(instance, record, Stage.STASHING)
        previous = instance.root / record.previous
        previous.parent.mkdir(mode=0o700, exist_ok=True)
        os.rename(instance.live, previous)
        _fsync(instance, previous.parent)
        record = journal.advance(instance, record, Stage.INSTALLING)
        os.rename(instance.root / record.staged, instance.live)
        _fsync(instance, (instance.root / record.staged).parent)
        journal.advance(instance, record, Stage.STARTING)
        return service.start_and_check(instance, check, record.restart_policy)
    except (OSError, Failure) as error:
        return [str(error)]


def _roll_back(instance: Instance, record: Journal) -> None:
    record = journal.try_advance(instance, record, Stage.ROLLING_BACK)
    service.hold_down(instance)
    # The new data is thrown away, so it need not be saved.
    service.stop(instance, discard_unsaved=True)
    record = put_back_files(instance, record)
    start_old(instance, record)


def put_back_files(instance: Instance, record: Journal) -> Journal:
    """Make the previous data the live data again, from whatever point.

    Needs no Docker; Redis must not run. It can be repeated: once the previous data has moved, there is nothing left to
    do.
    """
    previous = instance.root / record.previous
    if record.previous and previous.is_dir():
        if instance.live.exists():
            # Where it came from: an undo must not lose the previous data that it tried.
            os.rename(instance.live, instance.root / record.staged)
        os.rename(previous, instance.live)
        _fsync(instance, previous.parent)
    return journal.try_advance(instance, record, Stage.RESTARTING_OLD)


def start_old(instance: Instance, record: Journal) -> None:
    """Start Redis with the old data and end the transaction.

    Raises Failure if Redis is not healthy.
    """
    problems = service.start_and_check(instance, lambda _: [], record.restart_policy)
    _leave_to_recovery(record, problems)
    journal.end(instance)
    remove_tree(instance.root / paths.STAGING, ignore_errors=True)
    if problems:
        raise Failure(f"{record.operation}: the old data is back, but {'; '.join(problems)}")


def recover_files(instance: Instance, record: Journal) -> Journal:
    """Put the old data back after an interruption, before Docker starts.

    Does nothing if nothing has moved.
    """
    return put_back_files(instance, record) if record.stage in _DATA_MOVES else record


def recover(instance: Instance, record: Journal) -> str:
    """Put the old data back and start Redis with it.

    Returns what was done. Raises Failure.
    """
    warning = ""
    if record.stage is Stage.STOPPING or record.stage in _DATA_MOVES:
        service.hold_down(instance)
        try:
            # A Redis that got SIGTERM has to exit first. New data is thrown away and need not be saved.
            stopped = service.stop(instance, discard_unsaved=record.stage is not Stage.STOPPING)
            warning = stopped.warning if record.stage is Stage.STOPPING else ""
        except UncleanStop as error:
            warning = str(error)
    record = recover_files(instance, record)
    start_old(instance, record)
    message = f"{record.operation} was interrupted: the old data is back and Redis serves it"
    return f"{message}. {warning}" if warning else message


# -- Previous data


def discard_previous(instance: Instance) -> list[str]:
    """Remove all previous data. Returns the names. Raises Failure if something stays."""
    names = []
    for path in previous_data_dirs(instance):
        remove_tree(path)
        names.append(path.name)
    return names


def unused_name(instance: Instance) -> str:
    """Return a name for the live data that is replaced.

    It has the time, a later one if the clock was set back, and the form in which Redis reads the data.
    """
    moment, names = time.time(), [path.name for path in previous_data_dirs(instance)]
    while any(name.startswith(backup_id(moment)) for name in names):
        moment += 1
    return f"{backup_id(moment)}-{form(instance)}"


def _fsync(instance: Instance, other: Path) -> None:
    fsync_directory(instance.live.parent)
    fsync_directory(other)
