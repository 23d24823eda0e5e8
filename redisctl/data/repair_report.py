"""Descriptions of what an examination found, for people and as JSON. Pure."""

from collections.abc import Iterator
from typing import Any

from redisctl.core.formatting import ago, size
from redisctl.data.point_in_time import format_time
from redisctl.data.repair import AOF, RDB, Report


def describe_findings(report: Report) -> Iterator[tuple[str, str]]:
    """Yield what is wrong, as pairs of a label and a text."""
    for finding in report.findings:
        sound = f"; {finding.sound} of {finding.size} bytes before it are intact" if finding.sound else ""
        yield "damaged", f"{finding.name}: {finding.problem}{sound}"
    if report.load_error:
        yield "does not load", report.load_error
    for note in report.notes:
        yield "note", note
    snapshot = report.snapshot
    if snapshot and snapshot.problem and report.reads_aof:
        name = snapshot.path.name
        yield "note", f"{name}: {snapshot.problem}. Nothing is lost by that: with the AOF on, Redis does not read it"


def describe_losses(report: Report) -> Iterator[tuple[str, str]]:
    """Yield what a repair of the AOF cuts off."""
    lost = report.lost
    if not lost.size:
        return
    if report.source == AOF:
        yield "would be cut", f"{lost.size} bytes of the AOF"
    else:
        yield "after it", f"{size(lost.size)} of AOF"
    commands = ", ".join(f"{number} {name}" for name, number in lost.commands.most_common(8))
    unclear = f"; {lost.unclear} bytes are no commands" if lost.unclear else ""
    unseen = f"; {size(lost.unseen)} more were not scanned" if lost.unseen else ""
    yield "in it", f"{sum(lost.commands.values())} commands ({commands or 'none'}){unclear}{unseen}"
    if lost.keys:
        yield "of keys", ", ".join(f"{len(keys)} {kind}" for kind, keys in sorted(lost.keys.items()))
    if lost.first is not None and lost.last is not None:
        yield "written", f"{format_time(lost.first)} to {format_time(lost.last)}"


def describe_remaining(report: Report, now: float) -> Iterator[tuple[str, str]]:
    """Yield what remains after a repair, and the alternatives."""
    if report.loaded_data:
        data = report.loaded_data
        source = "the RDB snapshot" if report.source == RDB else "the AOF, cut" if report.cut else "the AOF"
        kinds = ", ".join(f"{number} {kind}" for kind, number in data.contents.kinds.items())
        counts = f"{data.contents.describe()}; among them {kinds}"
        yield "test load", f"{source}{_end_time(report)}: {counts}"
    snapshot = report.snapshot
    # Without the AOF it is what Redis does not load.
    if snapshot and not snapshot.problem and snapshot.at and report.source != RDB and report.reads_aof:
        age = ago(now - snapshot.at)
        yield "rdb snapshot", f"{snapshot.path.name}: {snapshot.keys} keys of {age} ago: --source rdb takes it"
    if report.backup:
        backup = report.backup
        age = ago(now - backup.metadata.taken_at)
        yield "backup", f"{backup.id} of {age} ago, verified: {backup.describe_contents()}: redisctl restore latest"
    else:
        yield "backup", "none that is verified"


def _end_time(report: Report) -> str:
    """Say until when the source has everything."""
    if report.source == RDB:
        return f" of {format_time(report.snapshot.at)}" if report.snapshot and report.snapshot.at else ""
    if report.last_write is not None:
        return f" after {format_time(report.last_write)}"
    if not report.cut or report.base_time is None or report.mtime is None:
        return ""
    # Without redis_aof_timestamps it is unknown when a command was written.
    return f" somewhere between {format_time(report.base_time)} and {format_time(report.mtime)} (no timestamps)"


def next_step(report: Report) -> str:
    """Say what to do next if nothing was done."""
    if report.is_intact:
        return "nothing is damaged: redisctl start starts Redis"
    if report.source:
        source = "the repaired AOF" if report.source == AOF else "the RDB snapshot"
        return f"nothing was changed: --yes starts Redis with {source}, and keeps the current files"
    if report.remedy:
        return report.remedy
    if report.findings and report.backup:
        return "this cannot be repaired, and no newer RDB snapshot is intact: redisctl restore latest"
    if report.findings:
        return "this cannot be repaired, and there is no verified backup: copy data/ to another place before you go on"
    restore = "; redisctl restore latest brings the newest backup back" if report.backup else ""
    return f"nothing is damaged, so there is nothing to cut: see above what to do{restore}"


def as_dict(report: Report, *, names: bool) -> dict[str, Any]:
    """Return the report for JSON; with ``names`` the keys that would be lost, too."""
    snapshot, backup = report.snapshot, report.backup
    return {
        "intact": report.is_intact,
        "damaged": [vars(finding) for finding in report.findings],
        "load_error": report.load_error,
        "notes": report.notes,
        "lost": report.lost.as_dict(names=names),
        "source": report.source,
        "last_write": report.last_write,
        "loaded": report.loaded_data.contents.as_dict() if report.loaded_data else None,
        "snapshot": {"keys": snapshot.keys, "taken_at": snapshot.at, "problem": snapshot.problem} if snapshot else None,
        "backup": {
            "id": backup.id,
            "keys": backup.contents.keys if backup.contents else None,
            "taken_at": backup.metadata.taken_at,
        }
        if backup
        else None,
    }
