"""Replaces the data of an instance in one transaction. The old data stays as the previous data.

The new data is staged in a directory on the same file system. Then Redis is stopped and its stop is checked; two
renames make the old directory the previous data and the staged directory the live data; Redis starts and is checked. If
anything goes wrong or the host goes down, the old data comes back.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redisctl import paths
from redisctl.backup.catalog import backup_id
from redisctl.core import journal, service
from redisctl.core.errors import Failure
from redisctl.core.files import fsync_directory, make_owned_directory
from redisctl.core.instance import Instance
from redisctl.core.journal import Journal, Kind, Stage
from redisctl.core.service import Check, UncleanStop
from redisctl.data.layout import previous_data_dirs, upgrade_in_progress


@dataclass(frozen=True)
class Swapped:
    """A swap that succeeded: seconds that Redis did not serve, the name of the previous data, and a warning."""

    downtime: float
    previous: str
    warning: str = ""


@contextmanager
def staging_dir(instance: Instance) -> Iterator[Path]:
    """Create a directory for new data, owned by Redis, on the file system of the data, and remove it at the end."""
    path = instance.root / paths.STAGING / "new"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    shutil.rmtree(path, ignore_errors=True)
    make_owned_directory(path)
    try:
        yield path
    finally:
        # A swap that was interrupted needs it until it is recovered.
        if journal.read(instance) is None:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def redis_stopped(instance: Instance, operation: str) -> Iterator[Journal]:
    """Keep Redis down while its files are examined. Afterwards it runs again if it ran before, whatever happened.

    Gives the journal of a transaction that ``swap_data`` can continue. Raises Failure.
    """
    journal.ensure_none(instance)
    instance.refresh_container()
    state = instance.container.get("State", {})
    ran = bool(state.get("Running") or state.get("Restarting"))
    with interruptible(operation):
        policy = service.restart_policy(instance)
        record = journal.begin(instance, operation, Kind.DATA, restart_policy=policy)
        service.hold_down(instance)
        _stop(instance, record, discard_unsaved=False)
        record = journal.advance(instance, record, Stage.STOPPED)
        try:
            yield record
        finally:
            if journal.read(instance) is not None:
                if ran:
                    service.start(instance, policy)
                else:
                    service.set_restart_policy(instance, policy)
                journal.end(instance)


def swap_data(
    instance: Instance,
    staged: Path,
    check: Check,
    operation: str,
    *,
    discard_unsaved: bool = False,
    stopped: Journal | None = None,
) -> Swapped:
    """Make a staged directory the live data and start Redis with it.

    ``check`` returns what is wrong with the new data once Redis serves it. If it returns something, or Redis does not
    become healthy, the old data is put back and Failure says why. ``discard_unsaved`` accepts that Redis cannot write
    its last changes when it stops. ``stopped`` is the journal of ``redis_stopped``, which this continues. Raises
    Failure.
    """
    if stopped is None:
        journal.ensure_none(instance)
    if upgrade_in_progress(instance):
        raise Failure("an upgrade has not finished: the previous version's data is still kept. Deploy again first")
    previous = unused_name(instance)
    began = time.monotonic()
    with interruptible(operation):
        places = {"staged": str(staged.relative_to(instance.root)), "previous": f"{paths.PREVIOUS}/{previous}"}
        if stopped is None:
            policy = service.restart_policy(instance)
            record = journal.begin(instance, operation, Kind.DATA, restart_policy=policy, **places)
            service.hold_down(instance)
            warning = _stop(instance, record, discard_unsaved=discard_unsaved)
        else:
            record, warning = stopped, ""
        record = journal.advance(instance, record, Stage.STOPPED, **places)
        problems = _install(instance, record, check)
        if problems:
            _roll_back(instance, record)
            raise Failure(
                f"{operation}: {'; '.join(problems)}. The old data is back and Redis serves it; nothing else changed"
            )
        journal.end(instance)
    return Swapped(time.monotonic() - began, previous, warning)


@contextmanager
def interruptible(operation: str) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a message; systemd or ``redisctl recover`` finishes the transaction."""
    try:
        yield
    except KeyboardInterrupt:
        raise Failure(
            f"{operation} was interrupted. The old state comes back by itself within seconds; 'redisctl recover' waits "
            "for it"
        ) from None


def _stop(instance: Instance, record: Journal, *, discard_unsaved: bool) -> str:
    try:
        return service.stop(instance, discard_unsaved=discard_unsaved).warning
    except UncleanStop as error:
        # Nothing has moved: Redis goes on with what it has.
        if error.running:
            service.set_restart_policy(instance, record.restart_policy)
            journal.end(instance)
            raise Failure(f"{error}. Nothing has changed") from None
        problems = service.start_and_check(instance, lambda _: [], record.restart_policy)
        journal.end(instance)
        state = f"Redis does not start again: {'; '.join(problems)}" if problems else "Redis runs again as before"
        raise Failure(
            f"{error}. Nothing was replaced, and {state}. --discard-unsaved replaces the data anyway"
        ) from None
    except Failure:
        service.set_restart_policy(instance, record.restart_policy)
        journal.end(instance)
        raise


def _install(instance: Instance, record: Journal, check: Check) -> list[str]:
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
    record = journal.advance(instance, record, Stage.ROLLING_BACK)
    service.hold_down(instance)
    # Its data is thrown away, so a stop that does not save is none of our business.
    service.stop(instance, discard_unsaved=True)
    put_back_files(instance, record)
    start_old(instance, record)


def put_back_files(instance: Instance, record: Journal) -> Journal:
    """Make the previous data the live data again, from whatever point. Needs no Docker; Redis must not run."""
    previous = instance.root / record.previous
    if record.previous and previous.is_dir():
        if instance.live.exists():
            # Where it came from: an undo must not lose the previous data that it tried.
            os.rename(instance.live, instance.root / record.staged)
        os.rename(previous, instance.live)
        _fsync(instance, previous.parent)
    record = journal.advance(instance, record, Stage.RESTARTING_OLD)
    shutil.rmtree(instance.root / paths.STAGING, ignore_errors=True)
    return record


def start_old(instance: Instance, record: Journal) -> None:
    """Start Redis with the old data and end the transaction. Raises Failure if Redis is not healthy."""
    problems = service.start_and_check(instance, lambda _: [], record.restart_policy)
    journal.end(instance)
    if problems:
        raise Failure(f"{record.operation}: the old data is back, but {'; '.join(problems)}")


def recover_files(instance: Instance, record: Journal) -> Journal:
    """Put the old data back after an interruption, before Docker starts, if the transaction had moved it."""
    if record.stage in (Stage.PREPARED, Stage.STOPPED, Stage.RESTARTING_OLD):
        return record
    return put_back_files(instance, record)


def recover(instance: Instance, record: Journal) -> str:
    """Put the old data back and start Redis with it. Returns what was done."""
    if record.stage not in (Stage.PREPARED, Stage.STOPPED, Stage.RESTARTING_OLD):
        service.hold_down(instance)
        service.stop(instance, discard_unsaved=True)
    record = recover_files(instance, record)
    start_old(instance, record)
    return f"{record.operation} was interrupted: the old data is back and Redis serves it"


# -- Previous data


def undo_swap(instance: Instance, *, discard_unsaved: bool = False) -> tuple[str, float]:
    """Make the newest previous data the live data, and the live data the previous data.

    Returns the name of the previous data and the downtime in seconds. Raises Failure if there is none.
    """
    previous = previous_data_dirs(instance)
    if not previous:
        raise Failure("there is no previous data: nothing was replaced, or --discard-previous removed it")
    name = previous[0].name
    operation = f"undo of what was replaced at {name}"
    # Staged like new data, so that an interruption puts it where it was.
    result = swap_data(instance, previous[0], lambda _: [], operation, discard_unsaved=discard_unsaved)
    return name, result.downtime


def discard_previous(instance: Instance) -> list[str]:
    """Remove all previous data. Returns the names."""
    names = [path.name for path in previous_data_dirs(instance)]
    shutil.rmtree(instance.root / paths.PREVIOUS, ignore_errors=True)
    return names


def unused_name(instance: Instance) -> str:
    """Return the current time as a name; a later one if the clock was set back."""
    moment = time.time()
    while (instance.root / paths.PREVIOUS / backup_id(moment)).exists():
        moment += 1
    return backup_id(moment)


def _fsync(instance: Instance, other: Path) -> None:
    fsync_directory(instance.live.parent)
    fsync_directory(other)
