"""The operations for users and their passwords."""

import time

from pyinfra import host
from pyinfra.api import FunctionCommand, StringCommand, operation

from redoubt import secret_store, service_drift
from redoubt.facts.script import script
from redoubt.filesystem import DesiredFile
from redoubt.operations.common import OWNER, Commands, fail, instance_script, note_change, service_state
from redoubt.operations.files import files
from redoubt.secret_store import Secrets
from redoubt.settings.model import Settings


@operation()
def acl_file(settings: Settings, acl: DesiredFile) -> Commands:
    """Write the ACL file, once the image was seen to start with its users; fails in Redis's words otherwise."""
    writing = list(files._inner(entries=[acl]))
    if any("_stdin" in command.connector_arguments for command in writing):
        trial = script("try-users.sh", IMAGE=settings.redis_image, OWNER=OWNER)
        yield StringCommand(trial, _stdin=acl.content)
    yield from writing


@operation()
def apply_users(settings: Settings, acl: DesiredFile, *, now: bool = False) -> Commands:
    """Give the running Redis the users of the ACL file, without a restart; connections stay open.

    Nothing where Redis is about to start anew and reads the file by itself, unless it must be ``now``. Fails when Redis
    refuses a user, which then stays as it was.
    """
    current = service_state(settings, acl)
    if service_drift.is_unresponsive(settings, current):
        yield from fail(
            f"{settings.redis_name} is healthy by its check, and did not answer within 10 s: look at the load of the "
            "host, and deploy again"
        )
        return
    if now and not current.acl:
        yield from fail(f"{settings.redis_name} does not answer, and cannot be given other passwords: deploy first")
        return
    reasons = service_drift.users_drift(settings, current)
    if not reasons or (service_drift.will_be_recreated(settings, current) and not now):
        host.noop("as wanted, or read at the start to come")
        return
    for reason in reasons:
        note_change(reason)
    script = instance_script(settings, "apply-users.sh")
    yield StringCommand(script, _stdin=acl.content)


@operation()
def store_passwords(settings: Settings, host_name: str, before: Secrets, after: Secrets) -> Commands:
    """Store changed passwords on this machine. Fails when somebody else changed them since they were read."""
    if before == after:
        host.noop("as wanted")
        return
    note_change(f"{secret_store.location(settings, host_name)}: {_changed_users(before, after)}")
    yield FunctionCommand(secret_store.update, (settings, host_name, before, after), {})


def _changed_users(before: Secrets, after: Secrets) -> str:
    changed = [user for user, valid in after.valid().items() if valid != before.valid()[user]]
    return f"passwords of {', '.join(changed)}"


@operation()
def wait(seconds: int) -> Commands:
    """Wait, on this machine; an interruption leaves both passwords of each user valid."""
    yield FunctionCommand(time.sleep, (seconds,), {})


@operation()
def check_services_rotated(settings: Settings, acl: DesiredFile) -> Commands:
    """Fail when a service of the project was started before the passwords that it reads were changed."""
    state_ = service_state(settings, acl)
    behind = [one for one in service_drift.drift(settings, state_).replace if one != settings.redis_name]
    if not behind:
        host.noop("none has")
        return
    yield from fail(
        f"{', '.join(behind)} of {settings.redis_name}'s project started before passwords were changed, and may still "
        "use a former one: deploy, which starts them anew, and retire then"
    )
