"""Gives the running Redis the users of an ACL file, without a restart."""

from redis.exceptions import RedisError

from redisctl.core.answers import reading_answers
from redisctl.core.errors import Failure
from redisctl.core.formatting import words
from redisctl.core.instance import Instance, error_text
from redisctl.deploy.preview import mask_hashes
from redisctl.schema import AclRequest, Result

# Seconds for all users.
_TIMEOUT = 60


@reading_answers()
def apply(instance: Instance, request: AclRequest) -> Result:
    """Set the users of the running Redis to those of an ACL file.

    Connections stay open. Sets user by user, each in one step: ACL LOAD would take all at once and close every
    connection on Redis 7.0. A user that Redis refuses keeps its rules. Raises Failure.
    """
    lines = [line.split(" ") for line in request.acl.split("\n")]
    desired = {name.encode(): rules for _, name, *rules in (line for line in lines if line[0] == "user")}
    errors = []
    try:
        # Names of others may be no text.
        with instance.connect(socket_timeout=_TIMEOUT, decode_responses=False) as redis:
            present = set(redis.execute_command("ACL", "USERS"))
            for user, rules in desired.items():
                try:
                    redis.execute_command("ACL SETUSER", user, "reset", *rules)
                except RedisError as error:
                    errors.append(f"{words(user)}: {mask_hashes(error_text(error))}")
            for user in sorted(present - set(desired)):
                redis.execute_command("ACL DELUSER", user)
    except RedisError as error:
        raise Failure(f"{instance.name} keeps its users: {mask_hashes(error_text(error))}. Deploy again") from None
    if errors:
        raise Failure("\n".join([f"{instance.name} refuses new users and keeps those it has:", *errors]))
    return Result(changed=True)
