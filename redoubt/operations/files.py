"""The operation that makes files and directories as they should be."""

import difflib
from collections.abc import Iterable, Sequence

from pyinfra import host, logger, state
from pyinfra.api import StringCommand, operation

from redoubt.facts.paths import FileText, HiddenStdin, Paths
from redoubt.filesystem import AbsentPath, DesiredDirectory, DesiredFile, PathConflict, plan
from redoubt.operations.common import Commands, fail, note_change


@operation()
def files(entries: Sequence[DesiredDirectory | DesiredFile | AbsentPath]) -> Commands:
    """Make directories and files exist with their owner (by number), mode and contents.

    Replaces a file whole or not at all. Removes a file only by its own name (``Absent``); what is of another kind
    is an error.
    ``--diff`` shows what changes in files that are not secret.
    """
    files = {entry.path: entry for entry in entries if isinstance(entry, DesiredFile)}
    expected = {path: file.digest for path, file in files.items() if file.secret}
    present = host.get_fact(
        Paths,
        paths=[entry.path for entry in entries],
        secret=list(expected),
        _stdin=HiddenStdin("".join(f"{digest}  {path}\n" for path, digest in expected.items())),
    )
    try:
        steps = plan(entries, present)
    except PathConflict as error:
        yield from fail(str(error))
        return
    if not steps:
        host.noop("as wanted")
    # All before the first step: a dry run goes no further than that.
    for step in steps:
        note_change(f"{step.path}: {step.why}")
        if step.stdin is not None and state.config.DIFF:
            _show_diff(files[step.path])
    for step in steps:
        if step.stdin is None:
            yield StringCommand(step.command)
        else:
            yield StringCommand(step.command, _stdin=step.stdin)


def _show_diff(file: DesiredFile) -> None:
    if file.secret or file.packed:
        note_change(f"{file.path}: {'secret' if file.secret else 'a program'}, contents not shown")
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
