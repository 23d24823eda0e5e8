"""How systemd units differ from the desired state."""

from collections.abc import Iterable

from redisctl.schema import InstanceState, UnitState

_MISSING = UnitState(present=False, active=False, enabled=False, outdated=False)


def unit_differences(present: InstanceState, units: Iterable[str], *, active: bool) -> list[str]:
    """Return how units differ from loaded and enabled units.

    With ``active`` they must run as well.
    """
    reasons = []
    for name in units:
        unit = present.units.get(name, _MISSING)
        reasons += [f"{name} has changed since systemd loaded it"] if unit.outdated else []
        reasons += [] if unit.enabled else [f"{name} does not start at boot"]
        reasons += [f"{name} is not active"] if active and not unit.active else []
    return reasons
