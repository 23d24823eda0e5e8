"""The operations for redisctl on the host: install it, recover with it, run it."""

from collections.abc import Sequence

from pyinfra import host, state
from pyinfra.api import operation

from redoubt import host_files, host_state, recovery_units, redisctl_bundle
from redoubt.facts.instance import CommandResult, Redisctl
from redoubt.filesystem import DesiredFile
from redoubt.operations.common import Commands, command, fail, note_change
from redoubt.operations.files import files
from redoubt.operations.units import unit_differences
from redoubt.settings.model import Settings

# The exit code of a shell that does not find a program.
_NOT_FOUND = 127


@operation()
def install_redisctl(entries: Sequence[DesiredFile]) -> Commands:
    """Write redisctl of this release.

    From then on, inspections use the installed one.
    """
    yield from files._inner(entries=entries)
    if state.is_executing:
        host_state.of(host).redisctl = redisctl_bundle.digest()


@operation()
def enable_recovery(settings: Settings) -> Commands:
    """Have systemd run ``redisctl recover`` to finish interrupted transactions.

    It runs at boot and whenever the process of a transaction dies.
    """
    watcher, at_boot = recovery_units.enabled(settings)
    present = host_state.of(host).units(host, settings)
    reasons = unit_differences(present, [watcher], active=True) + unit_differences(present, [at_boot], active=False)
    if not reasons:
        host.noop("up to date")
        return
    for reason in reasons:
        note_change(reason)
    yield command(
        f"systemctl daemon-reload && systemctl enable --quiet {watcher} {at_boot} && systemctl restart {watcher}"
    )


@operation()
def run_redisctl(settings: Settings, words: Sequence[str]) -> Commands:
    """Run redisctl with these arguments on the host and report what it prints.

    Fails unless it exits with 0.
    """
    if not state.is_executing:
        yield command("true")
        return
    result: CommandResult = host.get_fact(Redisctl, program=host_files.redisctl_path(settings), words=words)
    if result.code == _NOT_FOUND:
        yield from fail(f"{settings.redis_name} is not deployed to this host: deploy it first")
        return
    for output in result.lines:
        note_change(output)
    if result.code != 0:
        yield from fail(f"redisctl exited with {result.code}")
