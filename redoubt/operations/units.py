"""How systemd units differ from the desired state, and the operation for timers."""

from collections.abc import Iterable, Mapping

from pyinfra import host
from pyinfra.api import operation

from redisctl.schema import UnitState
from redoubt import host_state
from redoubt.operations.common import Commands, command, note_change
from redoubt.settings.model import Settings

_MISSING = UnitState(present=False, active=False, enabled=False, outdated=False)


def unit_differences(present: Mapping[str, UnitState], units: Iterable[str], *, active: bool) -> list[str]:
    """Return how units differ from loaded and enabled units.

    With ``active`` they must run as well.
    """
    reasons = []
    for name in units:
        unit = present.get(name, _MISSING)
        reasons += [f"{name} has changed since systemd loaded it"] if unit.outdated else []
        reasons += [] if unit.enabled else [f"{name} does not start at boot"]
        reasons += [f"{name} is not active"] if active and not unit.active else []
    return reasons


@operation()
def enable_timer(settings: Settings, timer: str, service: str) -> Commands:
    """Have systemd run a service by its timer, now and after every boot."""
    present = host_state.of(host).units(host, settings)
    reasons = unit_differences(present, [timer], active=True)
    if (unit := present.get(service)) and unit.outdated:
        reasons.append(f"{service} has changed since systemd loaded it")
    if not reasons:
        host.noop("up to date")
        return
    for reason in reasons:
        note_change(reason)
    yield command(f"systemctl daemon-reload && systemctl enable --quiet {timer} && systemctl restart {timer}")
