"""The operation that starts Docker."""

from pyinfra.api import operation

from redoubt.operations.common import Commands, command, note_change


@operation()
def start_docker(*, answers: bool, at_boot: bool) -> Commands:
    """Start Docker, now and at boot. ``answers`` and ``at_boot`` say what it does before the deploy."""
    note_change("Docker does not run" if not answers else "Docker does not start at boot" if not at_boot else "new")
    yield command("systemctl enable --quiet --now docker")
