"""Upgrades to another version of the server, and their rollback.

Before an upgrade the data is backed up and the new version loads the backup. What the old version was created from is
kept in ROOT/rollback, and, once Redis is stopped, its data in ROOT/data/rollback, until the new version is healthy.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Protocol

from redis.exceptions import RedisError

from redisctl import paths
from redisctl.backup.run import back_up
from redisctl.backup.verify import verify_with_image
from redisctl.core import docker, journal, process, service
from redisctl.core.errors import Failure
from redisctl.core.files import fsync_directory
from redisctl.core.formatting import size
from redisctl.core.instance import Instance
from redisctl.core.journal import Journal, Stage
from redisctl.data.layout import upgrade_in_progress
from redisctl.data.swap import unused_name
from redisctl.schema import Result, StartRequest, UpgradeRequest

# Seconds that a rewrite of the AOF may take before an upgrade.
_REWRITE_TIMEOUT = 450
_IMAGE = "image"
_PARTS = (paths.COMPOSE_FILE, "ca.crt", paths.CONFIG, paths.SECRETS)


class Compose(Protocol):
    """The Compose commands that a rollback needs."""

    def up(self, *arguments: str) -> str:
        """Create and start containers and wait until they are healthy. Returns the output. Raises Failure."""

    def forget_override(self) -> None:
        """The container is created from compose.yml alone."""


# -- Before the upgrade


def check(instance: Instance, request: UpgradeRequest) -> Result:
    """Back the data up, have the new version load the backup, and save what the old version was created from.

    Raises Failure, with the running Redis untouched, if the new version does not read the data or there is no room.
    """
    try:
        backup = back_up(instance, verify=request.verify).backup
        if request.verify:
            verify_with_image(instance, backup, request.image)
        save_config(instance)
    except Failure as error:
        raise Failure(
            f"{error}. The running Redis was left alone, and nothing was changed for the new version"
        ) from None
    return Result(changed=True, messages=(f"backup {backup.id} was taken before the upgrade",))


# -- What the old version was created from


def has_saved_config(instance: Instance) -> bool:
    """Say whether an upgrade has been prepared and has not finished."""
    return (instance.root / paths.ROLLBACK_CONFIG).is_dir()


def save_config(instance: Instance) -> None:
    """Save what the running version was created from, before anything is written for the new one. Raises Failure.

    Keeps what an interrupted deploy saved: the running version was created from that.
    """
    saved = instance.root / paths.ROLLBACK_CONFIG
    if saved.is_dir():
        return
    partial = saved.with_name(f"{saved.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        for name in _PARTS:
            if (instance.root / name).exists():
                _copy(instance.root / name, partial / name)
        inspected = docker.container(instance.name)
        (partial / _IMAGE).write_text(f"{inspected['Image']} {inspected['Config']['Image']}\n")
        _sync(partial)
        partial.rename(saved)
        fsync_directory(instance.root)
    except (OSError, KeyError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise Failure(f"the running version's configuration cannot be saved for a rollback: {error}") from None


def saved_image(instance: Instance) -> tuple[str, str]:
    """Return the id and the reference of the old version's image."""
    image_id, _, reference = (instance.root / paths.ROLLBACK_CONFIG / _IMAGE).read_text().strip().partition(" ")
    return image_id, reference


def restore_config(instance: Instance) -> None:
    """Put the old version's configuration back. May be interrupted and repeated. Raises OSError."""
    saved = instance.root / paths.ROLLBACK_CONFIG
    if not saved.is_dir():
        return
    for name in _PARTS:
        source, target = saved / name, instance.root / name
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
    _sync(instance.root)


def _restore(source: Path, target: Path) -> None:
    """Put one file back, whole or not at all: a full disk must not leave half of it."""
    if source.is_dir():
        target.mkdir(exist_ok=True)
        _copy_owner(source, target)
    elif not target.exists() or target.read_bytes() != source.read_bytes():
        partial = target.with_name(f".{target.name}.new")
        try:
            _copy_file(source, partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    else:
        _copy_owner(source, target)


def cancel(instance: Instance) -> None:
    """Give up an upgrade whose start did not begin: the old version runs, and finds its own configuration again."""
    if has_saved_config(instance) and not upgrade_in_progress(instance):
        restore_config(instance)
        _discard_saved(instance)


# -- The old version's data


def save_data(instance: Instance, record: Journal, request: StartRequest) -> Journal:
    """Stop the old version and keep its data, if this start is an upgrade. Raises Failure. May be repeated.

    RDB files are kept by a hard link, because Redis only ever replaces them. AOF files that are appended to are copied.
    """
    if not has_saved_config(instance) or upgrade_in_progress(instance):
        return record
    if not is_old_version(instance) or (docker.image(request.image) or {}).get("Id") == saved_image(instance)[0]:
        return record
    _rewrite_aof(instance)
    _ensure_room(instance)
    # The journal has the request, and with it the restart policy to put back.
    service.hold_down(instance)
    service.stop(instance)
    record = journal.advance(instance, record, Stage.STOPPED)
    try:
        _link_data(instance)
    except OSError as error:
        shutil.rmtree(_partial(instance), ignore_errors=True)
        reason = error.strerror or error
        raise Failure(f"the data cannot be kept for a rollback: {reason}") from None
    return record


def is_old_version(instance: Instance) -> bool:
    """Say whether the container is still that of the version that an upgrade replaces."""
    return bool(docker.container(instance.name).get("Image") == saved_image(instance)[0])


def _rewrite_aof(instance: Instance) -> None:
    """Rewrite the AOF while the old version still serves, so that little has to be copied while Redis is down."""
    if _free(instance) < _aof_size(instance, ""):
        return
    try:
        with instance.connect() as redis:
            if not redis.info("persistence").get("aof_enabled"):
                return
            instance.execute_renamed(redis, "BGREWRITEAOF")
            deadline = time.monotonic() + _REWRITE_TIMEOUT
            while time.monotonic() < deadline:
                persistence = redis.info("persistence")
                if not persistence["aof_rewrite_in_progress"] and not persistence["aof_rewrite_scheduled"]:
                    return
                time.sleep(0.5)
    except (RedisError, Failure):
        # The AOF is as it was; the copy takes longer.
        return


def _ensure_room(instance: Instance) -> None:
    needed, free = _aof_size(instance, ".incr.aof"), _free(instance)
    if free < needed:
        raise Failure(
            f"the copy of the AOF that a rollback needs takes {size(needed)}, and {instance.root}/{paths.DATA} has "
            f"{size(free)} free"
        )


def _aof_size(instance: Instance, suffix: str) -> int:
    directory = instance.live / instance.config_value("appenddirname", "appendonlydir")
    total = 1024**2
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.name.endswith(suffix):
            total += path.lstat().st_size
    return total


def _free(instance: Instance) -> int:
    space = os.statvfs(instance.root / paths.DATA)
    return space.f_bavail * space.f_frsize


def _partial(instance: Instance) -> Path:
    return (instance.root / paths.ROLLBACK_DATA).with_name("rollback.partial")


def _link_data(instance: Instance) -> None:
    partial = _partial(instance)
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(instance.live, partial, symlinks=True, copy_function=_link_or_copy)
    for path in (partial, *partial.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            _copy_owner(instance.live / path.relative_to(partial), path)
    _sync(partial)
    partial.rename(instance.root / paths.ROLLBACK_DATA)
    fsync_directory(partial.parent)


def _link_or_copy(source: str, target: str) -> None:
    if source.endswith(".incr.aof"):
        shutil.copyfile(source, target, follow_symlinks=False)
        _copy_owner(Path(source), Path(target))
    else:
        os.link(source, target, follow_symlinks=False)


# -- Rollback


def roll_back(instance: Instance, compose: Compose) -> str:
    """Put the old version, its configuration and its data back. May be interrupted anywhere and repeated.

    The journal says that the rollback has begun. What the new version wrote becomes previous data. Returns what was
    done. Raises Failure if the old version is not back.
    """
    record = journal.read(instance)
    if record is None:
        raise Failure(f"{instance.root}/{paths.JOURNAL} is missing: the rollback cannot go on. Deploy again")
    _remove_container(instance)
    record = put_back_files(instance, record)
    image_id, reference = saved_image(instance)
    # The reference may be another image's now.
    process.check(["docker", "tag", image_id, reference])
    compose.forget_override()
    try:
        compose.up("--force-recreate")
    except Failure as error:
        raise Failure(
            f"{error}\nThe previous version is not back yet. systemd tries again every minute; to try now, run "
            "'redisctl recover'"
        ) from None
    complete(instance, record)
    written = instance.root / record.previous
    leftover = f"; what the new one wrote is in {written}" if record.previous and written.is_dir() else ""
    return f"the previous version is back and serves its data{leftover}"


def _remove_container(instance: Instance) -> None:
    """Remove the container, so that nothing uses the data while it moves. Raises Failure."""
    service.hold_down(instance)
    process.run(["docker", "stop", instance.name], timeout=None)
    process.run(["docker", "rm", "--force", instance.name])
    if docker.container(instance.name):
        raise Failure(f"Docker does not remove the container {instance.name}: 'docker rm --force {instance.name}'")


def put_back_files(instance: Instance, record: Journal) -> Journal:
    """Make the old version's data the live data and restore its configuration. Needs no Docker; Redis must not run."""
    if record.stage is not Stage.ROLLING_BACK:
        return record
    if not record.previous:
        previous_name = f"{paths.PREVIOUS}/{unused_name(instance)}"
        record = journal.advance(instance, record, Stage.ROLLING_BACK, previous=previous_name)
    saved = instance.root / paths.ROLLBACK_DATA
    if saved.is_dir():
        previous = instance.root / record.previous
        previous.parent.mkdir(mode=0o700, exist_ok=True)
        if instance.live.exists() and not previous.exists():
            os.rename(instance.live, previous)
            fsync_directory(previous.parent)
            fsync_directory(instance.live.parent)
        os.rename(saved, instance.live)
        fsync_directory(saved.parent)
    restore_config(instance)
    return journal.advance(instance, record, Stage.RESTARTING_OLD)


def complete(instance: Instance, record: Journal) -> None:
    """End the transaction: the new version is healthy, or the old one is back.

    The stage says so first: a rollback must not begin from data that is removed in part.
    """
    journal.advance(instance, record, Stage.FINISHING)
    _discard_saved(instance)
    journal.end(instance)


def _discard_saved(instance: Instance) -> None:
    """Remove what was kept for a rollback. The configuration disappears as a whole, because others look for it."""
    config = instance.root / paths.ROLLBACK_CONFIG
    partial = config.with_name(f"{config.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if config.is_dir():
        config.rename(partial)
    for path in (instance.root / paths.ROLLBACK_DATA, _partial(instance), partial):
        shutil.rmtree(path, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
        for path in (target, *target.rglob("*")):
            _copy_owner(source / path.relative_to(target), path)
    else:
        _copy_file(source, target)


def _copy_file(source: Path, target: Path) -> None:
    # With its times: a file that is newer than the container looks like a change to the next deploy.
    shutil.copy2(source, target)
    _copy_owner(source, target)


def _copy_owner(source: Path, target: Path) -> None:
    status = source.lstat()
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    if not target.is_symlink():
        target.chmod(status.st_mode & 0o7777)


def _sync(path: Path) -> None:
    process.check(["sync", "--file-system", str(path)], timeout=600)
