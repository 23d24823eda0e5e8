"""The operation that installs Debian packages."""

from collections.abc import Sequence

from pyinfra import host
from pyinfra.api import StringCommand, operation

from redoubt.facts.host import InstalledPackages
from redoubt.facts.script import script
from redoubt.operations.common import Commands, note_change

# Seconds to wait for another apt: the unattended upgrade of a new server takes some minutes.
APT_LOCK_SECONDS = 300


@operation()
def install_packages(names: Sequence[str]) -> Commands:
    """Install missing Debian packages from current lists.

    Installed packages stay as they are. pyinfra's own apt.packages fails if another apt runs, as on a new server.
    """
    installed: set[str] = host.get_fact(InstalledPackages, names=list(names))
    missing = sorted(set(names) - installed)
    if not missing:
        host.noop("installed")
        return
    note_change(f"missing: {', '.join(missing)}")
    yield StringCommand(script("install-packages.sh", PACKAGES=" ".join(missing), LOCK_SECONDS=str(APT_LOCK_SECONDS)))
