"""A change of the user that Redis runs as.

One transaction: Redis stops, all its files get the new owner, and it starts with the new user. It ends with the old or
the new owner everywhere. The rest of the deploy then finds files that belong to the right user.
"""

import json
from collections.abc import Callable
from pathlib import Path

from redisctl import paths
from redisctl.core import docker, journal, process, service, transaction
from redisctl.core.docker import RestartGuard
from redisctl.core.errors import Failure
from redisctl.core.files import sync, write_file
from redisctl.core.instance import Instance, error_text, with_present_owner
from redisctl.core.journal import Journal, Kind, Stage
from redisctl.core.ownership import Owner, give_files
from redisctl.deploy.service import check_data_directory
from redisctl.schema import OwnerRequest, Result


def change(instance: Instance, request: OwnerRequest) -> Result:
    """Give Redis and all its files another user.

    Stops Redis for as long as that takes. Raises Failure; then Redis runs as the old user, with its files.
    """
    journal.ensure_none(instance)
    if (instance.root / paths.IMPORT).exists():
        raise Failure("an import is running: run 'redisctl import finish --yes' or 'redisctl import cancel' first")
    check_data_directory(instance)
    old, new = _parse(request.old), _parse(request.new)
    # Before Redis stops: a file that is not what a deploy wrote is an error.
    _files(instance, old, new)
    record = transaction.begin(
        instance,
        f"change of the user of {instance.name} from {request.old} to {request.new}",
        Kind.OWNER,
        restart_policy=service.restart_policy(instance),
        request={"old": request.old, "new": request.new},
    )
    return Result(changed=True, messages=_run(instance, record))


def recover(instance: Instance, record: Journal) -> str:
    """Finish a change that was interrupted, or go back to the old user.

    Returns what was done. Raises Failure if neither state runs.
    """
    if record.stage in (Stage.PREPARED, Stage.STOPPING):
        _put_redis_back(instance, record)
        return f"{record.operation} was interrupted: Redis runs as the old user"
    if record.stage in (Stage.ROLLING_BACK, Stage.RESTARTING_OLD):
        _roll_back(instance, record)
        return f"{record.operation} was interrupted and is undone now"
    _give(instance, record)
    return f"{record.operation} was interrupted and is finished now"


def _run(instance: Instance, record: Journal) -> tuple[str, ...]:
    warning = ""
    if record.restart_policy:
        try:
            service.hold_down(instance)
            record = journal.advance(instance, record, Stage.STOPPING)
            warning = service.stop(instance).warning
        except Failure as error:
            _put_redis_back(instance, record)
            raise Failure(f"{error}. No file was changed, and Redis runs as before") from None
    _give(instance, journal.advance(instance, record, Stage.STOPPED))
    return (warning,) if warning else ()


def _put_redis_back(instance: Instance, record: Journal) -> None:
    """Start the container that no step has replaced, and end the transaction."""
    service.set_restart_policy(instance, record.restart_policy)
    if not docker.container(instance.name).get("State", {}).get("Running"):
        _start(instance, record)
    journal.end(instance)


def _give(instance: Instance, record: Journal) -> None:
    """Give the files to the new user and start Redis, or go back. May be repeated."""
    old, new = _parse(record.request["old"]), _parse(record.request["new"])
    try:
        record = journal.advance(instance, record, Stage.GIVING_FILES)
        _switch(instance, old, new)
        record = journal.advance(instance, record, Stage.STARTING)
        _start(instance, record)
    except Failure as error:
        transaction.roll_back(error, lambda: _roll_back(instance, record))
        raise Failure(f"{error}. Redis runs as the old user again, with its files") from None
    journal.end(instance)


def _roll_back(instance: Instance, record: Journal) -> None:
    """Give the files back to the old user and start Redis. May be repeated."""
    old, new = _parse(record.request["old"]), _parse(record.request["new"])
    record = journal.try_advance(instance, record, Stage.ROLLING_BACK)
    try:
        _switch(instance, new, old)
        record = journal.try_advance(instance, record, Stage.RESTARTING_OLD)
        _start(instance, record)
    except Failure as error:
        raise Failure(f"{error}. {transaction.RETRIES}") from None
    journal.end(instance)


def _switch(instance: Instance, old: Owner, new: Owner) -> None:
    """Make everything on the disk as the new user needs it, while Redis is down."""
    RestartGuard().call(lambda: _remove_container(instance))
    try:
        give_files(instance.root, old, new)
        for write in _files(instance, old, new):
            write()
        # Describes the container that is gone.
        (instance.root / paths.COMPOSE_OVERRIDE).unlink(missing_ok=True)
        for directory in (instance.root, instance.data, instance.backups):
            if directory.is_dir():
                sync(directory)
    except OSError as error:
        raise Failure(f"the files cannot change their owner: {error_text(error)}") from None


def _remove_container(instance: Instance) -> None:
    service.hold_down(instance)
    process.run(["docker", "stop", "--time", str(instance.stop_grace), instance.name], timeout=None)
    process.run(["docker", "rm", "--force", instance.name])
    if docker.container(instance.name):
        raise Failure(f"Docker does not remove the container {instance.name}: 'docker rm --force {instance.name}'")


def _start(instance: Instance, record: Journal) -> None:
    """Start Redis and wait until it is healthy.

    Does nothing if there was no container. Raises Failure.
    """
    if not record.restart_policy:
        return
    present = with_present_owner(instance)
    problems = service.start_and_check(present, lambda _: [], record.restart_policy)
    if problems:
        raise Failure(f"Redis does not start as {present.uid}:{present.gid}: {'; '.join(problems)}")


def _files(instance: Instance, old: Owner, new: Owner) -> list[Callable[[], None]]:
    """Return functions that write the files that name the user.

    Raises Failure if one cannot be changed.
    """
    compose, config = instance.root / paths.COMPOSE_FILE, instance.root / paths.PROGRAM_CONFIG
    text = json.dumps({**json.loads(config.read_text()), "uid": new[0], "gid": new[1]}, indent=2)
    writers = [_writer(config, f"{text}\n")]
    if compose.exists():
        writers.append(_writer(compose, _compose_text(compose, old, new)))
    return writers


def _writer(path: Path, text: str) -> Callable[[], None]:
    return lambda: write_file(path, text, mode=0o644, uid=0, gid=0)


def _compose_text(path: Path, old: Owner, new: Owner) -> str:
    """Return compose.yml with another user for Redis.

    The services of the application keep theirs. The deploy writes the file again, which is a part of it.
    """
    text = path.read_text()
    for line in ('    user: "{}:{}"\n', "uid={},gid={},mode=0700,size=64k"):
        before, after = line.format(*old), line.format(*new)
        if before in text:
            text = text.replace(before, after, 1)
        elif after not in text and line.endswith("\n"):
            raise Failure(f"{path} is not what a deploy wrote for {old[0]}:{old[1]}: deploy with that user first")
    return text


def _parse(owner: str) -> Owner:
    uid, _, gid = owner.partition(":")
    return int(uid), int(gid)
