"""The operations for the users of Redis."""

from pyinfra import host
from pyinfra.api import operation

from redisctl.schema import AclRequest
from redoubt import service_drift
from redoubt.filesystem import DesiredFile
from redoubt.host_state import Changes
from redoubt.operations.common import Commands, RedisctlCall, fail, instance_state, note_change
from redoubt.operations.files import files
from redoubt.settings.model import Settings


@operation()
def acl_file(settings: Settings, acl: DesiredFile) -> Commands:
    """Write the ACL file, after the image has started with it.

    Fails with Redis's message if the image does not start with it.
    """
    writing = list(files._inner(entries=[acl]))
    if any("_stdin" in command.connector_arguments for command in writing):
        request = AclRequest(acl.content, image=settings.redis_image, owner=settings.owner)
        yield RedisctlCall(settings, "deploy", "check-acl", request=request)
    yield from writing


@operation()
def apply_users(settings: Settings, acl: DesiredFile, *, now: bool = False) -> Commands:
    """Give the running Redis the users of the ACL file, without a restart.

    Connections stay open. No change if Redis is about to restart and will read the file, unless it must be ``now``.
    Fails if Redis refuses a user, who keeps the present rules then.
    """
    current = instance_state(settings, acl)
    if problem := service_drift.unanswered(settings, current):
        yield from fail(
            f"{settings.redis_name} is healthy by its health check, but redisctl cannot ask it: {problem}. Check the "
            f"load of the host, then deploy again. If it happens again, run 'redisctl restart' on the host"
        )
        return
    if now and not current.acl:
        yield from fail(f"{settings.redis_name} does not answer and cannot get new passwords: deploy first")
        return
    reasons = service_drift.users_drift(settings, current)
    if not reasons or (service_drift.will_be_recreated(settings, current) and not now):
        host.noop("up to date, or read at the next start")
        return
    for reason in reasons:
        note_change(reason, Changes.ALL_BUT_UNITS)
    yield RedisctlCall(settings, "deploy", "acl", request=AclRequest(acl.content))
