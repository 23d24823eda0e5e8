"""What data changed in the server that loaded it, and how that is undone.

An AOF is a list of commands, and Redis executes them at every start without asking for rights. A Redis that was taken
over can write commands there that create users, change the configuration or make it a replica. The files of the deploy
say what the server should be like: Redis cannot write them. Redis itself reads them again, so nothing here compares
the rules of users.
"""

import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from redisctl import paths
from redisctl.core import journal, lock
from redisctl.core.answers import parse_info, reading_answers
from redisctl.core.errors import Failure
from redisctl.core.files import read_small, write_file
from redisctl.core.formatting import words
from redisctl.core.instance import Instance, UnusableSecret, error_text
from redisctl.core.resp import RespClient, RespError, RespRefusal

# Seconds until a Redis that Docker has started must have loaded its data, and until it must answer, if only that it
# loads.
LOADING_TIMEOUT, _PATIENCE = 4 * 3600, 15
# Seconds for each command, for everything, and between two looks.
_TIMEOUT, _DEADLINE, _POLL = 5, 60, 0.5
# How redis.conf names the directory of its includes.
_CONFIG_DIR = "/etc/redis/"
# Users, directives and libraries that a message names, characters of a name and of an error, and bytes of the record.
_MAX_NAMED, _MAX_NAME, _MAX_ERROR, _MAX_RECORD = 5, 64, 200, 64 * 1024
_REFUSED = ("WRONGPASS", "NOAUTH", "NOPERM")
LOCKED_OUT_ADVICE = (
    "the AOF changes the users, as after somebody took over Redis: redisctl restore with a backup from before that"
)


class LockedOut(Failure):
    """Redis refuses admin although it has just read its users from users.acl."""


def named(names: Iterable[bytes]) -> str:
    """Return a few names of Redis for a message, none of them long."""
    listed = sorted(names)
    rest = f" and {len(listed) - _MAX_NAMED} more" if len(listed) > _MAX_NAMED else ""
    return f"{', '.join(words(name[:_MAX_NAME]) or repr('') for name in listed[:_MAX_NAMED])}{rest}"


def directives(instance: Instance) -> dict[str, str]:
    """Return the directives of redis.conf and of its includes in config/.

    Raises OSError.
    """
    config = instance.root / paths.CONFIG
    text = (config / "redis.conf").read_text()
    for name in re.findall(rf"^include {_CONFIG_DIR}([a-z]+\.conf)$", text, re.MULTILINE):
        text += (config / name).read_text()
    lines = (line.partition(" ") for line in text.split("\n") if line and not line.startswith("#"))
    return {name: value.strip('"') for name, _, value in lines}


# -- After a start by Docker


def undo_once_loaded(instance: Instance) -> list[str]:
    """Undo what the data changed in a Redis that Docker has started.

    Waits until Redis has loaded it. Does nothing while a deploy or verb works on the instance, which looks at its own
    starts itself: the files may be those of a Redis that has not started yet. The network watch asks again.
    Returns messages.
    """
    if not _wait_until_loaded(instance) or _is_changing(instance):
        return []
    try:
        return undo_after_start(instance)
    except LockedOut as error:
        return [str(error)]


def _is_changing(instance: Instance) -> bool:
    holder = lock.holder(instance.name)
    if holder is not None and holder.verb != "backup":
        return True
    try:
        return journal.read(instance) is not None
    except Failure:
        return True


def _wait_until_loaded(instance: Instance) -> bool:
    """Wait until Redis has loaded its data, or until it answers with an error.

    Returns False if it does not run or still loads, or if someone changes the instance.
    """
    end = time.monotonic() + LOADING_TIMEOUT
    patience = time.monotonic() + _PATIENCE
    while time.monotonic() < end and not _is_changing(instance):
        instance.refresh_container()
        if not instance.container.get("State", {}).get("Pid"):
            return False
        try:
            with instance.connect_quickly(_TIMEOUT) as redis:
                if not _loading(redis):
                    return True
            patience = time.monotonic() + _PATIENCE
        except RespRefusal as error:
            # A script may run.
            if not str(error).startswith("BUSY"):
                return True
            patience = time.monotonic() + _PATIENCE
        except (RespError, Failure, OSError):
            # It may not listen yet.
            if time.monotonic() > patience:
                return True
        time.sleep(_POLL)
    return False


# -- Undo


def undo_after_start(instance: Instance) -> list[str]:
    """Undo what the data changed in a Redis that has started and loaded it.

    Has Redis read its users again, sets directives and role as the files say, and has Redis rewrite the AOF, so that
    the commands in it do not come back. Does that once for each start, and again if Redis is a replica. Takes a minute
    at most. Returns messages, also for errors. Raises LockedOut if Redis refuses admin afterwards.
    """
    instance.refresh_container()
    state = instance.container.get("State", {})
    start = str(state.get("StartedAt", ""))
    undo = _Undo(instance)
    if not state.get("Pid") or (_recorded(instance)[:1] == [start] and undo.is_primary()):
        return []
    undo.run()
    messages = undo.messages()
    locked_out = LockedOut(messages[-1]) if undo.is_locked_out else None
    try:
        text = "\n".join([start, *(message.replace("\n", " ") for message in messages), ""])
        write_file(Path(paths.start_record(instance.name)), text, mode=0o600, uid=0, gid=0)
    except OSError as error:
        messages.append(f"{paths.start_record(instance.name)} cannot be written: {error_text(error)}")
    if locked_out:
        raise locked_out
    return messages


def undone(instance: Instance) -> tuple[str, ...]:
    """Return what ``undo_after_start`` reported since Redis started last."""
    start, *messages = _recorded(instance) or ("",)
    return tuple(messages) if start == str(instance.container.get("State", {}).get("StartedAt", "")) else ()


def _recorded(instance: Instance) -> list[str]:
    """Return the time of the start that was looked at last, and the messages."""
    return read_small(Path(paths.start_record(instance.name)), _MAX_RECORD).split("\n")[:-1]


class _Undo:
    """An attempt to make the server what its files say.

    Each step has its own connection, and an error of one does not stop the others.
    """

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._deadline = time.monotonic() + _DEADLINE
        self._users: set[bytes] = set()
        self._directives: set[str] = set()
        self._primary = ""
        self._errors: list[str] = []

    def is_primary(self) -> bool:
        """Say whether Redis is a primary. One that does not answer may be one."""
        return not self._step(_primary)

    @property
    def is_locked_out(self) -> bool:
        """Say whether Redis refused admin to the end."""
        return any(error.startswith(_REFUSED) for error in self._errors)

    def run(self) -> None:
        """Undo everything.

        Two times at most: admin may have its rights again after the first one.
        """
        while self._step(_loading):
            time.sleep(_POLL)
        for _ in range(2):
            self._errors = []
            before = self._step(_list_users)
            # Before ACL LOAD, which crashes some versions that are replicas, and takes this right back.
            self._primary = self._step(self._make_primary) or self._primary
            self._step(lambda redis: redis.execute("ACL", "LOAD"))
            after = self._step(_list_users)
            if after is not None and before != after:
                names = {name for name in {**(before or {}), **after} if (before or {}).get(name) != after.get(name)}
                self._users |= {b"(too many to list)"} if before is None else names
                # A client that logged in as such a user would stay logged in.
                self._step(_disconnect_clients)
            self._directives |= self._step(self._set_directives) or set()
            if not self._errors:
                break
        if self._users or self._directives or self._primary:
            self._step(self._rewrite_aof)

    def _step(self, action: Callable[[RespClient], Any]) -> Any:
        try:
            with reading_answers(), self._instance.connect_quickly(_TIMEOUT, self._deadline) as redis:
                return action(redis)
        except (RespError, Failure, OSError) as error:
            self._errors.append(error_text(error)[:_MAX_ERROR])
            return None

    def _make_primary(self, redis: RespClient) -> str:
        primary = _primary(redis)
        if primary:
            for command in ("REPLICAOF", "SLAVEOF"):
                redis.execute("ACL", "SETUSER", "admin", f"+{command.lower()}")
                with suppress(RespRefusal, UnusableSecret):
                    self._instance.execute_renamed(redis, command, "NO", "ONE")
                    return primary
            raise Failure(f"it stays a replica of {primary}")
        return ""

    def _set_directives(self, redis: RespClient) -> set[str]:
        """Set the directives that differ from their file.

        Returns those that changed: a file may have another notation.
        """
        desired, before = directives(self._instance), self._config(redis)
        for name, value in desired.items():
            if before.get(name, value) != value:
                # Redis reads some only at its start.
                with suppress(RespRefusal):
                    self._instance.execute_renamed(redis, "CONFIG", "SET", name, value)
        after = self._config(redis)
        return {name for name in desired if before.get(name) != after.get(name)}

    def _config(self, redis: RespClient) -> dict[str, str]:
        answer = self._instance.execute_renamed(redis, "CONFIG", "GET", "*")
        return dict(zip(answer[::2], answer[1::2], strict=True))

    def _rewrite_aof(self, redis: RespClient) -> None:
        if parse_info(redis.execute("INFO", "persistence"))["aof_enabled"]:
            try:
                self._instance.execute_renamed(redis, "BGREWRITEAOF")
            except RespRefusal as error:
                # One that began after the start writes no such commands either.
                if "in progress" not in str(error):
                    raise

    def messages(self) -> list[str]:
        """Return what was found and done, for people."""
        directives = [name.encode(errors="replace") for name in self._directives]
        found = [
            *([f"other users than config/users.acl: {named(self._users)}"] if self._users else []),
            *([f"other values than redis.conf: {named(directives)}"] if directives else []),
            *([f"a replica of {self._primary}"] if self._primary else []),
        ]
        messages = [f"the data of {self._instance.name} changed the server: {'; '.join(found)}"] if found else []
        if self._errors:
            errors = "; ".join(dict.fromkeys(self._errors))
            advice = LOCKED_OUT_ADVICE if self.is_locked_out else "'redisctl health' and a deploy say what remains"
            messages.append(f"{self._instance.name} could not be made what its files say: {errors}: {advice}")
        elif found:
            messages.append(
                "this was undone, and its AOF is rewritten without it. Find out who wrote it: somebody may have taken "
                "over Redis"
            )
        return messages


def _loading(redis: RespClient) -> bool:
    # Other sections contain texts of the configuration, which may contain lines.
    section = ("INFO", "persistence")
    try:
        answer = redis.execute(*section)
    except RespRefusal as error:
        if not str(error).startswith("NOPERM"):
            raise
        # The data took this right from admin, and may create users after that.
        redis.execute("ACL", "LOAD")
        answer = redis.execute(*section)
    return bool(parse_info(answer).get("loading"))


def _primary(redis: RespClient) -> str:
    return primary_of(redis.execute("ROLE", raw=True))


def primary_of(role: Any) -> str:
    """Return the server that a Redis copies, by its answer to ROLE.

    Empty if it is a primary. Raises TypeError, ValueError or LookupError for another answer.
    """
    kind, *rest = role
    return "" if kind == b"master" else words(b"%s:%d" % (rest[0][:_MAX_NAME], rest[1]))


def _list_users(redis: RespClient) -> dict[bytes, bytes]:
    return {line.split(b" ", 2)[1]: line for line in texts(redis.execute("ACL", "LIST", raw=True))}


def _disconnect_clients(redis: RespClient) -> None:
    for kind in ("normal", "pubsub"):
        redis.execute("CLIENT", "KILL", "TYPE", kind)


def texts(answer: Any) -> list[bytes]:
    """Return an answer that is a list of texts. Raises TypeError for another one."""
    if not isinstance(answer, list) or not all(isinstance(text, bytes) for text in answer):
        raise TypeError("no list of texts")
    return answer
