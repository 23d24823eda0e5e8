"""Putting other data in the place of an instance's. What is there stays, and comes back when the new is not well.

The new data is laid out in ``data/.incoming``, on the disk where it will be. Then Redis is stopped, what is in
``data/`` moves to ``data/former/<moment>/``, the new moves in, and Redis starts. A journal says how far that came:
whatever ends it, ``recover`` puts the former data back.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from redis import Redis
from redis.exceptions import BusyLoadingError, RedisError
from redis.exceptions import ConnectionError as NotConnected

from redisctl import aof, archive
from redisctl.archive import REDIS_GID, REDIS_UID, SNAPSHOT
from redisctl.instance import Failure, Instance, in_words
from redisctl.locking import INCOMING, JOURNAL, fsync_directory
from redisctl.scratch import PATIENCE, read_manifest

FORMER = "former"
# Kept by a deploy below the root and below data, until another version that it started is healthy (files/way-back.sh).
_UPGRADE, _UPGRADED = "upgrade", ".upgrade"
# Seconds until a Redis that has loaded its data passes its health check.
WELL = 60
_POLL = 0.2

AWAY, IN, STARTING, BACK = "moving away", "moving in", "starting", "putting back"

Check = Callable[[Redis], list[str]]


@dataclass(frozen=True)
class Journal:
    """How far a replacement came: the names that were in ``data/``, and those that come in from ``place``."""

    what: str
    began: float
    stage: str
    place: str
    former: str
    present: list[str]
    incoming: list[str]


# -- Laying data out as the instance reads it


def directive(instance: Instance, name: str, default: str) -> str:
    """A directive of redis.conf, as Redis will read it when it starts."""
    text = (instance.root / "config/redis.conf").read_text()
    found = re.findall(rf"^{name} (\S+)", text, re.MULTILINE)
    return found[-1].strip('"') if found else default


def has_log(instance: Instance) -> bool:
    """Whether the instance keeps a log of writes: then it reads nothing else when it starts."""
    return directive(instance, "appendonly", "no") == "yes"


@contextmanager
def incoming(instance: Instance) -> Iterator[Path]:
    """An empty directory for data that is to come, on the disk of the data; removed afterwards."""
    place = instance.data / INCOMING
    shutil.rmtree(place, ignore_errors=True)
    _make(place)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def from_snapshot(instance: Instance, rdb: Path, place: Path) -> None:
    """Lay a snapshot out: with a log of writes as its base, else by itself.

    A log whose directory holds a snapshot alone starts empty, so the snapshot has to be its base.
    """
    if not has_log(instance):
        _take(rdb, place / directive(instance, "dbfilename", SNAPSHOT))
        return
    base, manifest = aof.of_snapshot()
    log = _log_in(instance, place)
    _make(log)
    _take(rdb, log / base.name)
    _write(log / _manifest_name(instance), manifest)


def from_log(instance: Instance, log: Path, place: Path) -> None:
    """Lay a log of writes out, for an instance that keeps one."""
    from_parts(instance, log, read_manifest(log), place)


def from_parts(instance: Instance, log: Path, parts: list[aof.Part], place: Path) -> None:
    """Lay out these parts of a log of writes, whatever its manifest says of them."""
    target = _log_in(instance, place)
    _make(target)
    for part in parts:
        _take(log / part.name, target / part.name)
    name_parts(instance, place, parts)


def name_parts(instance: Instance, place: Path, parts: list[aof.Part]) -> None:
    """Have the manifest of a log that was laid out name these parts."""
    _write(_log_in(instance, place) / _manifest_name(instance), aof.written(parts))


def live_log(instance: Instance) -> tuple[Path, Path]:
    """The directory of the instance's own log of writes, and its manifest."""
    log = _log_in(instance, instance.data)
    return log, log / _manifest_name(instance)


def laid_out(instance: Instance, place: Path) -> Path:
    """What was laid out, to be loaded aside: the snapshot, or the directory of the log."""
    return _log_in(instance, place) if has_log(instance) else place / directive(instance, "dbfilename", SNAPSHOT)


def _log_in(instance: Instance, place: Path) -> Path:
    return place / directive(instance, "appenddirname", aof.DIRECTORY)


def _manifest_name(instance: Instance) -> str:
    return f"{directive(instance, 'appendfilename', 'appendonly.aof')}.manifest"


def _make(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, REDIS_UID, REDIS_GID)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)
    os.chown(path, REDIS_UID, REDIS_GID)


def _take(source: Path, target: Path) -> None:
    try:
        with source.open("rb") as file:
            archive.copy(file, None, target)
    except OSError as error:
        raise Failure(f"{error.filename or target}: {error.strerror}") from None
    target.chmod(0o600)
    os.chown(target, REDIS_UID, REDIS_GID)


# -- Replacing


def swap(instance: Instance, place: Path, check: Check, what: str) -> float:
    """Put what lies in ``place`` where Redis reads it, and start it. Seconds that it did not serve.

    ``check`` says what is wrong with the new data, once it serves. Where it says something, or Redis does not become
    healthy, the former data is put back, and Failure says why. Otherwise that stays in ``data/former/``.
    """
    refuse_interrupted(instance)
    if upgrading(instance):
        raise Failure("an upgrade is not ended: the data of the former version is kept aside; deploy again first")
    journal = Journal(
        what=what,
        began=time.time(),
        stage=AWAY,
        place=str(place),
        former=_unused_name(instance),
        present=[path.name for path in _data_files(instance)],
        incoming=[path.name for path in place.iterdir()],
    )
    start = time.monotonic()
    with _told_when_ended(what):
        _note(instance, journal)
        _exchange(instance, journal, place, check)
    return time.monotonic() - start


def _unused_name(instance: Instance) -> str:
    """A name for what is about to be former data: of now, or later where a clock that was set back says the same."""
    moment = time.time()
    while (instance.data / FORMER / archive.name_of(moment)).exists():
        moment += 1
    return archive.name_of(moment)


def _exchange(instance: Instance, journal: Journal, place: Path, check: Check) -> None:
    try:
        stop(instance)
    except Failure:
        # Nothing was moved.
        _end(instance)
        raise
    try:
        _move_away(instance, journal)
        journal = _stage(instance, journal, IN)
        for name in journal.incoming:
            (place / name).rename(instance.data / name)
        fsync_directory(instance.data)
        journal = _stage(instance, journal, STARTING)
        problems = start_and_check(instance, check)
    except (OSError, Failure) as error:
        problems = [str(error)]
    if problems:
        _put_back(instance, journal)
        raise Failure(
            f"{journal.what}: {'; '.join(problems)}. What was there before is back and serves; nothing else was changed"
        )
    _end(instance)


@contextmanager
def _told_when_ended(what: str) -> Iterator[None]:
    """Say what is to be done, where Ctrl-C or SIGTERM ends a replacement halfway: Redis is down, or may be."""
    try:
        yield
    except KeyboardInterrupt:
        raise Failure(f"{what} was broken off, Redis may not serve: redisctl restore --recover ends that") from None


def undo(instance: Instance) -> tuple[str, float]:
    """Put the newest former data back, and keep the present one in its place: undone once more, that comes back.

    What it was kept for, and the seconds that Redis did not serve. Raises Failure where there is none.
    """
    kept = formers(instance)
    if not kept:
        raise Failure("there is no former data: nothing was replaced, or it was removed by --forget")
    took = swap(instance, kept[0], lambda _: [], f"putting back what was replaced at {kept[0].name}")
    kept[0].rmdir()
    return kept[0].name, took


def forget(instance: Instance) -> list[str]:
    """Remove all former data. The moments at which it was replaced."""
    found = [path.name for path in formers(instance)]
    shutil.rmtree(instance.data / FORMER, ignore_errors=True)
    return found


def formers(instance: Instance) -> list[Path]:
    """Directories of data that was replaced, the newest first. One that is empty was put back already."""
    try:
        return [path for path in sorted((instance.data / FORMER).iterdir(), reverse=True) if any(path.iterdir())]
    except FileNotFoundError:
        return []


def interrupted(instance: Instance) -> Journal | None:
    """The replacement that was broken off, if one was. Raises Failure where that cannot be told."""
    try:
        return Journal(**json.loads((instance.root / JOURNAL).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise Failure(f"{instance.root / JOURNAL} cannot be read: {error}") from None


def upgrading(instance: Instance) -> bool:
    """Whether a deploy keeps the data of the former version, as another one that it started is not healthy yet."""
    return (instance.root / _UPGRADE).exists() and (instance.data / _UPGRADED).exists()


def refuse_interrupted(instance: Instance) -> None:
    """Raise Failure where a replacement was broken off."""
    journal = interrupted(instance)
    if journal:
        raise Failure(
            f"{journal.what} was broken off while {journal.stage}: redisctl restore --recover puts the former data back"
        )


def recover(instance: Instance) -> str:
    """Put the former data back where a replacement was broken off, and start Redis. What it was; empty for none."""
    journal = interrupted(instance)
    if journal is None:
        return ""
    with _told_when_ended(f"putting back what was there before {journal.what}"):
        _put_back(instance, journal)
    shutil.rmtree(instance.data / INCOMING, ignore_errors=True)
    return journal.what


def _data_files(instance: Instance) -> list[Path]:
    return [path for path in instance.data.iterdir() if path.name != FORMER and not path.name.startswith(".")]


def _move_away(instance: Instance, journal: Journal) -> None:
    kept = instance.data / FORMER / journal.former
    for path in (kept.parent, kept):
        if not path.exists():
            _make(path)
    for name in journal.present:
        (instance.data / name).rename(kept / name)
    fsync_directory(kept)
    fsync_directory(instance.data)


def _put_back(instance: Instance, journal: Journal) -> None:
    """Undo a replacement from wherever it came to. It may be ended and begun again at any point."""
    stop(instance)
    kept = instance.data / FORMER / journal.former
    if journal.stage in (IN, STARTING):
        # All that was there is aside: what is here by now is new, or was made by a Redis that started with it.
        place = Path(journal.place)
        if not place.exists():
            _make(place)
        for path in _data_files(instance):
            if path.name in journal.incoming:
                path.rename(place / path.name)
            else:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        journal = _stage(instance, journal, BACK)
    if kept.exists():
        for path in kept.iterdir():
            path.rename(instance.data / path.name)
        fsync_directory(instance.data)
        kept.rmdir()
    problems = start_and_check(instance, lambda _: [])
    _end(instance)
    if problems:
        raise Failure(f"{journal.what}: the former data is back, but {'; '.join(problems)}")


def _note(instance: Instance, journal: Journal) -> None:
    try:
        archive.write_json(instance.root / JOURNAL, asdict(journal))
    except OSError as error:
        raise Failure(f"{instance.root}: {error.strerror}") from None


def _stage(instance: Instance, journal: Journal, stage: str) -> Journal:
    journal = replace(journal, stage=stage)
    _note(instance, journal)
    return journal


def _end(instance: Instance) -> None:
    (instance.root / JOURNAL).unlink()
    fsync_directory(instance.root)


# -- Stopping and starting


def stop(instance: Instance) -> None:
    """Stop Redis, which saves first; it has the time that the deploy gave it. Raises Failure."""
    done = subprocess.run(["docker", "stop", instance.name], capture_output=True, text=True, check=False)
    if done.returncode != 0 and "No such container" not in done.stderr:
        raise Failure(f"{instance.name} cannot be stopped: {done.stderr.strip()}")


def start(instance: Instance) -> None:
    """Start Redis, and do not wait for it. Raises Failure."""
    instance.look_again()
    begin = ["docker", "start", instance.name]
    if not instance.container:
        begin = ["docker", "compose", "--project-directory", str(instance.root), "up", "--detach", instance.name]
    done = subprocess.run(begin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"Redis does not start: {done.stderr.strip()}")


def start_and_check(instance: Instance, check: Check) -> list[str]:
    """Start Redis, wait until it has loaded its data and passes its health check, and say what is wrong with it."""
    try:
        start(instance)
    except Failure as error:
        return [str(error)]
    why = _wait_until_loaded(instance)
    if why:
        return [why]
    try:
        with instance.connect(decode_responses=False) as redis:
            problems = check(redis)
    except RedisError as error:
        return [f"Redis says: {in_words(error)}"]
    return problems or _wait_until_well(instance)


def _wait_until_loaded(instance: Instance) -> str:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(_POLL)
        instance.look_again()
        state = instance.container.get("State", {})
        if state.get("Restarting") or not state.get("Running") or instance.container.get("RestartCount"):
            return f"Redis does not stay up with it: tail {instance.root}/logs/redis.log"
        try:
            with instance.connect() as redis:
                redis.ping()
            return ""
        except (BusyLoadingError, NotConnected):
            continue
        except RedisError as error:
            return f"Redis says: {in_words(error)}"
    return f"it was not loaded within {PATIENCE / 3600:.0f} h"


def _wait_until_well(instance: Instance) -> list[str]:
    """By the health check itself: the engine asks only now and then."""
    check = ["docker", "exec", instance.name, "/bin/sh", "/etc/redis/healthcheck.sh"]
    deadline = time.monotonic() + WELL
    while True:
        done = subprocess.run(check, capture_output=True, text=True, timeout=WELL, check=False)
        if done.returncode == 0:
            return []
        if time.monotonic() > deadline:
            return [f"Redis is not healthy: {(done.stdout or done.stderr).strip()}"]
        time.sleep(_POLL)
