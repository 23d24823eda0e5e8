"""Gives the running Redis the users of an ACL file, without a restart."""

from redis.exceptions import RedisError

from redisctl.core.errors import Failure
from redisctl.core.instance import Instance, error_text
from redisctl.deploy.preview import mask_hashes
from redisctl.schema import AclRequest, Result

# Seconds for all users.
_TIMEOUT = 60


def apply(instance: Instance, request: AclRequest) -> Result:
    """Set the users of the running Redis to those of an ACL file.

    Connections stay open. Sets user by user, each in one step: ACL LOAD would take all at once and close every
    connection on Redis 7.0. A user that Redis refuses keeps its rules. Raises Failure.
    """
    desired = parse_users(request.acl)
    errors = []
    try:
        with instance.connect(socket_timeout=_TIMEOUT) as redis:
            present = {line.split(" ", 2)[1] for line in redis.execute_command("ACL LIST")}
            for user, rules in desired.items():
                try:
                    redis.execute_command("ACL SETUSER", user, "reset", *rules)
                except RedisError as error:
                    errors.append(f"{user}: {mask_hashes(error_text(error))}")
            for user in sorted(present - set(desired)):
                redis.execute_command("ACL DELUSER", user)
    except RedisError as error:
        raise Failure(f"{instance.name} keeps its users: {mask_hashes(error_text(error))}. Deploy again") from None
    if errors:
        raise Failure("\n".join([f"{instance.name} refuses new users and keeps those it has:", *errors]))
    return Result(changed=True)


def parse_users(acl: str) -> dict[str, list[str]]:
    """Return the rules of each user in the text of an ACL file."""
    lines = (line.split() for line in acl.splitlines())
    return {words[1]: words[2:] for words in lines if words[:1] == ["user"]}
