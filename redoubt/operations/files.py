"""The operations that write files and directories."""

import difflib
from collections.abc import Iterable, Sequence

from pyinfra import host, logger, state
from pyinfra.api import operation

from redisctl.paths import SYSTEMD_UNITS
from redoubt import host_state
from redoubt.facts.paths import FileText
from redoubt.filesystem import DesiredFile, DesiredProgram, PathConflict, plan
from redoubt.host_state import Changes, Entry
from redoubt.operations.common import Commands, command, fail, note_change


@operation()
def files(entries: Sequence[Entry]) -> Commands:
    """Make directories and files exist with their owner, mode and contents.

    Owners are numbers. Replaces a file whole or not at all. Removes a file only by its own name (``AbsentPath``). Fails
    if a path is of another kind. ``--diff`` shows what changes in files that are not secret.
    """
    by_path = {entry.path: entry for entry in entries if isinstance(entry, DesiredFile)}
    try:
        steps = plan(entries, host_state.of(host).path_states(host, entries))
    except PathConflict as error:
        yield from fail(str(error))
        return
    if not steps:
        host.noop("up to date")
    # All reasons come before the first step, because a dry run stops there.
    for step in steps:
        if step.stdin is not None and state.config.DIFF:
            _show_diff(by_path[step.path])
    for step in steps:
        is_unit = step.path.startswith(f"{SYSTEMD_UNITS}/")
        note_change(f"{step.path}: {step.why}", Changes.ALL if is_unit else Changes.ALL_BUT_UNITS)
    for step in steps:
        if step.stdin is None:
            yield command(step.command)
        else:
            yield command(step.command, _stdin=step.stdin)


def _show_diff(file: DesiredFile) -> None:
    is_program = isinstance(file, DesiredProgram)
    if file.secret or is_program:
        logger.info(f"{host.print_prefix}{file.path}: {'a program' if is_program else 'secret'}, contents not shown")
        return
    before = host.get_fact(FileText, path=file.path)
    for line in _diff(before, file.content, file.path):
        logger.info(f"    {line}")


def _diff(before: str, after: str, path: str) -> Iterable[str]:
    return difflib.unified_diff(
        before.splitlines(),
        after.splitlines(),
        fromfile=f"{path} (host)",
        tofile=f"{path} (settings)",
        lineterm="",
    )
