"""Repair of data files that Redis does not load.

It examines a copy, says what a repair would lose, and repairs the copy. Redis's own checkers examine it on the disk of
the data, and on request it takes the place of the damaged files. An AOF is cut at the first damage, as redis-check-aof
does it. An RDB snapshot cannot be repaired, only replaced.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from redis.exceptions import BusyLoadingError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from redisctl.backup import catalog
from redisctl.backup.catalog import BackupSet
from redisctl.core import aof_manifest, data_file
from redisctl.core.aof_manifest import BASE, INCREMENT, Part
from redisctl.core.data_file import Kind
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE
from redisctl.core.instance import Instance, error_text
from redisctl.core.journal import Journal
from redisctl.core.scratch_redis import NotLoadable
from redisctl.core.startup_errors import explained
from redisctl.core.trial import RenamedCommand, Source, loaded_redis
from redisctl.core.untrusted_files import UntrustedDirectory, remove_tree
from redisctl.data import aof_scan, layout, restore
from redisctl.data.aof_scan import Losses
from redisctl.data.file_check import Finding, RdbCheck, check_part, check_rdb
from redisctl.data.point_in_time import rdb_time
from redisctl.data.restore import Prepared
from redisctl.data.swap import Swapped, staging_dir

AOF, RDB = "aof", "rdb"


@dataclass
class Report:
    """What an examination found, and what a repair can do.

    ``source`` is what a repair uses: the AOF, the RDB snapshot next to it, or empty if it can do nothing.
    ``last_write`` is when the last command in the repaired AOF was written. If the AOF has no timestamps, that is
    between ``base_time`` and ``mtime``. ``cut`` says that the AOF is cut, ``load_error`` why Redis does not load
    undamaged files, ``explicit`` that a person chose the source. ``reads_aof`` says that Redis reads the AOF and not
    the RDB snapshot, ``remedy`` what to do where repair does nothing.
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
    loaded_data: Prepared | None = None
    load_error: str = ""
    explicit: bool = False
    reads_aof: bool = True
    remedy: str = ""

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
    report.reads_aof = layout.aof_enabled(instance)
    if instance.live.stat().st_uid != instance.uid:
        raise Failure(f"{instance.live} does not belong to uid {instance.uid}: deploy again, which corrects the owner")
    report.findings += _foreign_files(instance)
    rdb = instance.live / instance.config_value("dbfilename", RDB_FILE)
    with staging_dir(instance) as directory:
        if rdb.name in instance.live_files.list_names():
            report.snapshot = _check_copy(instance, rdb, directory)
        if report.reads_aof:
            _check_aof(instance, directory, report)
        else:
            _check_rdb(instance, rdb, report)
        report.source = _choose_source(report, choice)
        if report.source == RDB:
            _empty(directory)
            restore.ensure_disk_space(instance, rdb)
            layout.stage_rdb(instance, rdb, directory)
        if report.source:
            _load(instance, directory, report)
        yield report


def _check_rdb(instance: Instance, rdb: Path, report: Report) -> None:
    """Check the RDB snapshot of a Redis that has no AOF."""
    snapshot = report.snapshot
    if snapshot is None:
        report.notes.append(f"there is no {rdb.name}: Redis starts empty")
        return
    with layout.open_data(instance, rdb) as file:
        size, head = os.fstat(file.fileno()).st_size, data_file.parse_head(file.read(data_file.HEAD))
        file.seek(snapshot.end)
        has_aof = not snapshot.problem and data_file.is_aof(file.read(16))
    if head.kind is Kind.AOF:
        report.findings.append(Finding(rdb.name, "it is an AOF and no RDB snapshot", size))
    elif has_aof:
        problem = f"at byte {snapshot.end} the RDB snapshot ends, and {size - snapshot.end} bytes of an AOF follow"
        report.findings.append(
            Finding(rdb.name, f"{problem}, which Redis ignores with the AOF off", size, snapshot.end)
        )
    elif not snapshot.is_readable:
        report.load_error = f"{rdb.name}: {snapshot.problem}"
    elif snapshot.problem:
        report.findings.append(Finding(rdb.name, snapshot.problem, size))
    else:
        report.source = RDB
        if size > snapshot.end:
            left = f"{size - snapshot.end} bytes follow, which Redis ignores"
            report.notes.append(f"{rdb.name}: at byte {snapshot.end} the RDB snapshot ends, and {left}")
    if has_aof or head.kind is Kind.AOF:
        # An AOF may need names of commands that this instance has disabled, as that of another Redis.
        report.remedy = (
            f"nothing was changed: redisctl restore {rdb} loads all of it, and --yes keeps the current files"
        )


def _foreign_files(instance: Instance) -> list[Finding]:
    """Find files that Redis may not read or write. A copy belongs to Redis."""
    aof, _ = layout.current_aof(instance)
    rdb = instance.live / instance.config_value("dbfilename", RDB_FILE)
    findings = []
    names = [(rdb.name,), (aof.name,), *((aof.name, name) for name in layout.list_aof(instance))]
    for path in names:
        with contextlib.suppress(FileNotFoundError):
            owner = instance.live_files.status(*path).st_uid
            if owner != instance.uid:
                findings.append(Finding(path[-1], f"belongs to uid {owner}, and Redis runs as {instance.uid}"))
    return findings


def _check_aof(instance: Instance, directory: Path, report: Report) -> None:
    """Check and repair a copy of the AOF, and count what the repair loses."""
    aof, _ = layout.current_aof(instance)
    names = layout.list_aof(instance)
    parts = _parts(instance, names, report)
    if not parts:
        return
    if single := _single_file(instance, parts):
        aof, names = instance.live, [single]
    restore.ensure_disk_space(instance, aof / single)
    present = [part for part in parts if part.name in names]
    layout.stage_aof_parts(instance, aof, present, directory)
    staged = layout.staged_aof(instance, directory)
    usable: list[Part] = []
    for part in parts:
        finding = _check_part(instance, staged, part)
        if finding and not finding.is_damage:
            report.load_error = f"{finding.name}: {finding.problem}"
            return
        if finding:
            report.findings.append(finding)
        if finding and finding.loses_data:
            report.cut = True
            break
        usable.append(part)
    times = (_modified(instance, aof / part.name) for part in present)
    report.mtime = max(times, default=None)
    if report.cut:
        usable = _drop_rest(instance, aof, directory, (parts, usable, present), report)
    if usable:
        layout.write_manifest(instance, directory, usable)
        report.base_time = rdb_time(staged / usable[0].name)
        report.source = AOF


def _drop_rest(
    instance: Instance, aof: Path, directory: Path, lists: tuple[list[Part], list[Part], list[Part]], report: Report
) -> list[Part]:
    """Remove what follows the damage from a staged AOF, and count it.

    ``lists`` are all parts, those before the damaged one, and those that exist. Returns the parts that remain.
    """
    (parts, usable, present), staged = lists, layout.staged_aof(instance, directory)
    damaged, finding = parts[len(usable)], report.findings[-1]
    if damaged.type == BASE and finding.sound == 0:
        # Without the base, the increments mean nothing.
        usable = []
    elif finding.sound:
        usable.append(damaged)
        with layout.open_data(instance, aof / damaged.name) as file:
            report.last_write = aof_scan.last_timestamp(file, finding.sound)
    for part in present:
        # An AOF in one file is a base, and its commands follow a snapshot.
        if (part == damaged and finding.sound) or (part.type == INCREMENT and part not in usable):
            start = finding.sound if part == damaged else 0
            with layout.open_data(instance, aof / part.name) as file:
                aof_scan.count(report.lost, file, start, instance.session_keys)
        if part not in usable:
            instance.untrusted(directory).remove_file(staged.name, part.name)
    return usable


def _parts(instance: Instance, names: list[str], report: Report) -> list[Part]:
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
    single = instance.config_value("appendfilename", aof_manifest.FILE)
    if text is None and not problem and single in instance.live_files.list_names():
        report.notes.append(f"{single} is an AOF in one file: Redis moves it into its directory when it starts")
        return [Part(single, 1, BASE)]
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


def _single_file(instance: Instance, parts: list[Part]) -> str:
    """Return the name of an AOF in one file, which lies in data/live itself.

    Empty for an AOF in its own directory.
    """
    is_single = len(parts) == 1 and parts[0].name == instance.config_value("appendfilename", aof_manifest.FILE)
    return parts[0].name if is_single and layout.read_own_manifest(instance) is None else ""


def _modified(instance: Instance, path: Path) -> float:
    return instance.live_files.status(*path.relative_to(instance.live).parts).st_mtime


def _check_part(instance: Instance, staged: Path, part: Part) -> Finding | None:
    """Check a part of the staged AOF, and return what is wrong with it.

    The part is cut at the damage.
    """
    try:
        size = instance.untrusted(staged).file_size(part.name)
    except FileNotFoundError:
        return Finding(part.name, "it is missing")
    if not size and part.type == INCREMENT:
        return None
    return check_part(instance, staged / part.name)


def _check_copy(instance: Instance, rdb: Path, directory: Path) -> RdbCheck:
    restore.ensure_disk_space(instance, rdb)
    files = instance.untrusted(directory)
    with layout.open_data(instance, rdb) as file:
        files.copy_file(file, rdb.name)
        # An RDB snapshot without a time in it is as old as its file.
        written = os.fstat(file.fileno()).st_mtime
    result = check_rdb(instance, directory / rdb.name)
    files.remove_file(rdb.name)
    return replace(result, path=rdb, at=result.at or written)


def _empty(directory: Path) -> None:
    for name in UntrustedDirectory(directory).list_names():
        remove_tree(directory / name)


# -- What loses less


def _choose_source(report: Report, choice: str) -> str:
    is_rdb_usable = report.snapshot is not None and not report.snapshot.problem
    if choice == RDB and not is_rdb_usable:
        raise Failure("there is no intact RDB snapshot next to the AOF: redisctl restore latest")
    if choice == AOF and report.source != AOF:
        raise Failure("there is no AOF that can be repaired: redisctl restore latest")
    if choice:
        return choice
    return best_source(report) if report.reads_aof else report.source


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
    databases = int(instance.config_value("databases", "16"))
    path = first = layout.staged_rdb(instance, directory)
    if report.source == AOF:
        path = layout.staged_aof(instance, directory)
        first = path / aof_manifest.read_manifest(path)[0].name
    try:
        with loaded_redis(instance, Source(path, data_file.read_head(first).memory, databases)) as redis:
            report.loaded_data = restore.inspect_loaded(instance, redis, directory)
    except NotLoadable as error:
        report.load_error = explained(str(error))
        if isinstance(error, RenamedCommand):
            aof, _ = layout.current_aof(instance)
            report.remedy = (
                f"nothing was changed: redisctl restore {aof} loads the AOF by the usual names of commands, and --yes "
                "keeps the current files"
            )
        report.source = ""


def put_in_place(instance: Instance, report: Report, stopped: Journal) -> Swapped:
    """Start Redis with the repaired copy. Raises Failure."""
    if report.loaded_data is None:
        raise Failure("nothing was repaired")
    return restore.put_in_place(instance, report.loaded_data, "the repair", stopped=stopped)
