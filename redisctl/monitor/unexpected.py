"""What a server has that the files of its deploy do not explain."""

from dataclasses import dataclass

from redisctl import paths
from redisctl.core.answers import ImplausibleAnswer, reading_answers
from redisctl.core.instance import Instance, error_text
from redisctl.core.resp import RespClient, RespRefusal
from redisctl.core.server_changes import named, primary_of, texts

_RUNS_FUNCTIONS = {b"+fcall", b"+fcall_ro", b"+@all", b"+@scripting"}


@dataclass(frozen=True)
class Unexpected:
    """Users that only one of the server and users.acl has, and functions.

    ``users`` and ``functions`` are names for a message; ``functions`` are libraries that no user may run. ``primary``
    is the server that it copies. ``unknown`` says why these are not known.
    """

    primary: str = ""
    users: str = ""
    functions: str = ""
    unknown: str = ""


def find(instance: Instance, redis: RespClient) -> Unexpected:
    """Return what a server has that its files do not explain.

    Raises RespError if it does not answer.
    """
    try:
        return _find(instance, redis)
    except (ImplausibleAnswer, RespRefusal, OSError) as error:
        return Unexpected(unknown=error_text(error))


@reading_answers()
def _find(instance: Instance, redis: RespClient) -> Unexpected:
    lines = (instance.root / paths.CONFIG / "users.acl").read_bytes().split(b"\n")
    users = [line.split(b" ") for line in lines if line.startswith(b"user ")]
    may_run = any(_RUNS_FUNCTIONS & set(user) and b"off" not in user for user in users)
    return Unexpected(
        primary_of(redis.execute("ROLE", raw=True)),
        named({user[1] for user in users} ^ set(texts(redis.execute("ACL", "USERS", raw=True)))),
        "" if may_run else named(_libraries(redis)),
    )


def _libraries(redis: RespClient) -> list[bytes]:
    try:
        answer = redis.execute("FUNCTION", "LIST", raw=True)
    except RespRefusal as error:
        # Redis 7.0 introduced functions.
        if "unknown command" in str(error).lower():
            return []
        raise
    return texts([library[library.index(b"library_name") + 1] for library in answer])
