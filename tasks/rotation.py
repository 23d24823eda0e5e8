"""Rotation: users get new passwords while the previous ones keep working.

The previous passwords work until every client has changed. These are day-2 verbs, in day2/. A deploy does not start or
finish a rotation, but completes a step that was interrupted.
"""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.exceptions import PyinfraError

from redoubt import host_files, rotation
from redoubt.instance import Instance
from redoubt.operations.access import apply_users
from redoubt.operations.files import files
from redoubt.operations.rotation import check_services_rotated, store_passwords, wait
from tasks.summary import print_at_end


@deploy("Rotate")
def rotate(instance: Instance) -> None:
    """Give users a second password.

    With a grace period, wait for it and then drop the previous passwords. ``redis_rotate_users`` in the host's data
    names users (default: all), ``redis_rotate_grace`` is in seconds.
    """
    users, grace = _options(instance)
    rotated = rotation.start(instance, users)
    _apply_secrets(instance, rotated)
    if grace is None:
        print_at_end(host.name, rotation.report(rotated, host.name))
        return
    wait(name=f"Wait {grace} s for clients to change", seconds=grace)
    _finish(rotated, users)


@deploy("Undo the rotation")
def undo_rotation(instance: Instance) -> None:
    """Make the previous passwords of users the current ones again.

    The new ones work until the rotation is finished.
    """
    users, _ = _options(instance)
    restored = rotation.undo(instance, users)
    _apply_secrets(instance, restored)
    print_at_end(host.name, rotation.report(restored, host.name))


@deploy("Finish the rotation")
def finish_rotation(instance: Instance) -> None:
    """Drop the previous passwords of users.

    Fails while a service of the project still has one.
    """
    users, _ = _options(instance)
    _finish(instance, users)


def _options(instance: Instance) -> tuple[tuple[str, ...], int | None]:
    try:
        return rotation.options(instance, host.data.get("redis_rotate_users"), host.data.get("redis_rotate_grace"))
    except ValueError as error:
        raise PyinfraError(f"Nothing was changed. {host.name}: {error}") from error


def _apply_secrets(before: Instance, after: Instance) -> None:
    # The store comes first: after an interruption, the next deploy or the same command finishes from it.
    store_passwords(
        name="Store the passwords on this machine",
        settings=before.settings,
        host_name=host.name,
        before=before.secrets,
        after=after.secrets,
    )
    apply_users(name="Set the users of the running Redis", settings=after.settings, acl=after.acl, now=True)
    files(name="Write the ACL file", entries=[after.acl])
    files(name="Write the secrets", entries=host_files.secret_files(after.settings, after.secrets))


def _finish(instance: Instance, users: tuple[str, ...]) -> None:
    check_services_rotated(
        name="Check that no service has a previous password", settings=instance.settings, acl=instance.acl
    )
    finished = rotation.finish(instance, users)
    _apply_secrets(instance, finished)
    print_at_end(host.name, rotation.report(finished, host.name))
