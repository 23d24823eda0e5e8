"""Repair of data files that Redis does not load.

It examines a copy, says what a repair would lose, and repairs the copy. Redis's own checkers examine it on the disk of
the data, and on request it takes the place of the damaged files. An AOF is cut at the first damage, as redis-check-aof
does it. An RDB snapshot cannot be repaired, only replaced.
"""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from redis.exceptions import BusyLoadingError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from redisctl.backup import catalog
from redisctl.backup.catalog import BackupSet
from redisctl.backup.verify import count_keys
from redisctl.core import aof_manifest
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE, REDIS_UID, copy, own
from redisctl.core.instance import Instance, error_text
from redisctl.core.journal import Journal
from redisctl.core.scratch_redis import NotLoadable, Source, loaded_redis, run_checker
from redisctl.core.startup_errors import explain
from redisctl.data import aof_scan, layout, restore
from redisctl.data.aof_scan import Losses
from redisctl.data.point_in_time import rdb_time
from redisctl.data.restore import Prepared
from redisctl.data.swap import Swapped, staging_dir

AOF, RDB = "aof", "rdb"


@dataclass(frozen=True)
class Finding:
    """A problem of a file.

    The first ``sound`` of its ``size`` bytes are intact.
    """

    name: str
    problem: str
    size: int = 0
    sound: int = 0


@dataclass(frozen=True)
class RdbCheck:
    """The report of redis-check-rdb on an RDB snapshot.

    ``at`` is the time of its data, None if it is unknown.
    """

    path: Path
    problem: str = ""
    keys: int = 0
    at: float | None = None


@dataclass(frozen=True)
class LoadedData:
    """The content of a Redis that has loaded the repaired copy.

    ``prepared`` is for putting it in place.
    """

    prepared: Prepared
    sessions: int
    jobs: int

    def as_dict(self) -> dict[str, int]:
        """Return the counts for JSON."""
        return {"keys": self.prepared.keys, "sessions": self.sessions, "jobs": self.jobs}


@dataclass
class Report:
    """What an examination found, and what a repair can do.

    ``source`` is what a repair uses: the AOF, the RDB snapshot next to it, or empty if it can do nothing.
    ``last_write`` is when the last command in the repaired AOF was written. If the AOF has no timestamps, that is
    between ``base_time`` and ``mtime``. ``cut`` says that the AOF is cut, ``load_error`` why Redis does not load
    undamaged files, ``explicit`` that a person chose the source.
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
    def is_intact(self) -> bool:
        """Say whether nothing is damaged, and no person asked for another source."""
        return not self.findings and not self.load_error and not self.explicit


# -- Whether there is anything to do


def is_serving(instance: Instance) -> bool:
    """Say whether Redis serves.

    Raises Failure if that cannot be known yet, or if no file is the cause.
    """
    state = instance.container.get("State", {})
    if not instance.container:
        raise Failure(f"the container {instance.name} is gone: deploy again, then see whether there is damage")
    crash_looping = bool(instance.container.get("RestartCount")) or state.get("Restarting")
    if not state.get("Pid"):
        return False
    for _ in range(2):
        try:
            with instance.connect() as redis:
                redis.ping()
            return True
        except BusyLoadingError:
            if not crash_looping:
                raise Failure("Redis is loading its data: wait, redisctl health reports when it has finished") from None
            return False
        except RedisConnectionError:
            # It has just started, or is about to exit.
            time.sleep(0.5)
        except RedisError as error:
            raise Failure(
                f"Redis runs but does not serve, and no file is the cause ({error_text(error)}): redisctl health"
            ) from None
    return False


# -- Examination


@contextlib.contextmanager
def examine(instance: Instance, choice: str) -> Iterator[Report]:
    """Copy the data, check and repair the copy, and load it.

    The files of Redis are only read. ``choice`` is AOF, RDB, or empty for what loses less. Raises Failure if the
    examination is impossible.
    """
    backups = catalog.list_backups(instance.backups)
    report = Report(backup=next((backup for backup in backups if backup.is_verified), None))
    report.explicit = bool(choice)
    if instance.live.stat().st_uid != REDIS_UID:
        raise Failure(f"{instance.live} does not belong to uid {REDIS_UID}: deploy again, which corrects the owner")
    report.findings += _foreign_files(instance)
    rdb = instance.live / instance.config_value("dbfilename", RDB_FILE)
    with staging_dir(instance) as directory:
        if os.path.lexists(rdb):
            report.snapshot = _check_copy(instance, rdb, directory)
        if layout.aof_enabled(instance):
            _check_aof(instance, directory, report)
        elif report.snapshot is None:
            report.notes.append(f"there is no {rdb.name}: Redis starts empty")
        elif report.snapshot.problem:
            report.findings.append(Finding(rdb.name, report.snapshot.problem, rdb.lstat().st_size))
        else:
            report.source = RDB
        report.source = _choose_source(report, choice, with_aof=layout.aof_enabled(instance))
        if report.source == RDB:
            _empty(directory)
            restore.ensure_disk_space(instance, rdb)
            layout.stage_rdb(instance, rdb, directory)
        if report.source:
            _load(instance, directory, report)
        yield report


def _foreign_files(instance: Instance) -> list[Finding]:
    """Find files that Redis may not read or write. A copy belongs to Redis."""
    aof, _ = layout.current_aof(instance)
    rdb = instance.live / instance.config_value("dbfilename", RDB_FILE)
    findings = []
    for path in (rdb, aof, *(aof / name for name in layout.list_aof(instance))):
        with contextlib.suppress(FileNotFoundError):
            owner = path.lstat().st_uid
            if owner != REDIS_UID:
                findings.append(Finding(path.name, f"belongs to uid {owner}, and Redis runs as {REDIS_UID}"))
    return findings


def _check_aof(instance: Instance, directory: Path, report: Report) -> None:
    """Check and repair a copy of the AOF, and count what the repair loses."""
    aof, _ = layout.current_aof(instance)
    names = layout.list_aof(instance)
    parts = _parts(instance, names, report)
    if not parts:
        return
    restore.ensure_disk_space(instance, aof)
    present = [part for part in parts if part.name in names]
    layout.stage_aof_parts(instance, aof, present, directory)
    staged = layout.staged_data(instance, directory)
    usable: list[aof_manifest.Part] = []
    for part in parts:
        finding = _check_part(instance, staged, part)
        if finding:
            report.findings.append(finding)
            report.cut = True
            break
        usable.append(part)
    report.mtime = max(((aof / part.name).lstat().st_mtime for part in present), default=None)
    if report.cut:
        damaged, finding = parts[len(usable)], report.findings[-1]
        if damaged.type == aof_manifest.BASE and finding.sound == 0:
            # Without the base, the increments mean nothing.
            usable = []
        elif finding.sound:
            usable.append(damaged)
            with layout.open_data(instance, aof / damaged.name) as file:
                report.last_write = aof_scan.last_timestamp(file, finding.sound)
        for part in present:
            if part.type == aof_manifest.INCREMENT and (part == damaged or part not in usable):
                start = finding.sound if part == damaged else 0
                with layout.open_data(instance, aof / part.name) as file:
                    aof_scan.count(report.lost, file, start, instance.session_keys)
            if part not in usable:
                (staged / part.name).unlink()
    if usable:
        layout.write_manifest(instance, directory, usable)
        report.base_time = rdb_time(staged / usable[0].name)
        report.source = AOF


def _parts(instance: Instance, names: list[str], report: Report) -> list[aof_manifest.Part]:
    """Return the parts of the AOF.

    Finds them by the names of the files if the manifest does not name them.
    """
    _, manifest = layout.current_aof(instance)
    text = layout.read_own_manifest(instance)
    problem = aof_manifest.find_problem(text, names)
    orphans = aof_manifest.orphaned_parts(text, names)
    if orphans:
        report.findings.append(Finding(manifest.name, problem, len(text or "")))
        return orphans
    if text is None and not problem:
        report.notes.append("there is no AOF: Redis starts empty, whatever other files there are")
        if report.snapshot and report.snapshot.keys:
            report.findings.append(Finding(manifest.parent.name, "it is missing, or empty"))
        return []
    try:
        return aof_manifest.parse(text or "")
    except aof_manifest.ManifestError:
        report.findings.append(Finding(manifest.name, problem, len(text or "")))
        parts = aof_manifest.from_file_names(names)
        if parts:
            report.notes.append(f"the manifest was written from the names of {', '.join(part.name for part in parts)}")
            return parts
        present = ", ".join(sorted(names)) or "no files"
        report.notes.append(f"without a manifest it is ambiguous which of {present} belong together")
        return []


def _check_part(instance: Instance, staged: Path, part: aof_manifest.Part) -> Finding | None:
    """Check a part of the staged AOF, and return what is wrong with it.

    redis-check-aof cuts it at the damage.
    """
    path = staged / part.name
    if not path.exists():
        return Finding(part.name, "it is missing")
    before = path.stat().st_size
    if not before and part.type == aof_manifest.INCREMENT:
        return None
    if part.name.endswith(".rdb"):
        problem = check_rdb(instance, path).problem
        return Finding(part.name, problem, before) if problem else None
    code, output = run_checker(instance, staged, "redis-check-aof", "--fix", part.name)
    sound = path.stat().st_size
    if code == 0 and sound == before:
        return None
    match = re.search(r"^0x\s*([0-9a-f]+): (.*)$", output, re.MULTILINE)
    problem = f"at byte {int(match[1], 16)}: {match[2]}" if match else f"at byte {sound}: no command begins there"
    if code != 0:
        # It does not cut a file that begins with damage.
        sound = 0
    return Finding(part.name, problem, before, sound)


def check_rdb(instance: Instance, path: Path) -> RdbCheck:
    """Have redis-check-rdb check a copy of an RDB snapshot."""
    code, output = run_checker(instance, path.parent, "redis-check-rdb", path.name)
    match = re.search(r"^\[info\] (\d+) keys read", output, re.MULTILINE)
    keys, at = int(match[1]) if match else 0, rdb_time(path)
    if code == 0:
        return RdbCheck(path, "", keys, at)
    error = re.search(r"DETECTED ---\s*\[offset (\d+)\] (.*)", output)
    problem = f"at byte {error[1]}: {error[2]}" if error else " / ".join(output.strip().splitlines()[-2:])
    return RdbCheck(path, problem, keys, at)


def _check_copy(instance: Instance, rdb: Path, directory: Path) -> RdbCheck:
    restore.ensure_disk_space(instance, rdb)
    with layout.open_data(instance, rdb) as file:
        copy(file, None, directory / rdb.name)
    own(directory / rdb.name)
    result = check_rdb(instance, directory / rdb.name)
    (directory / rdb.name).unlink()
    # An RDB snapshot without a time in it is as old as its file.
    return RdbCheck(rdb, result.problem, result.keys, result.at or rdb.lstat().st_mtime)


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


# -- What loses less


def _choose_source(report: Report, choice: str, *, with_aof: bool) -> str:
    is_rdb_usable = report.snapshot is not None and not report.snapshot.problem
    if choice == RDB and not is_rdb_usable:
        raise Failure("there is no intact RDB snapshot next to the AOF: redisctl restore latest")
    if choice == AOF and report.source != AOF:
        raise Failure("there is no AOF that can be repaired: redisctl restore latest")
    if choice:
        return choice
    return best_source(report) if with_aof else report.source


def best_source(report: Report) -> str:
    """Return the source that loses less: the AOF or the RDB snapshot.

    The AOF counts up to the damage. It is the source, unless that is known to end before the RDB snapshot. Without a
    usable AOF it is the RDB snapshot, unless a backup is newer.
    """
    rdb_at = report.snapshot.at if report.snapshot and not report.snapshot.problem else None
    if report.source == AOF:
        if not report.cut or rdb_at is None:
            return AOF
        # The AOF was not written after the snapshot, whose time is in whole seconds: it has what is after the damage.
        has_everything = report.mtime is not None and rdb_at + 1 > report.mtime
        return RDB if has_everything or (report.last_write is not None and rdb_at > report.last_write) else AOF
    if rdb_at is None or not report.findings:
        return ""
    return "" if report.backup and report.backup.metadata.taken_at > rdb_at else RDB


def _load(instance: Instance, directory: Path, report: Report) -> None:
    """Load the staged data in a scratch Redis and count it.

    If that Redis refuses the data, the report gets the reason.
    """
    source = restore.unknown_source(instance, directory)
    known_memory = report.backup.metadata.memory if report.backup else 0
    databases = int(instance.config_value("databases", "16"))
    try:
        with loaded_redis(instance, Source(source.path, max(source.memory, known_memory), databases)) as redis:
            prepared = restore.inspect_loaded(redis, directory)
            sessions, jobs = count_keys(redis, instance.session_keys), count_keys(redis, "rq:job:*")
            report.loaded_data = LoadedData(prepared, sessions, jobs)
    except NotLoadable as error:
        explanation = explain([str(error)])
        report.load_error = f"{explanation.meaning}: {explanation.remedy}" if explanation else str(error)
        report.source = ""


def put_in_place(instance: Instance, report: Report, stopped: Journal) -> Swapped:
    """Start Redis with the repaired copy. Raises Failure."""
    if report.loaded_data is None:
        raise Failure("nothing was repaired")
    return restore.put_in_place(instance, report.loaded_data.prepared, "the repair", stopped=stopped)
