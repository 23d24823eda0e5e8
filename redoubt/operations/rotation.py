"""The operations of a rotation.

They store the passwords, wait, and check the services of the project.
"""

import time

from pyinfra import host
from pyinfra.api import FunctionCommand, operation

from redoubt import secret_store, service_drift
from redoubt.filesystem import DesiredFile
from redoubt.operations.common import Commands, fail, instance_state, note_change
from redoubt.secret_store import Secrets
from redoubt.settings.model import Settings


@operation()
def store_passwords(settings: Settings, host_name: str, before: Secrets, after: Secrets) -> Commands:
    """Store changed passwords on this machine.

    Fails if the stored ones have changed since this command read them.
    """
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
    """Wait on this machine.

    An interruption leaves both passwords of each user valid.
    """
    yield FunctionCommand(time.sleep, (seconds,), {})


@operation()
def check_services_rotated(settings: Settings, acl: DesiredFile) -> Commands:
    """Fail if a service of the project may still use previous passwords.

    It may if it started before the passwords that it reads were changed.
    """
    drift = service_drift.drift(settings, instance_state(settings, acl))
    behind = [service for service in drift.replace if service != settings.redis_name]
    if not behind:
        host.noop("all have the new passwords")
        return
    yield from fail(
        f"{', '.join(behind)} of {settings.redis_name}'s project started before the passwords changed and may still "
        "use a previous one: deploy, which restarts them, then finish the rotation"
    )
