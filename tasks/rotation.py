"""Rotation: new passwords beside the ones that work, until every client has moved; then the former are retired.

Day-2 verbs, in day2/: nothing here is part of a deploy, and a deploy carries on what one of them has begun.
"""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.exceptions import PyinfraError

from redoubt import host_files, rotation
from redoubt.instance import Instance
from redoubt.operations.files import files
from redoubt.operations.users import apply_users, check_services_rotated, store_passwords, wait
from tasks.summary import at_the_end


@deploy("Rotate")
def rotate(instance: Instance) -> None:
    """Give users a second password, and keep both; with a grace, wait for so long and retire the former.

    ``redis_rotate_users`` in the host's data names users (default: all), ``redis_rotate_grace`` is in seconds.
    """
    chosen, grace = _options(instance)
    both = rotation.start(instance, chosen)
    _change(instance, both)
    if grace is None:
        at_the_end(host.name, rotation.report(both, host.name))
        return
    wait(name=f"Wait {grace} s for clients to move", seconds=grace)
    _finish(both, chosen)


@deploy("Rotate back")
def undo_rotation(instance: Instance) -> None:
    """Make the former passwords of users the present ones again; the others stay valid until they are retired."""
    chosen, _ = _options(instance)
    back = rotation.undo(instance, chosen)
    _change(instance, back)
    at_the_end(host.name, rotation.report(back, host.name))


@deploy("Retire")
def finish_rotation(instance: Instance) -> None:
    """End the former passwords of users. Refused while a service of the project still runs with one."""
    chosen, _ = _options(instance)
    _finish(instance, chosen)


def _options(instance: Instance) -> tuple[tuple[str, ...], int | None]:
    try:
        return rotation.options(instance, host.data.get("redis_rotate_users"), host.data.get("redis_rotate_grace"))
    except ValueError as error:
        raise PyinfraError(f"nothing was changed; {host.name}: {error}") from error


def _change(before: Instance, after: Instance) -> None:
    """The store first: whatever ends this early, the next deploy or the same command carries on from it."""
    store_passwords(
        name="Keep the passwords on this machine",
        settings=before.settings,
        host_name=host.name,
        before=before.secrets,
        after=after.secrets,
    )
    apply_users(name="Give the running Redis its users", settings=after.settings, acl=after.acl, now=True)
    files(name="Write the ACL file", entries=[after.acl])
    files(name="Write the secrets", entries=host_files.secret_files(after.settings, after.secrets))


def _finish(instance: Instance, chosen: tuple[str, ...]) -> None:
    check_services_rotated(
        name="Look whether a service still has a former password", settings=instance.settings, acl=instance.acl
    )
    after = rotation.finish(instance, chosen)
    _change(instance, after)
    at_the_end(host.name, rotation.report(after, host.name))
