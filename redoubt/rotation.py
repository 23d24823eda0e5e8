"""Rotation of passwords: which users, for how long, and what an instance's secrets become. Pure."""

from collections.abc import Iterable
from dataclasses import replace

from redoubt import acl, secret_store
from redoubt.instance import Instance

# The longest that a command waits for clients to move, in seconds: a day. Longer ones are two commands.
MAX_GRACE = 86400


def options(instance: Instance, users: object, grace: object) -> tuple[tuple[str, ...], int | None]:
    """The users to rotate (all, when none are named) and the seconds of grace, if any. Raises ValueError in words."""
    if not instance.facts.instance.data_dir:
        raise ValueError(f"there is no {instance.settings.redis_name} on this host yet: deploy it first")
    known = [user.name for user in acl.users(instance.settings)]
    named = [name for name in str(users or "").replace(",", " ").split() if name]
    if unknown := [name for name in named if name not in known]:
        raise ValueError(f"redis_rotate_users: there is no user {unknown[0]}; there are {', '.join(known)}")
    if grace is None:
        return tuple(named or known), None
    if isinstance(grace, bool) or not isinstance(grace, int) or not 0 <= grace <= MAX_GRACE:
        raise ValueError(f"redis_rotate_grace = {grace!r} is not a number of seconds up to {MAX_GRACE}")
    if instance.settings.redis_app_services:
        raise ValueError(
            "redis_rotate_grace: services of redis_app_services read their passwords when they start. Rotate, deploy "
            "(which starts them anew), and retire"
        )
    return tuple(named or known), grace


def start(instance: Instance, users: Iterable[str]) -> Instance:
    """With a second password for the users."""
    return replace(instance, secrets=secret_store.rotate(instance.secrets, users))


def undo(instance: Instance, users: Iterable[str]) -> Instance:
    """With the former passwords of the users as the present ones."""
    return replace(instance, secrets=secret_store.undo_rotation(instance.secrets, users))


def finish(instance: Instance, users: Iterable[str]) -> Instance:
    """Without the former passwords of the users."""
    return replace(instance, secrets=secret_store.drop_previous(instance.secrets, users))


def report(instance: Instance, host_name: str) -> list[str]:
    """What an operator should know afterwards."""
    name = instance.settings.redis_name
    place = secret_store.location(instance.settings, host_name)
    two = sorted(instance.secrets.previous)
    if not two:
        return [f"{name}: every user has one password, the one in {place}"]
    return [
        f"{name}: two passwords let in {', '.join(two)}. The new ones are in {place} on this machine",
        (
            "  when every client has moved: day2/finish_rotation.py ends the former. day2/undo_rotation.py makes them "
            "present again"
        ),
    ]
