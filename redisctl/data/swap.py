"""Putting other data in the place of an instance's. What is there stays, and comes back when the new is not well.

The new data is laid out in ``data/.incoming``, on the disk where it will be. Then Redis is stopped, what is in
``data/`` moves to ``data/previous/<moment>/``, the new moves in, and Redis starts. A journal says how far that came:
whatever ends it, ``recover`` puts the former data back.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redisctl.backup import catalog
from redisctl.core.files import fsync_directory
from redisctl.core.instance import Failure, Instance
from redisctl.core.journal import (
    Journal,
    Stage,
    ensure_not_interrupted,
    enter_stage,
    read_journal,
    remove_journal,
    write_journal,
)
from redisctl.core.lock import STAGING
from redisctl.core.service import Check, start_and_check, stop
from redisctl.data.layout import make_directory

PREVIOUS = "previous"
# Kept by a deploy below the root and below data, until another version that it started is healthy (files/way-back.sh).
_UPGRADE, _UPGRADED = "upgrade", ".upgrade"


# -- Replacing


def swap_data(instance: Instance, place: Path, check: Check, what: str) -> float:
    """Put what lies in ``place`` where Redis reads it, and start it. Seconds that it did not serve.

    ``check`` says what is wrong with the new data, once it serves. Where it says something, or Redis does not become
    healthy, the former data is put back, and Failure says why. Otherwise that stays in ``data/previous/``.
    """
    ensure_not_interrupted(instance)
    if upgrade_in_progress(instance):
        raise Failure("an upgrade is not ended: the data of the former version is kept aside; deploy again first")
    journal = Journal(
        what=what,
        began=time.time(),
        stage=Stage.STASHING,
        place=str(place),
        previous=_unused_name(instance),
        present=[path.name for path in _data_files(instance)],
        incoming=[path.name for path in place.iterdir()],
    )
    start = time.monotonic()
    with _explain_interruption(what):
        write_journal(instance, journal)
        _swap(instance, journal, place, check)
    return time.monotonic() - start


def _unused_name(instance: Instance) -> str:
    """A name for what is about to be former data: of now, or later where a clock that was set back says the same."""
    moment = time.time()
    while (instance.data / PREVIOUS / catalog.backup_id(moment)).exists():
        moment += 1
    return catalog.backup_id(moment)


def _swap(instance: Instance, journal: Journal, place: Path, check: Check) -> None:
    try:
        stop(instance)
    except Failure:
        # Nothing was moved.
        remove_journal(instance)
        raise
    try:
        _stash_current(instance, journal)
        journal = enter_stage(instance, journal, Stage.INSTALLING)
        for name in journal.incoming:
            (place / name).rename(instance.data / name)
        fsync_directory(instance.data)
        journal = enter_stage(instance, journal, Stage.STARTING)
        problems = start_and_check(instance, check)
    except (OSError, Failure) as error:
        problems = [str(error)]
    if problems:
        _roll_back(instance, journal)
        raise Failure(
            f"{journal.what}: {'; '.join(problems)}. What was there before is back and serves; nothing else was changed"
        )
    remove_journal(instance)


@contextmanager
def _explain_interruption(what: str) -> Iterator[None]:
    """Say what is to be done, where Ctrl-C or SIGTERM ends a replacement halfway: Redis is down, or may be."""
    try:
        yield
    except KeyboardInterrupt:
        raise Failure(f"{what} was broken off, Redis may not serve: redisctl recover ends that") from None


def undo_swap(instance: Instance) -> tuple[str, float]:
    """Put the newest former data back, and keep the present one in its place: undone once more, that comes back.

    What it was kept for, and the seconds that Redis did not serve. Raises Failure where there is none.
    """
    kept = previous_data_dirs(instance)
    if not kept:
        raise Failure("there is no former data: nothing was replaced, or it was removed by --discard-previous")
    took = swap_data(instance, kept[0], lambda _: [], f"putting back what was replaced at {kept[0].name}")
    kept[0].rmdir()
    return kept[0].name, took


def discard_previous(instance: Instance) -> list[str]:
    """Remove all former data. The moments at which it was replaced."""
    found = [path.name for path in previous_data_dirs(instance)]
    shutil.rmtree(instance.data / PREVIOUS, ignore_errors=True)
    return found


def previous_data_dirs(instance: Instance) -> list[Path]:
    """Directories of data that was replaced, the newest first. One that is empty was put back already."""
    try:
        return [path for path in sorted((instance.data / PREVIOUS).iterdir(), reverse=True) if any(path.iterdir())]
    except FileNotFoundError:
        return []


def upgrade_in_progress(instance: Instance) -> bool:
    """Whether a deploy keeps the data of the former version, as another one that it started is not healthy yet."""
    return (instance.root / _UPGRADE).exists() and (instance.data / _UPGRADED).exists()


def recover_swap(instance: Instance) -> str:
    """Put the former data back where a replacement was broken off, and start Redis. What it was; empty for none."""
    journal = read_journal(instance)
    if journal is None:
        return ""
    with _explain_interruption(f"putting back what was there before {journal.what}"):
        _roll_back(instance, journal)
    shutil.rmtree(instance.data / STAGING, ignore_errors=True)
    return journal.what


def _data_files(instance: Instance) -> list[Path]:
    return [path for path in instance.data.iterdir() if path.name != PREVIOUS and not path.name.startswith(".")]


def _stash_current(instance: Instance, journal: Journal) -> None:
    kept = instance.data / PREVIOUS / journal.previous
    for path in (kept.parent, kept):
        if not path.exists():
            make_directory(path)
    for name in journal.present:
        (instance.data / name).rename(kept / name)
    fsync_directory(kept)
    fsync_directory(instance.data)


def _roll_back(instance: Instance, journal: Journal) -> None:
    """Undo a replacement from wherever it came to. It may be ended and begun again at any point."""
    stop(instance)
    kept = instance.data / PREVIOUS / journal.previous
    if journal.stage in (Stage.INSTALLING, Stage.STARTING):
        # All that was there is aside: what is here by now is new, or was made by a Redis that started with it.
        place = Path(journal.place)
        if not place.exists():
            make_directory(place)
        for path in _data_files(instance):
            if path.name in journal.incoming:
                path.rename(place / path.name)
            else:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        journal = enter_stage(instance, journal, Stage.ROLLING_BACK)
    if kept.exists():
        for path in kept.iterdir():
            path.rename(instance.data / path.name)
        fsync_directory(instance.data)
        kept.rmdir()
    problems = start_and_check(instance, lambda _: [])
    remove_journal(instance)
    if problems:
        raise Failure(f"{journal.what}: the former data is back, but {'; '.join(problems)}")
