"""Rotation of passwords: options of its verbs, secrets after each step. Pure."""

from collections.abc import Iterable
from dataclasses import replace

from redoubt import acl, secret_store
from redoubt.instance import Instance

# The longest grace period, in seconds: a day. For a longer one, rotate and finish the rotation with two commands.
MAX_GRACE = 86400


def options(instance: Instance, users: object, grace: object) -> tuple[tuple[str, ...], int | None]:
    """Return the users to rotate, and the grace period in seconds, if any.

    All users are the default. Raises ValueError.
    """
    if not instance.facts.instance.data_dir:
        raise ValueError(f"{instance.settings.redis_name} is not deployed to this host: deploy it first")
    known = [user.name for user in acl.users(instance.settings)]
    names = str(users or "").replace(",", " ").split()
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"redis_rotate_users: there is no user {unknown[0]}; the users are {', '.join(known)}")
    if grace is None:
        return tuple(names or known), None
    if isinstance(grace, bool) or not isinstance(grace, int) or not 0 <= grace <= MAX_GRACE:
        raise ValueError(f"redis_rotate_grace = {grace!r} is not a number of seconds up to {MAX_GRACE}")
    if instance.settings.redis_app_services:
        raise ValueError(
            "redis_rotate_grace: services of redis_app_services read their passwords when they start. Rotate, deploy "
            "(which restarts them), then finish the rotation"
        )
    return tuple(names or known), grace


def start(instance: Instance, users: Iterable[str]) -> Instance:
    """Return the instance with a second password for the users."""
    return replace(instance, secrets=secret_store.rotate(instance.secrets, users))


def undo(instance: Instance, users: Iterable[str]) -> Instance:
    """Return the instance with the users' previous passwords as the current ones."""
    return replace(instance, secrets=secret_store.undo_rotation(instance.secrets, users))


def finish(instance: Instance, users: Iterable[str]) -> Instance:
    """Return the instance without the previous passwords of the users."""
    return replace(instance, secrets=secret_store.drop_previous(instance.secrets, users))


def report(instance: Instance, host_name: str) -> list[str]:
    """Return lines for the operator about users who have two passwords.

    The lines also say how to continue.
    """
    name = instance.settings.redis_name
    location = secret_store.location(instance.settings, host_name)
    users = sorted(instance.secrets.previous)
    if not users:
        return [f"{name}: every user has one password, the one in {location}"]
    return [
        f"{name}: two passwords work for {', '.join(users)}. The current ones are in {location} on this machine",
        "  when every client has its current one: day2/finish_rotation.py drops the others",
        "  to exchange them: day2/undo_rotation.py makes the others the current ones",
    ]
