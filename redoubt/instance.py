"""One Redis instance on one host: everything that the tasks need to know of it."""

from dataclasses import dataclass

from redoubt import host_files
from redoubt.certificates import Identity
from redoubt.facts.host import HostFacts
from redoubt.filesystem import DesiredFile
from redoubt.secret_store import Secrets
from redoubt.settings.model import Settings


@dataclass(frozen=True)
class Instance:
    """Valid settings, the instance's secrets, and what the host looked like before the deploy.

    ``version_checked`` says that the version in the image was known, and found fit, before the host had the image.
    Without TLS there is no ``identity``.
    """

    settings: Settings
    secrets: Secrets
    facts: HostFacts
    version_checked: bool
    identity: Identity | None = None

    @property
    def acl(self) -> DesiredFile:
        """Its ACL file."""
        return host_files.acl_file(self.settings, self.secrets)
