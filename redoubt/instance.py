"""One Redis instance on one host, with everything that the tasks need."""

from dataclasses import dataclass

from redoubt import host_files
from redoubt.certificates import Identity
from redoubt.facts.host import HostFacts
from redoubt.filesystem import DesiredFile
from redoubt.secret_store import Secrets
from redoubt.settings.model import Settings


@dataclass(frozen=True)
class Instance:
    """Valid settings, the instance's secrets, and the facts of the host.

    The facts are from before the deploy. ``version_checked`` says that the image's name or archive showed its version,
    which is allowed. ``identity`` is None without TLS.
    """

    settings: Settings
    secrets: Secrets
    facts: HostFacts
    version_checked: bool
    identity: Identity | None = None

    @property
    def acl(self) -> DesiredFile:
        """The ACL file."""
        return host_files.acl_file(self.settings, self.secrets)
