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
    if snapshot and snapshot.problem and snapshot.path.name not in {finding.name for finding in report.findings}:
        yield (
            "note",
            f"{snapshot.path.name} is damaged, too. Nothing is lost by that: with the AOF on, Redis does not read it",
        )


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
        counts = f"{data.prepared.keys} keys; now alive: {data.sessions} sessions, {data.jobs} jobs"
        yield "test load", f"{source}{_end_time(report)}: {counts}"
    snapshot = report.snapshot
    if snapshot and not snapshot.problem and snapshot.at and report.source != RDB:
        age = ago(now - snapshot.at)
        yield "rdb snapshot", f"{snapshot.path.name}: {snapshot.keys} keys of {age} ago: --source rdb takes it"
    if report.backup:
        backup = report.backup.metadata
        age = ago(now - backup.taken_at)
        yield "backup", f"{backup.id}: {backup.keys} keys of {age} ago, verified: redisctl restore latest"
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
    if report.source == AOF:
        return "nothing was changed: --yes starts Redis with the repaired AOF, and keeps the current files"
    if report.source == RDB:
        return "nothing was changed: --yes starts Redis with the RDB snapshot, and keeps the current files"
    if report.findings and report.backup:
        return "this cannot be repaired, and no newer RDB snapshot is intact: redisctl restore latest"
    if report.findings:
        return "this cannot be repaired, and there is no verified backup: copy data/ to another place before you go on"
    return "nothing is damaged, so there is nothing to cut; redisctl restore latest brings the newest backup back"


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
        "loaded": report.loaded_data.as_dict() if report.loaded_data else None,
        "snapshot": {"keys": snapshot.keys, "taken_at": snapshot.at, "problem": snapshot.problem} if snapshot else None,
        "backup": {"id": backup.id, "keys": backup.metadata.keys, "taken_at": backup.metadata.taken_at}
        if backup
        else None,
    }
