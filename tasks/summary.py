"""Summary: how applications reach Redis and where the passwords are.

It is printed at the end of a deploy.
"""

from pyinfra import host, logger, state
from pyinfra.api import BaseStateCallback, Host, State
from pyinfra.api.state import StateStage

from redoubt import acl, rotation, secret_store
from redoubt.instance import Instance


def summary(instance: Instance) -> None:
    """Print the instance's URLs, without passwords.

    They are printed only if the deploy of the host succeeds.
    """
    settings = instance.settings
    lines = [
        f"{settings.redis_name} is up. For applications:",
        *(
            f"  {user.name:9} {acl.url(settings, user)}  keys: {' '.join(user.keys + user.read)}"
            for user in acl.users(settings)
            if user.name not in acl.OPERATING
        ),
        *([f"  on the host itself also {settings.unix_socket}"] if settings.redis_unix_socket else []),
        f"  PASSWORD is in {secret_store.location(settings, host.name)} on this machine",
    ]
    if instance.identity:
        expiry = f"{instance.identity.expires:%Y-%m-%d}"
        lines.append(f"  the CA is {settings.ca_file} on the host; the certificate expires on {expiry}")
    if instance.secrets.previous:
        lines += rotation.report(instance, host.name)
    print_at_end(host.name, lines)


def print_at_end(name: str, lines: list[str]) -> None:
    """Print lines about a host when the command ends without an error there."""
    state.add_callback_handler(_EndMessage(name, lines))


class _EndMessage(BaseStateCallback):
    def __init__(self, name: str, lines: list[str]) -> None:
        self.name = name
        self.lines = lines

    # pyinfra calls a handler's methods by name, on an object as well as on a class.
    def host_disconnect(self, state: State, host: Host) -> None:  # type: ignore[override]
        finished = state.current_stage == StateStage.Disconnect
        if host.name == self.name and finished and host not in state.failed_hosts:
            for line in self.lines:
                logger.info(f"{host.print_prefix}{line}")
