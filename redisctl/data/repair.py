"""Repairing data files that Redis does not load: what is wrong, what a repair would lose, and the repair of a copy.

Redis's own checkers look at a copy on the disk of the data, where it takes the place of the damaged files if somebody
wants that. A log of writes is cut at the first damage, as redis-check-aof does it; a snapshot cannot be mended, so that
another one has to do.
"""

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.exceptions import BusyLoadingError, RedisError
from redis.exceptions import ConnectionError as NotConnected

from redisctl.backup import catalog
from redisctl.backup.catalog import BackupSet
from redisctl.backup.verify import count_keys
from redisctl.core import aof_manifest
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE, REDIS_UID, copy, own
from redisctl.core.formatting import ago, size
from redisctl.core.instance import Instance, error_text
from redisctl.core.journal import Journal
from redisctl.core.scratch_redis import NotLoadable, Source, loaded_redis, run_checker
from redisctl.core.startup_errors import explain
from redisctl.data import aof_scan, layout, restore
from redisctl.data.aof_scan import Losses
from redisctl.data.point_in_time import format_time, rdb_time
from redisctl.data.restore import Prepared
from redisctl.data.swap import Swapped, staging_dir

AOF, RDB = "aof", "rdb"


@dataclass(frozen=True)
class Finding:
    """What is wrong with a file, in words: ``sound`` of its ``size`` bytes are whole, counted from the beginning."""

    name: str
    what: str
    size: int = 0
    sound: int = 0


@dataclass(frozen=True)
class RdbCheck:
    """What redis-check-rdb says of a snapshot. ``at`` is the moment whose data it holds, None where it says none."""

    path: Path
    problem: str = ""
    keys: int = 0
    at: float | None = None


@dataclass(frozen=True)
class LoadedData:
    """What a repaired copy has when it is loaded: ``prepared`` is for putting it in place."""

    prepared: Prepared
    sessions: int
    jobs: int

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return {"keys": self.prepared.keys, "sessions": self.sessions, "jobs": self.jobs}


@dataclass
class Report:
    """All that was found, and what could be done.

    ``source`` is what a repair would use: the log, the snapshot beside it, or empty where it can do nothing.
    ``last_write`` is when the last of what the repaired log holds was written; where the log says no times it lies
    between ``base_time`` and ``mtime``. ``cut`` tells whether the log ends before its end, ``load_error`` what keeps
    Redis from loading what is whole, ``explicit`` whether somebody said what to take.
    """

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lost: Losses = field(default_factory=Losses)
    source: str = ""
    cut: bool = False
    last_write: float | None = None
    base_time: float | None = None
    mtime: float | None = None
    snapshot: RdbCheck | None = None
    backup: BackupSet | None = None
    loaded_data: LoadedData | None = None
    load_error: str = ""
    explicit: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged, and nobody asked for something else than what there is."""
        return not self.findings and not self.load_error and not self.explicit


# -- Whether there is anything to do


def is_serving(instance: Instance) -> bool:
    """Whether Redis serves. Raises Failure where it is not known whether it will."""
    state = instance.container.get("State", {})
    if not instance.container:
        raise Failure(f"the container {instance.name} is gone: deploy again, then see whether there is damage")
    again_and_again = bool(instance.container.get("RestartCount")) or state.get("Restarting")
    if not state.get("Pid"):
        return False
    for _ in range(2):
        try:
            with instance.connect() as redis:
                redis.ping()
            return True
        except BusyLoadingError:
            if not again_and_again:
                raise Failure("Redis is loading its data: wait until redisctl health says more") from None
            return False
        except NotConnected:
            # It was started this moment, or ends.
            time.sleep(0.5)
        except RedisError as error:
            raise Failure(
                f"Redis runs and does not serve, which no file is the cause of: {error_text(error)}"
            ) from None
    return False


# -- What is there


@contextmanager
def examine(instance: Instance, choice: str) -> Iterator[Report]:
    """Copy the data, check the copy, mend it and load it. ``choice`` is LOG, OTHER, or empty for what loses less.

    The files that Redis has are only read. Raises Failure where it cannot be told.
    """
    report = Report(backup=next((one for one in catalog.list_backups(instance.backups) if one.is_verified), None))
    report.explicit = bool(choice)
    if instance.live.stat().st_uid != REDIS_UID:
        raise Failure(f"{instance.live} does not belong to uid {REDIS_UID}: deploy again, which puts it right")
    report.findings += _not_redis_own(instance)
    rdb = instance.live / instance.config_value("dbfilename", RDB_FILE)
    with staging_dir(instance) as place:
        if rdb.exists():
            report.snapshot = _check_copy_of(instance, rdb, place)
        if layout.aof_enabled(instance):
            _check_aof(instance, place, report)
        elif report.snapshot is None:
            report.notes.append(f"there is no {rdb.name}: Redis starts empty")
        elif report.snapshot.problem:
            report.findings.append(Finding(rdb.name, report.snapshot.problem, rdb.stat().st_size))
        else:
            report.source = RDB
        report.source = _chosen(report, choice, with_log=layout.aof_enabled(instance))
        if report.source == RDB:
            _empty(place)
            restore.ensure_disk_space(instance, rdb)
            layout.stage_rdb(instance, rdb, place)
        if report.source:
            _load(instance, place, report)
        yield report


def _not_redis_own(instance: Instance) -> list[Finding]:
    """Files that Redis may not read or write. A copy is its own."""
    log, _ = layout.current_aof(instance)
    paths = [instance.live / instance.config_value("dbfilename", RDB_FILE), log, *log.glob("*")]
    foreign = [path for path in paths if path.exists() and path.stat().st_uid != REDIS_UID]
    return [
        Finding(path.name, f"belongs to uid {path.stat().st_uid}, and Redis runs as {REDIS_UID}") for path in foreign
    ]


def _check_aof(instance: Instance, place: Path, report: Report) -> None:
    """Check and mend a copy of the log of writes, and say what it lost."""
    log, manifest = layout.current_aof(instance)
    names = [path.name for path in log.iterdir()] if log.is_dir() else []
    parts = _parts(manifest, names, report)
    if not parts:
        return
    restore.ensure_disk_space(instance, log)
    there = [part for part in parts if part.name in names]
    layout.stage_aof_parts(instance, log, there, place)
    copy = layout.staged_data(instance, place)
    whole: list[aof_manifest.Part] = []
    for part in parts:
        finding = _check_part(instance, copy, part)
        if finding:
            report.findings.append(finding)
            break
        whole.append(part)
    report.cut = len(whole) < len(parts)
    cut_in = report.findings[-1] if report.cut else None
    report.mtime = max(((log / part.name).stat().st_mtime for part in there), default=None)
    if cut_in:
        damaged = parts[len(whole)]
        if damaged.type == aof_manifest.BASE and cut_in.sound == 0:
            # Nothing of what came later means anything without it.
            whole = []
        elif cut_in.sound:
            whole.append(damaged)
            report.last_write = aof_scan.last_timestamp(log / damaged.name, cut_in.sound)
        for part in parts:
            if part in there and part.type == aof_manifest.INCREMENT and (part == damaged or part not in whole):
                start = cut_in.sound if part == damaged else 0
                aof_scan.count(report.lost, log / part.name, start, instance.session_keys)
        for part in there:
            if part not in whole:
                (copy / part.name).unlink()
    if whole:
        layout.write_manifest(instance, place, whole)
        report.base_time = rdb_time(copy / whole[0].name)
        report.source = AOF


def _parts(manifest: Path, names: list[str], report: Report) -> list[aof_manifest.Part]:
    """The parts of the log; by the names of the files where the manifest does not tell."""
    text = manifest.read_text(errors="replace") if manifest.exists() else None
    problem = aof_manifest.find_problem(text, names)
    beside = aof_manifest.orphaned_parts(text, names)
    if beside:
        report.findings.append(Finding(manifest.name, problem, manifest.stat().st_size))
        return beside
    if text is None and not problem:
        report.notes.append("there is no log of writes: Redis starts empty, whatever else is there")
        if report.snapshot and report.snapshot.keys:
            report.findings.append(Finding(manifest.parent.name, "it is missing, or empty"))
        return []
    try:
        return aof_manifest.parse(text or "")
    except aof_manifest.ManifestError:
        found = aof_manifest.from_file_names(names)
        report.findings.append(Finding(manifest.name, problem, len(text or "")))
        if found:
            report.notes.append(
                f"the manifest was made anew from the names of {', '.join(part.name for part in found)}"
            )
            return found
        report.notes.append(
            f"which of {', '.join(sorted(names)) or 'no files'} belong together is not clear without it"
        )
        return []


def _check_part(instance: Instance, log: Path, part: aof_manifest.Part) -> Finding | None:
    """What is wrong with a part; redis-check-aof cuts a log there, in the copy."""
    path = log / part.name
    if not path.exists():
        return Finding(part.name, "it is missing")
    before = path.stat().st_size
    if not before and part.type == aof_manifest.INCREMENT:
        return None
    if part.name.endswith(".rdb"):
        problem = check_rdb(instance, path).problem
        return Finding(part.name, problem, before) if problem else None
    code, said = run_checker(instance, log, "redis-check-aof", "--fix", part.name)
    sound = path.stat().st_size
    if code == 0 and sound == before:
        return None
    found = re.search(r"^0x\s*([0-9a-f]+): (.*)$", said, re.MULTILINE)
    what = f"at byte {int(found[1], 16)}: {found[2]}" if found else f"at byte {sound}: no command begins there"
    if code != 0:
        # It does not cut what begins with damage.
        sound = 0
    return Finding(part.name, what, before, sound)


def check_rdb(instance: Instance, path: Path) -> RdbCheck:
    """What redis-check-rdb says of a snapshot, which is a copy."""
    code, said = run_checker(instance, path.parent, "redis-check-rdb", path.name)
    keys = re.search(r"^\[info\] (\d+) keys read", said, re.MULTILINE)
    found = RdbCheck(path, "", int(keys[1]) if keys else 0, rdb_time(path))
    if code == 0:
        return found
    error = re.search(r"DETECTED ---\s*\[offset (\d+)\] (.*)", said)
    what = f"at byte {error[1]}: {error[2]}" if error else " / ".join(said.strip().splitlines()[-2:])
    return RdbCheck(path, what, found.keys, found.at)


def _check_copy_of(instance: Instance, rdb: Path, place: Path) -> RdbCheck:
    restore.ensure_disk_space(instance, rdb)
    with rdb.open("rb") as file:
        copy(file, None, place / rdb.name)
    own(place / rdb.name)
    found = check_rdb(instance, place / rdb.name)
    (place / rdb.name).unlink()
    # Without the time in it, that of the file.
    return RdbCheck(rdb, found.problem, found.keys, found.at or rdb.stat().st_mtime)


def _empty(place: Path) -> None:
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


# -- What loses less


def _chosen(report: Report, choice: str, *, with_log: bool) -> str:
    good = report.snapshot is not None and not report.snapshot.problem
    if choice == RDB and not good:
        raise Failure("there is no whole snapshot beside the log: redisctl restore latest")
    if choice == AOF and report.source != AOF:
        raise Failure("there is no log of writes that could be mended: redisctl restore latest")
    if choice:
        return choice
    if not with_log:
        return report.source
    return best_source(report)


def best_source(report: Report) -> str:
    """What a repair is made of where nobody says it: the log as far as it is whole, or the snapshot. Pure.

    The log, unless it is known to end before the snapshot. Without a log it is the snapshot, unless a backup is newer.
    """
    taken = report.snapshot.at if report.snapshot and not report.snapshot.problem else None
    if report.source == AOF:
        if not report.cut or taken is None:
            return AOF
        # Nothing was written to the log after it: it has what is behind the damage, too. It is told in whole seconds.
        has_all = report.mtime is not None and taken + 1 > report.mtime
        return RDB if has_all or (report.last_write is not None and taken > report.last_write) else AOF
    if taken is None or not report.findings:
        return ""
    return "" if report.backup and report.backup.metadata.taken_at > taken else RDB


def _load(instance: Instance, place: Path, report: Report) -> None:
    """Load what is laid out in a scratch Redis, and count it; ``why`` where that refuses it."""
    what = restore.unknown_source(instance, place)
    known = report.backup.metadata.memory if report.backup else 0
    what = Source(what.path, max(what.memory, known), int(instance.config_value("databases", "16")))
    try:
        with loaded_redis(instance, what) as redis:
            told = restore.inspect_loaded(redis, place)
            report.loaded_data = LoadedData(
                told, count_keys(redis, instance.session_keys), count_keys(redis, "rq:job:*")
            )
    except NotLoadable as error:
        why = explain([str(error)])
        report.load_error = f"{error}" if why is None else f"{why.meaning}: {why.remedy}"
        report.source = ""


def put_in_place(instance: Instance, report: Report, stopped: Journal) -> Swapped:
    """Have Redis start with the repaired copy. Seconds that it did not serve, from now on. Raises Failure."""
    if report.loaded_data is None:
        raise Failure("nothing was repaired")
    return restore.put_in_place(instance, report.loaded_data.prepared, "the repair", stopped=stopped)


# -- In words. Pure


def describe_findings(report: Report) -> Iterator[tuple[str, str]]:
    """What is wrong."""
    for one in report.findings:
        sound = f"; {one.sound} of {one.size} bytes before it are whole" if one.sound else ""
        yield "damaged", f"{one.name}: {one.what}{sound}"
    if report.load_error:
        yield "does not load", report.load_error
    for note in report.notes:
        yield "note", note
    shot = report.snapshot
    if shot and shot.problem and shot.path.name not in {one.name for one in report.findings}:
        yield (
            "note",
            f"{shot.path.name} is damaged, too, which loses nothing: with a log of writes Redis does not read it",
        )


def describe_losses(report: Report) -> Iterator[tuple[str, str]]:
    """What a repair of the log would cut off."""
    lost = report.lost
    if not lost.size:
        return
    if report.source != AOF:
        yield "behind it", f"{size(lost.size)} of log"
    else:
        yield "would be cut", f"{lost.size} bytes of the log"
    commands = ", ".join(f"{number} {name}" for name, number in lost.commands.most_common(8))
    unclear = f"; {lost.unclear} bytes are no commands" if lost.unclear else ""
    unseen = f"; {size(lost.unseen)} more were not looked at" if lost.unseen else ""
    yield "in it", f"{sum(lost.commands.values())} commands ({commands or 'none'}){unclear}{unseen}"
    if lost.keys:
        yield "of keys", ", ".join(f"{len(keys)} {kind}" for kind, keys in sorted(lost.keys.items()))
    if lost.first is not None and lost.last is not None:
        yield "written", f"{format_time(lost.first)} to {format_time(lost.last)}"


def describe_remaining(report: Report, now: float) -> Iterator[tuple[str, str]]:
    """What there would be after a repair, and what else there is."""
    if report.loaded_data:
        seen = report.loaded_data
        what = "the snapshot" if report.source == RDB else "the log, cut" if report.cut else "the log"
        counted = f"{seen.prepared.keys} keys; now alive: {seen.sessions} sessions, {seen.jobs} jobs"
        yield "loaded aside", f"{what}{_until(report)}: {counted}"
    shot = report.snapshot
    if shot and not shot.problem and shot.at and report.source != RDB:
        yield "snapshot", f"{shot.path.name}: {shot.keys} keys of {ago(now - shot.at)} ago: --source rdb takes it"
    if report.backup:
        kept = report.backup.metadata
        yield (
            "backup",
            f"{kept.id}: {kept.keys} keys of {ago(now - kept.taken_at)} ago, verified: redisctl restore latest",
        )
    else:
        yield "backup", "none that was verified"


def _until(report: Report) -> str:
    if report.source == RDB:
        return f" of {format_time(report.snapshot.at)}" if report.snapshot and report.snapshot.at else ""
    if report.last_write is not None:
        return f" behind {format_time(report.last_write)}"
    if not report.cut or report.base_time is None or report.mtime is None:
        return ""
    # Without redis_aof_timestamps nothing tells when a command was written.
    return f" somewhere between {format_time(report.base_time)} and {format_time(report.mtime)} (it says no times)"


def next_step(report: Report) -> str:
    """What to do next, where nothing was done."""
    if report.is_whole:
        return "nothing is damaged. To start it: docker compose up -d --wait, in its directory"
    if report.source == AOF:
        return "nothing was changed: --yes has Redis start with this, and keeps the present files"
    if report.source == RDB:
        return "nothing was changed: --yes has Redis start with the snapshot, and keeps the present files"
    if report.findings and report.backup:
        return "a snapshot cannot be mended, and no newer one is whole: redisctl restore latest"
    if report.findings:
        return "it cannot be mended here, and there is no verified backup. Keep data/ as it is: copy it away first"
    return "nothing is damaged, so nothing is cut; redisctl restore latest brings the newest backup back"


def as_dict(report: Report, *, names: bool) -> dict[str, Any]:
    """For JSON."""
    shot, kept = report.snapshot, report.backup
    return {
        "whole": report.is_whole,
        "damaged": [vars(one) for one in report.findings],
        "does_not_load": report.load_error,
        "notes": report.notes,
        "lost": report.lost.as_dict(names=names),
        "source": report.source,
        "last_write": report.last_write,
        "found": report.loaded_data.as_dict() if report.loaded_data else None,
        "snapshot": {"keys": shot.keys, "taken_at": shot.at, "problem": shot.problem} if shot else None,
        "backup": {"id": kept.id, "keys": kept.metadata.keys, "taken_at": kept.metadata.taken_at} if kept else None,
    }
