"""The configuration of a running Redis, saved while a deploy replaces it.

The files are saved in ROOT/rollback. A deploy that restarts Redis saves them before it writes the first file, and opens
the journal. Until Redis starts with all new files, an interruption or an error puts the saved files back: the running
container never meets half of a new configuration, or that of another version, when Docker starts it again.
"""

import shutil
from pathlib import Path

from redisctl import paths
from redisctl.core import docker, journal, process
from redisctl.core.errors import Failure
from redisctl.core.files import copy_owner, fsync_directory, sync
from redisctl.core.instance import Instance
from redisctl.core.journal import Journal, Kind, Stage
from redisctl.core.untrusted_files import remove_tree
from redisctl.schema import ReplaceRequest, Result

_IMAGE = "image"
_PARTS = (
    *(paths.COMPOSE_FILE, "ca.crt", paths.CONFIG, paths.SECRETS),
    # These fit together. Their units are the same for all settings.
    *(paths.NETWORK_FILTER, paths.CLIENT_LIMITS, paths.NETWORK_WATCH_SCRIPT),
)


# -- Before the first file, and until Redis starts


def begin_replacing(instance: Instance, request: ReplaceRequest) -> Result:
    """Save the configuration of the running Redis and open the journal.

    Raises Failure, with nothing changed.
    """
    journal.ensure_none(instance)
    _save(instance)
    journal.begin(instance, f"deploy of {instance.name}", Kind.SERVICE, stage=Stage.REPLACING_FILES, run=request.run)
    return Result(changed=True)


def replacing(instance: Instance) -> Journal | None:
    """Return the journal of a deploy that replaces files; None if it is not open.

    Raises Failure.
    """
    record = journal.read(instance)
    return record if record and record.stage is Stage.REPLACING_FILES else None


def put_back(instance: Instance) -> None:
    """Put the saved files back and end the journal, without Docker.

    May be interrupted and repeated. Raises Failure.
    """
    restore(instance)
    discard(instance)
    journal.end(instance)


# -- The saved configuration


def is_saved(instance: Instance) -> bool:
    """Say whether the configuration that a deploy replaces is saved."""
    return (instance.root / paths.ROLLBACK_CONFIG).is_dir()


def saved_image(instance: Instance) -> tuple[str, str]:
    """Return the id and the reference of the image of the saved configuration.

    It is the image that ran with it.
    """
    image_id, _, reference = (instance.root / paths.ROLLBACK_CONFIG / _IMAGE).read_text().strip().partition(" ")
    return image_id, reference


def restore(instance: Instance) -> None:
    """Put the saved files back, with the network filter.

    May be interrupted and repeated. Raises Failure.
    """
    saved = instance.root / paths.ROLLBACK_CONFIG
    if not saved.is_dir():
        return
    try:
        for name in _PARTS:
            _restore_part(saved / name, instance.root / name)
    except OSError as error:
        raise Failure(f"the previous configuration cannot be put back: {error.filename}: {error.strerror}") from None
    sync(instance.root)
    # At boot it does not run yet, and loads the file itself.
    process.run(["systemctl", "--no-block", "try-reload-or-restart", paths.unit(instance.name, paths.NETWORK_SERVICE)])


def discard(instance: Instance) -> None:
    """Remove the saved configuration.

    It disappears as a whole, because others look for it.
    """
    saved = instance.root / paths.ROLLBACK_CONFIG
    partial = _partial(instance)
    remove_tree(partial, ignore_errors=True)
    if saved.is_dir():
        saved.rename(partial)
        # Before the journal ends, which may be on another disk.
        fsync_directory(instance.root)
    remove_tree(partial, ignore_errors=True)


def _save(instance: Instance) -> None:
    # Without a journal, what lies there belongs to a deploy that has finished.
    discard(instance)
    partial = _partial(instance)
    try:
        partial.mkdir(mode=0o700)
        for name in _PARTS:
            if (instance.root / name).exists():
                _copy(instance.root / name, partial / name)
        inspected = docker.container(instance.name)
        (partial / _IMAGE).write_text(f"{inspected['Image']} {inspected['Config']['Image']}\n")
        sync(partial)
        partial.rename(instance.root / paths.ROLLBACK_CONFIG)
        fsync_directory(instance.root)
    except (OSError, KeyError) as error:
        remove_tree(partial, ignore_errors=True)
        raise Failure(
            f"the configuration of the running {instance.name} cannot be saved, and nothing was changed: {error}"
        ) from None


def _partial(instance: Instance) -> Path:
    return instance.root / paths.ROLLBACK_PARTIAL


def _restore_part(source: Path, target: Path) -> None:
    """Make a file or a directory what was saved of it; remove what did not exist."""
    if source.is_dir():
        old = {path.relative_to(source) for path in source.rglob("*")}
        for path in sorted(target.rglob("*"), reverse=True):
            if path.relative_to(target) not in old and not path.is_dir():
                path.unlink()
        for path in sorted(source.rglob("*")):
            _restore(path, target / path.relative_to(source))
    elif source.exists():
        _restore(source, target)
    elif not target.is_dir():
        target.unlink(missing_ok=True)


def _restore(source: Path, target: Path) -> None:
    """Put one file back, whole or not at all: a full disk must not leave half of it."""
    if source.is_dir():
        if target.is_file():
            # Somebody has put the file back where a directory was in the way. A recovery must not need them again.
            return
        target.mkdir(exist_ok=True)
        copy_owner(source, target)
    elif not target.exists() or target.read_bytes() != source.read_bytes():
        partial = target.with_name(f".{target.name}.new")
        try:
            _copy_file(source, partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    else:
        copy_owner(source, target)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
        for path in (target, *target.rglob("*")):
            copy_owner(source / path.relative_to(target), path)
    else:
        _copy_file(source, target)


def _copy_file(source: Path, target: Path) -> None:
    # With its times: a file that is newer than the container looks like a change to the next deploy.
    shutil.copy2(source, target)
    copy_owner(source, target)
