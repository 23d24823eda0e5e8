"""Data of another Redis, judged by all of it and carried over as data alone.

The files are copied and checked, a scratch Redis loads them, and that Redis writes the data that the instance gets. So
no foreign file reaches the instance, and whatever is not data stays behind.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from redisctl.core import aof_manifest, data_file
from redisctl.core.aof_manifest import BASE, INCREMENT, Part
from redisctl.core.counting import list_functions
from redisctl.core.data_file import Head, Kind
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.core.scratch_redis import NotLoadable
from redisctl.core.startup_errors import explained
from redisctl.core.trial import Source, Trial, trial
from redisctl.core.untrusted_files import UntrustedDirectory
from redisctl.data import aof_scan, layout
from redisctl.data.aof_scan import Losses
from redisctl.data.file_check import RdbCheck, check_part, check_rdb, cut_tail, tail

# Kinds of errors of an AOF that are named.
_MAX_ERRORS = 5


@dataclass(frozen=True)
class ForeignData:
    """A checked copy of foreign files.

    ``warnings`` say what of the files is left out.
    """

    source: Source
    warnings: list[str] = field(default_factory=list)


def copy_checked(instance: Instance, path: Path, directory: Path, *, is_foreign: bool = True) -> ForeignData:
    """Copy a data file, or the directory of an AOF, and check the copy.

    ``directory`` is for the copy. ``is_foreign`` is False for an AOF of this instance. The end of an AOF is cut after
    its last complete command. Raises Failure if something else is damaged.
    """
    databases = int(instance.config_value("databases", "16"))
    files = instance.untrusted(directory)
    instance.untrusted(directory.parent).make_directory(directory.name)
    if path.is_dir():
        parts = aof_manifest.read_manifest(path)
        originals = [path / part.name for part in parts]
    else:
        parts, originals = [Part("data.aof", 1, BASE)], [path]
    # Names of our own: the manifest of the copy needs no quotation marks.
    copies = [
        Part(f"{number}.{'base' if part.type == BASE else 'incr'}.aof", part.seq, part.type)
        for number, part in enumerate(parts, 1)
    ]
    for original, part in zip(originals, copies, strict=True):
        _copy(instance, original, directory / part.name)
    first = directory / copies[0].name
    head = data_file.read_head(first)
    _ensure_known(path, head, is_directory=path.is_dir())
    warnings: list[str] = []
    snapshot = None
    if head.kind is Kind.RDB:
        snapshot = check_rdb(instance, first)
        if snapshot.problem:
            advice = ". Copy it again, or take another snapshot of the server that wrote it"
            is_advised = snapshot.is_readable and is_foreign
            raise Failure(f"{originals[0]}: {snapshot.problem}{advice if is_advised else ''}")
        if snapshot.databases > databases:
            raise Failure(
                f"{originals[0]} has keys in db{snapshot.databases - 1}, and redis_databases is {databases}: set "
                f"redis_databases = {snapshot.databases} and deploy, then restore"
            )
        rest = tail(first, snapshot.end)
        if not path.is_dir() and not data_file.is_aof(rest):
            if rest:
                warnings.append(f"{path}: {cut_tail(first, snapshot.end).problem}, which are no AOF and are left out")
            return ForeignData(Source(first, head.memory, databases), warnings)
    warnings += _check_aof(instance, directory, copies, originals, snapshot)
    files.write_file(aof_manifest.MANIFEST, text=aof_manifest.to_text(copies))
    return ForeignData(Source(directory, head.memory, databases, is_foreign), warnings)


def _copy(instance: Instance, original: Path, target: Path) -> None:
    try:
        with UntrustedDirectory(original.parent, follow=False).open_file(original.name) as file:
            instance.untrusted(target.parent).copy_file(file, target.name)
    except OSError as error:
        raise Failure(f"{error.filename or original}: {error.strerror}") from None


def _ensure_known(path: Path, head: Head, *, is_directory: bool) -> None:
    """Raise Failure if a file is of no kind that Redis loads."""
    if head.kind is Kind.PACKED:
        raise Failure(f"{path} is compressed or an archive: unpack it first ({head.tool}), then restore the file in it")
    if head.kind is Kind.UNKNOWN and not is_directory:
        raise Failure(f"{path} is neither an RDB snapshot nor an AOF: it does not begin like one")


def _check_aof(
    instance: Instance, directory: Path, parts: list[Part], originals: list[Path], snapshot: RdbCheck | None
) -> list[str]:
    """Check the parts of a copied AOF, and cut an incomplete end.

    Returns what is left out.

    Raises Failure for any other damage.
    """
    warnings = []
    for part, original in zip(parts, originals, strict=True):
        path = directory / part.name
        if not instance.untrusted(directory).file_size(part.name) and part.type == INCREMENT:
            continue
        finding = check_part(instance, path, snapshot if part == parts[0] else None)
        if finding is None:
            continue
        if not finding.loses_data:
            warnings.append(f"{original}: {finding.problem}, which are no AOF and are left out")
            continue
        with UntrustedDirectory(original.parent, follow=False).open_file(original.name) as file:
            lost = Losses()
            aof_scan.count(lost, file, finding.sound, instance.session_keys)
            is_torn = aof_scan.is_torn(file, finding.sound)
        if part != parts[-1] or not is_torn:
            raise Failure(
                f"{original} is damaged {finding.problem}, and {_describe_lost(lost)} follow. Restore its RDB snapshot "
                "or another copy; 'redis-check-aof --fix' on a copy of the file gives up everything after the damage"
            )
        is_command = data_file.is_aof(tail(original, finding.sound))
        ending = "ends inside a command or a transaction" if is_command else "ends with bytes that are no command"
        warnings.append(f"{original.name} {ending} ({finding.problem}): its end is left out, {_describe_lost(lost)}")
    return warnings


def _describe_lost(lost: Losses) -> str:
    commands = ", ".join(f"{number} {name}" for name, number in lost.commands.most_common(8))
    return (
        f"{lost.size} bytes with {sum(lost.commands.values())} complete commands{f': {commands}' if commands else ''}"
    )


# -- Loading, and what is carried over


@contextmanager
def loaded(instance: Instance, data: ForeignData, directory: Path) -> Iterator[Trial]:
    """Load a checked copy in a scratch Redis.

    That Redis writes to ``directory``. Raises Failure.
    """
    instance.untrusted(directory.parent).make_directory(directory.name)
    try:
        with trial(instance, data.source, directory) as server:
            errors = list(server.errors.items())
            data.warnings.extend(
                f"{count} commands of the AOF failed, as in any server that loads it: {error}"
                for error, count in errors[:_MAX_ERRORS]
            )
            if rest := sum(count for _, count in errors[_MAX_ERRORS:]):
                data.warnings.append(f"{rest} more commands of the AOF failed, for other reasons")
            yield server
    except NotLoadable as error:
        raise type(error)(explained(str(error))) from None


def write_data(instance: Instance, server: Trial, target: Path, *, with_functions: bool) -> None:
    """Have the scratch Redis write its data, and stage that.

    Raises Failure.
    """
    if not with_functions and list_functions(server.redis):
        server.execute("CONFIG", "SET", "replica-read-only", "no")
        server.redis.execute_command("FUNCTION", "FLUSH", "SYNC")
    rdb = server.write_rdb()
    instance.untrusted(target.parent).make_directory(target.name)
    layout.stage_rdb(instance, rdb, target)
