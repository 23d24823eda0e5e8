"""The operation that installs Debian packages."""

from collections.abc import Sequence

from pyinfra import host
from pyinfra.api import StringCommand, operation

from redoubt.facts.host import InstalledPackages
from redoubt.facts.script import script
from redoubt.operations.common import Commands, note_change

# How long to wait for another apt: unattended upgrades of a fresh server take some minutes.
APT_LOCK_SECONDS = 300


@operation()
def install_packages(names: Sequence[str]) -> Commands:
    """Install Debian packages that are missing, from lists fetched just then. Those that are there stay as they are.

    pyinfra's own apt.packages fails where another apt is at work, as on a server that was just made.
    """
    installed: set[str] = host.get_fact(InstalledPackages, names=list(names))
    missing = sorted(set(names) - installed)
    if not missing:
        host.noop("installed")
        return
    note_change(f"missing: {', '.join(missing)}")
    yield StringCommand(script("install-packages.sh", PACKAGES=" ".join(missing), LOCK_SECONDS=str(APT_LOCK_SECONDS)))
