"""Trial loads: a scratch Redis loads data, and nothing but data.

Redis checks no permission while it loads an AOF, so a foreign AOF could create users, load modules, or make the server
a replica. A trial does not know the commands that change the server. It is compared with a server that loaded nothing.
It keeps expired keys, so loaded data can be counted and compared with what it was, however old it is.
"""

import os
import re
import secrets
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from redisctl import paths
from redisctl.core import aof_manifest, scratch_redis
from redisctl.core.aof_manifest import read_manifest
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE
from redisctl.core.formatting import words
from redisctl.core.instance import Instance
from redisctl.core.scratch_redis import NotLoadable, running_redis, scratch_directory, scratch_name
from redisctl.core.untrusted_files import UntrustedDirectory

# The primary does not exist.
_KEEP_EXPIRED = {"replicaof": "127.0.0.1 1", "replica-serve-stale-data": "yes"}
# A command that writes data, and connects to another server for it.
_CONNECTS = {"migrate"}
_UNKNOWN = re.compile(r"Unknown command '(?P<name>[^']*)' reading the append only file")
# The error that an AOF gets for a command, see afterErrorReply in src/networking.c.
_REPLY = re.compile(r"is sending an error to its AOF-loading-client: '(.*)' after processing the command '(.*)'")
# Commands that choose a database. After one that fails, Redis runs the commands that follow in another database.
_CHOOSES_DATABASE = {"SELECT", "SWAPDB", "MOVE"}
# The first and the last line that a server logs when it starts. Docker keeps a limited log, and is some time behind.
_STARTING, _READY = "oO0OoO0OoO0Oo", "eady to accept connections"
_LOG_TIMEOUT, _POLL, _FIRST_LINES = 20, 0.1, 20


class RenamedCommand(NotLoadable):
    """An AOF of the instance has a command that the instance knows no more."""


@dataclass(frozen=True)
class Source:
    """Data to load: an RDB snapshot, or the directory of an AOF.

    ``memory`` is what the data should need, in bytes; None if it is unknown. ``databases`` is the number of databases.
    ``is_foreign`` says that commands in an AOF have their usual names, not those of this instance.
    """

    path: Path
    memory: int | None = None
    databases: int = 16
    is_foreign: bool = False

    @property
    def is_aof(self) -> bool:
        """Say whether it is an AOF."""
        return stat.S_ISDIR(self.path.lstat().st_mode)


@dataclass(frozen=True)
class Guard:
    """The commands that a trial does not know by their usual names.

    ``current`` maps a command to its name in the trial, which an AOF cannot know. ``state`` is that of the server.
    """

    current: Mapping[str, str]
    directives: tuple[str, ...]
    state: Mapping[str, Any]

    def name(self, command: str) -> str:
        """Return the name of a command in the trial."""
        return self.current.get(command.lower(), command)

    def find_changes(self, state: Mapping[str, Any]) -> list[str]:
        """Say what differs from a server that loaded nothing."""
        return [what for what, value in self.state.items() if state.get(what) != value]


def protect(redis: Redis, renames: Mapping[str, str]) -> Guard:
    """Return the guard of a trial.

    ``redis`` is a server with the same configuration that loaded nothing.
    ``renames`` are new names of commands by their usual ones; the name is empty if a command is disabled.
    """
    current, directives = {}, []
    token = secrets.token_hex(8)
    for command in administrative(redis):
        known = renames.get(command, command)
        if known:
            current[command] = f"{command}-{token}"
            directives.append(f"rename-command {known} {current[command]}")
    return Guard(current, tuple(directives), server_state(redis.execute_command))


def administrative(redis: Redis) -> list[str]:
    """Return the commands that change or inspect a server.

    Those that connect to another server are among them.
    """
    names = [name.decode().partition("|")[0] for name in redis.execute_command("ACL", "CAT", "admin")]
    return sorted({*names, *_CONNECTS})


def server_state(execute: Callable[..., Any]) -> dict[str, Any]:
    """Return everything of a server that loaded data must not change."""
    config = execute("CONFIG", "GET", "*")
    return {
        "users": execute("ACL", "LIST"),
        "modules": execute("MODULE", "LIST"),
        "role": execute("ROLE")[:3],
        "configuration": config if isinstance(config, dict) else dict(zip(config[::2], config[1::2], strict=True)),
    }


@dataclass(frozen=True)
class Trial:
    """A Redis that has loaded a source.

    ``errors`` are errors of commands of the AOF, with the number of each.
    """

    redis: Redis
    directory: Path
    guard: Guard
    errors: Mapping[str, int]

    def execute(self, command: str, *arguments: str) -> Any:
        """Run a command that may have another name in the trial. Raises RedisError."""
        return self.redis.execute_command(self.guard.name(command), *arguments)

    def write_rdb(self) -> Path:
        """Write an RDB snapshot of the loaded data, and return the file.

        See ``scratch_redis.write_rdb``.
        """
        return scratch_redis.write_rdb(self.redis, self.directory, self.guard.name("BGSAVE"))


@contextmanager
def loaded_redis(instance: Instance, source: Source) -> Iterator[Redis]:
    """Give a client of a Redis that has loaded the source, see ``trial``."""
    with scratch_directory(instance) as directory, trial(instance, source, directory) as server:
        yield server.redis


@contextmanager
def trial(instance: Instance, source: Source, directory: Path) -> Iterator[Trial]:
    """Give a Redis that has loaded the source.

    It writes to ``directory``, which belongs to it. Its client does not decode answers. The source is only read. Raises
    NotLoadable with what Redis logs if it does not load the data, OutOfMemory if the host has too little memory, and
    Failure if the source changes the server.
    """
    options: dict[str, str] = {"databases": str(source.databases), **_KEEP_EXPIRED}
    if not source.is_aof:
        (directory / RDB_FILE).symlink_to(f"/source/{source.path.name}")
        container, mounts = scratch_name(instance), {str(source.path.parent): "/source"}
        with running_redis(instance, container, directory, options, source.memory, mounts=mounts) as redis:
            yield Trial(redis, directory, Guard({}, (), {}), {})
        return
    options |= {"appendonly": "yes"}
    renames = {} if source.is_foreign else _own_names(instance)
    with (
        scratch_directory(instance) as empty,
        running_redis(instance, scratch_name(instance), empty, options, 0) as redis,
    ):
        guard = protect(redis, renames)
    stage_aof(source.path, instance.untrusted(directory))
    lines = (*(f"rename-command {name} {renames[name] or chr(34) * 2}" for name in renames), *guard.directives)
    container, mounts = scratch_name(instance), {str(source.path): "/source"}
    try:
        with running_redis(
            instance, container, directory, options, source.memory, mounts=mounts, more="\n".join(lines)
        ) as redis:
            server = Trial(redis, directory, guard, failed_commands(_complete_log(container)))
            ensure_own_databases(server.errors, source.databases)
            changes = guard.find_changes(server_state(server.execute))
            if changes:
                raise Failure(
                    f"the AOF changes the server, not only the data ({', '.join(changes)}): it is not restored"
                )
            yield server
    except NotLoadable as error:
        raise explain_unknown(str(error), guard, renames) from None


def explain_unknown(message: str, guard: Guard, renames: Mapping[str, str]) -> NotLoadable:
    """Explain that a trial does not know a command of an AOF.

    ``renames`` are those of the instance if it wrote the AOF.
    """
    match = _UNKNOWN.search(message)
    if not match:
        return NotLoadable(message)
    name = words(match["name"].encode())
    if name.lower() in renames:
        return RenamedCommand(
            f"the AOF contains the command {name}, which this instance has disabled or renamed since. Nothing is "
            "damaged"
        )
    if name.lower() in guard.current:
        return NotLoadable(
            f"the AOF contains the command {name}, which changes the server and not the data. No Redis writes it to an "
            "AOF: it is not loaded"
        )
    return NotLoadable(
        f"the AOF contains the command {name}, which this server does not know: the server that wrote the AOF was "
        "newer, had a module, or had renamed a command. Restore its RDB snapshot instead"
    )


def failed_commands(log: list[str]) -> dict[str, int]:
    """Return the errors of commands of an AOF, with the number of each.

    The most frequent ones come first. Redis continues after them.
    """
    matches = filter(None, map(_REPLY.search, log))
    errors = Counter(words(f"{match[2].upper()}: {match[1]}".encode()) for match in matches)
    return dict(errors.most_common())


def ensure_own_databases(errors: Mapping[str, int], databases: int) -> None:
    """Raise NotLoadable if commands of an AOF ran in a wrong database."""
    if any(error.partition(": ")[0] in _CHOOSES_DATABASE or "DB index is out of range" in error for error in errors):
        raise NotLoadable(
            f"the AOF uses databases beyond db{databases - 1}: set redis_databases to that of the server that wrote it "
            "and deploy first. Otherwise its keys would get into other databases"
        )


def _complete_log(container: str) -> list[str]:
    """Return all that a scratch Redis logged until it had loaded its data.

    Raises NotLoadable if Docker has dropped the beginning, and Failure if the end does not arrive.
    """
    deadline = time.monotonic() + _LOG_TIMEOUT
    while _READY not in "\n".join(lines := scratch_redis.log(container, None)):
        if time.monotonic() > deadline:
            raise Failure(f"Docker does not return the log of {container}: is the disk of Docker full?")
        time.sleep(_POLL)
    if not any(_STARTING in line for line in lines[:_FIRST_LINES]):
        raise NotLoadable(
            "more commands of the AOF fail than the log of the second Redis can hold, so it is unknown what is "
            "missing: restore an RDB snapshot of the server that wrote the AOF"
        )
    return lines


def _own_names(instance: Instance) -> dict[str, str]:
    """Return the new names of commands in this instance; empty for a disabled one."""
    path = instance.root / paths.SERVER_SECRETS / "commands.conf"
    text = path.read_text() if path.exists() else ""
    lines = re.findall(r"^rename-command (\S+) (\S+)$", text, re.MULTILINE)
    return {command.lower(): name.strip('"') for command, name in lines}


def stage_aof(aof: Path, directory: UntrustedDirectory) -> None:
    """Stage an AOF for a Redis that may not write to it.

    That Redis writes to an additional increment of its own.
    """
    parts = read_manifest(aof)
    own_part = aof_manifest.Part("scratch.incr.aof", max(part.seq for part in parts) + 1, aof_manifest.INCREMENT)
    name = aof_manifest.DIRECTORY
    directory.make_directory(name)
    # The links are resolved in the container.
    for part in parts:
        os.symlink(f"/source/{part.name}", directory.path / name / part.name)
    directory.write_file(name, own_part.name, text="")
    directory.write_file(name, aof_manifest.MANIFEST, text=aof_manifest.to_text([*parts, own_part]))
