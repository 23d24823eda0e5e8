"""Upgrades to another version of the server, and their rollback.

Before an upgrade the data is backed up and the new version loads the backup. The old version's configuration is saved
like that of every deploy (configuration.py). Once Redis is stopped, its data is kept in ROOT/data/rollback, until the
new version is healthy.
"""

import contextlib
import os
import time
from pathlib import Path
from typing import Protocol

from redis.exceptions import RedisError

from redisctl import paths
from redisctl.backup.run import back_up
from redisctl.backup.verify import verify_with_image
from redisctl.core import docker, journal, process, progress, service, transaction
from redisctl.core.aof_manifest import DIRECTORY as AOF_DIRECTORY
from redisctl.core.errors import Failure
from redisctl.core.files import DISK_MARGIN, RDB_FILE, fsync_directory, sync
from redisctl.core.formatting import size
from redisctl.core.instance import Instance, error_text
from redisctl.core.journal import Journal, Stage
from redisctl.core.untrusted_files import UntrustedDirectory, remove_tree
from redisctl.data.layout import upgrade_in_progress
from redisctl.data.swap import unused_name
from redisctl.deploy import configuration
from redisctl.schema import Result, StartRequest, UpgradeRequest

# Seconds that a rewrite of the AOF may take before an upgrade.
_REWRITE_TIMEOUT = 450


class Compose(Protocol):
    """The Compose commands that a rollback needs."""

    def up_again(self) -> str:
        """Replace all containers and wait until they are healthy.

        Returns the output. Raises Failure.
        """

    def forget_override(self) -> None:
        """The container is created from compose.yml alone."""


# -- Before the upgrade


def check(instance: Instance, request: UpgradeRequest) -> Result:
    """Back the data up, and have the new version load the backup.

    Raises Failure, with the running Redis untouched, if the new version does not read the data or there is no room.
    """
    try:
        backup = back_up(instance, verify=request.verify).backup
        if request.verify:
            verify_with_image(instance, backup, request.image, request.config)
    except Failure as error:
        raise Failure(
            f"{error}. The running Redis was left alone, and nothing was changed for the new version"
        ) from None
    contents = backup.describe_contents()
    return Result(changed=True, messages=(f"backup {backup.id} was taken before the upgrade: {contents}",))


# -- The old version's data


def save_data(instance: Instance, record: Journal, request: StartRequest) -> Journal:
    """Stop the old version and keep its data, if this start is an upgrade.

    May be repeated. RDB files are kept by a hard link, because Redis only ever replaces them. AOF files that are
    appended to are copied. Raises Failure.
    """
    if not configuration.is_saved(instance) or upgrade_in_progress(instance):
        return record
    image_id = configuration.saved_image(instance)[0]
    if not is_old_version(instance) or (docker.image(request.image) or {}).get("Id") == image_id:
        return record
    _rewrite_aof(instance)
    _ensure_room(instance)
    # The journal has the request, and with it the restart policy to put back.
    service.hold_down(instance)
    service.stop(instance)
    record = journal.advance(instance, record, Stage.STOPPED)
    try:
        _link_data(instance)
    except (OSError, Failure) as error:
        remove_tree(_partial(instance), ignore_errors=True)
        reason = error_text(error)
        raise Failure(f"the data cannot be kept for a rollback: {reason}") from None
    return record


def is_old_version(instance: Instance) -> bool:
    """Say whether the container is still that of the old version.

    It is the version that an upgrade replaces.
    """
    return bool(docker.container(instance.name).get("Image") == configuration.saved_image(instance)[0])


def _rewrite_aof(instance: Instance) -> None:
    """Rewrite the AOF while the old version still serves.

    So little has to be copied while Redis is down.
    """
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
                progress.report(f"Redis rewrites its AOF: {persistence.get('current_save_keys_processed', 0)} keys")
                time.sleep(0.5)
    except (RedisError, Failure):
        # The AOF is as it was; the copy takes longer.
        return


def _ensure_room(instance: Instance) -> None:
    needed, free = _aof_size(instance, ".incr.aof") + DISK_MARGIN, _free(instance)
    if free < needed:
        raise Failure(
            f"the copy of the AOF that a rollback needs takes {size(needed)}, and {instance.root}/{paths.DATA} has "
            f"{size(free)} free"
        )


def _aof_size(instance: Instance, suffix: str) -> int:
    name, live = instance.config_value("appenddirname", AOF_DIRECTORY), instance.live_files
    try:
        files = [file for file in live.list_names(name) if file.endswith(suffix)]
        return 1024**2 + sum(live.status(name, file).st_size for file in files)
    except OSError as error:
        raise Failure(f"the AOF cannot be read: {error.filename or name}: {error.strerror}") from None


def _free(instance: Instance) -> int:
    space = os.statvfs(instance.root / paths.DATA)
    return space.f_bavail * space.f_frsize


def _partial(instance: Instance) -> Path:
    return (instance.root / paths.ROLLBACK_DATA).with_name("rollback.partial")


def _link_data(instance: Instance) -> None:
    """Keep the files that Redis reads. What else lies next to them is not data.

    Raises OSError if one is not a regular file, and Failure if it does not fit on the disk.
    """
    partial = _partial(instance)
    remove_tree(partial, ignore_errors=True)
    instance.untrusted(partial.parent).make_directory(partial.name)
    kept, rdb = instance.untrusted(partial), instance.config_value("dbfilename", RDB_FILE)
    with contextlib.suppress(FileNotFoundError):
        _link_or_copy(instance, kept, rdb)
    aof = instance.config_value("appenddirname", AOF_DIRECTORY)
    if names := instance.live_files.list_names(aof):
        kept.make_directory(aof)
        for name in names:
            _link_or_copy(instance, kept, aof, name)
    sync(partial)
    partial.rename(instance.root / paths.ROLLBACK_DATA)
    fsync_directory(partial.parent)


def _link_or_copy(instance: Instance, kept: UntrustedDirectory, *names: str) -> None:
    with instance.live_files.open_file(*names) as file:
        if names[-1].endswith(".incr.aof"):
            kept.copy_file(file, *names)
        else:
            kept.link_file(file, *names)


# -- Rollback


def roll_back(instance: Instance, compose: Compose) -> str:
    """Put the old version, its configuration and its data back.

    May be interrupted anywhere and repeated. The journal says that the rollback has begun. What the new version wrote
    becomes previous data. Returns what was done. Raises Failure if the old version is not back.
    """
    record = journal.read(instance)
    if record is None:
        raise Failure(f"{instance.root}/{paths.JOURNAL} is missing: the rollback cannot go on. Deploy again")
    _remove_container(instance)
    record = put_back_files(instance, record)
    image_id, reference = configuration.saved_image(instance)
    # The reference may be another image's now.
    process.check(["docker", "tag", image_id, reference])
    compose.forget_override()
    try:
        compose.up_again()
    except Failure as error:
        raise Failure(f"{error}\nThe previous version is not back yet. {transaction.RETRIES}") from None
    complete(instance, record)
    written = instance.root / record.previous
    leftover = f"; what the new one wrote is in {written}" if record.previous and written.is_dir() else ""
    return f"the previous version is back and serves its data{leftover}"


def _remove_container(instance: Instance) -> None:
    """Remove the container, so that nothing uses the data while it moves.

    Raises Failure.
    """
    service.hold_down(instance)
    process.run(["docker", "stop", instance.name], timeout=None)
    process.run(["docker", "rm", "--force", instance.name])
    if docker.container(instance.name):
        raise Failure(f"Docker does not remove the container {instance.name}: 'docker rm --force {instance.name}'")


def put_back_files(instance: Instance, record: Journal) -> Journal:
    """Make the old version's data the live data and restore its configuration.

    Needs no Docker; Redis must not run.
    """
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
    configuration.restore(instance)
    return journal.advance(instance, record, Stage.RESTARTING_OLD)


def complete(instance: Instance, record: Journal) -> None:
    """End the transaction: the new version is healthy, or the old one is back.

    The stage says so first: a rollback must not begin from data that is removed in part.
    """
    journal.advance(instance, record, Stage.FINISHING)
    _discard_saved(instance)
    journal.end(instance)


def _discard_saved(instance: Instance) -> None:
    """Remove what was kept for a rollback."""
    configuration.discard(instance)
    for path in (instance.root / paths.ROLLBACK_DATA, _partial(instance)):
        remove_tree(path, ignore_errors=True)
