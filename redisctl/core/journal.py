"""The journal of a replacement of data: how far it came."""

import json
from dataclasses import asdict, dataclass, replace

from redisctl.core.files import fsync_directory, write_json
from redisctl.core.instance import Failure, Instance
from redisctl.core.lock import JOURNAL


class Stage:
    """How far a replacement of data came."""

    STASHING, INSTALLING, STARTING, ROLLING_BACK = "moving away", "moving in", "starting", "putting back"


@dataclass(frozen=True)
class Journal:
    """How far a replacement came: the names that were in ``data/``, and those that come in from ``place``."""

    what: str
    began: float
    stage: str
    place: str
    previous: str
    present: list[str]
    incoming: list[str]


def read_journal(instance: Instance) -> Journal | None:
    """The replacement that was broken off, if one was. Raises Failure where that cannot be told."""
    try:
        return Journal(**json.loads((instance.root / JOURNAL).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise Failure(f"{instance.root / JOURNAL} cannot be read: {error}") from None


def ensure_not_interrupted(instance: Instance) -> None:
    """Raise Failure where a replacement was broken off."""
    journal = read_journal(instance)
    if journal:
        raise Failure(
            f"{journal.what} was broken off while {journal.stage}: redisctl recover puts the former data back"
        )


def write_journal(instance: Instance, journal: Journal) -> None:
    try:
        write_json(instance.root / JOURNAL, asdict(journal))
    except OSError as error:
        raise Failure(f"{instance.root}: {error.strerror}") from None


def enter_stage(instance: Instance, journal: Journal, stage: str) -> Journal:
    journal = replace(journal, stage=stage)
    write_journal(instance, journal)
    return journal


def remove_journal(instance: Instance) -> None:
    (instance.root / JOURNAL).unlink()
    fsync_directory(instance.root)
