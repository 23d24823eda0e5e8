"""The operations for users and their passwords."""

import time

from pyinfra import host
from pyinfra.api import FunctionCommand, operation

from redisctl.schema import AclRequest
from redoubt import secret_store, service_drift
from redoubt.filesystem import DesiredFile
from redoubt.operations.common import OWNER, Commands, RedisctlCall, fail, instance_state, note_change
from redoubt.operations.files import files
from redoubt.secret_store import Secrets
from redoubt.settings.model import Settings


@operation()
def acl_file(settings: Settings, acl: DesiredFile) -> Commands:
    """Write the ACL file, after the image has started with it; fails with Redis's message otherwise."""
    writing = list(files._inner(entries=[acl]))
    if any("_stdin" in command.connector_arguments for command in writing):
        request = AclRequest(acl.content, image=settings.redis_image, owner=OWNER)
        yield RedisctlCall(settings, "deploy", "check-acl", request=request)
    yield from writing


@operation()
def apply_users(settings: Settings, acl: DesiredFile, *, now: bool = False) -> Commands:
    """Give the running Redis the users of the ACL file, without a restart; connections stay open.

    No change if Redis is about to restart and will read the file, unless it must be ``now``. Fails if Redis refuses a
    user, who keeps the present rules then.
    """
    current = instance_state(settings, acl)
    if problem := service_drift.unanswered(settings, current):
        yield from fail(
            f"{settings.redis_name} is healthy by its health check, but redisctl cannot ask it: {problem}. Check the "
            f"load of the host, then deploy again. If it happens again, run 'docker restart {settings.redis_name}'"
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
        note_change(reason)
    yield RedisctlCall(settings, "deploy", "acl", request=AclRequest(acl.content))


@operation()
def store_passwords(settings: Settings, host_name: str, before: Secrets, after: Secrets) -> Commands:
    """Store changed passwords on this machine. Fails if they have changed since this command read them."""
    if before == after:
        host.noop("up to date")
        return
    note_change(f"{secret_store.location(settings, host_name)}: {_changed_users(before, after)}")
    yield FunctionCommand(secret_store.update, (settings, host_name, before, after), {})


def _changed_users(before: Secrets, after: Secrets) -> str:
    changed = [user for user, valid in after.valid().items() if valid != before.valid()[user]]
    return f"passwords of {', '.join(changed)}"


@operation()
def wait(seconds: int) -> Commands:
    """Wait, on this machine. An interruption leaves both passwords of each user valid."""
    yield FunctionCommand(time.sleep, (seconds,), {})


@operation()
def check_services_rotated(settings: Settings, acl: DesiredFile) -> Commands:
    """Fail if a service of the project started before the passwords that it reads were changed."""
    drift = service_drift.drift(settings, instance_state(settings, acl))
    behind = [service for service in drift.replace if service != settings.redis_name]
    if not behind:
        host.noop("all have the new passwords")
        return
    yield from fail(
        f"{', '.join(behind)} of {settings.redis_name}'s project started before the passwords changed and may still "
        "use a previous one: deploy, which restarts them, then finish the rotation"
    )
