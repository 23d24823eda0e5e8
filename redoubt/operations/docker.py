"""The operation that starts Docker."""

from pyinfra import host
from pyinfra.api import operation

from redoubt.operations.common import Commands, command, note_change


@operation()
def start_docker(*, answers: bool, at_boot: bool) -> Commands:
    """Start Docker, now and at boot.

    ``answers`` and ``at_boot`` say what it does before the deploy.
    """
    if answers and at_boot:
        host.noop("runs, and starts at boot")
        return
    note_change("Docker does not run" if not answers else "Docker does not start at boot")
    yield command("systemctl enable --quiet --now docker")
