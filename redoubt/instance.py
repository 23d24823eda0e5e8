"""One Redis instance on one host: everything that the tasks need to know of it."""

from dataclasses import dataclass

from redoubt import render
from redoubt.preflight import HostFacts
from redoubt.secretstore import Secrets
from redoubt.settings import Settings
from redoubt.tls import Identity
from redoubt.tree import File


@dataclass(frozen=True)
class Instance:
    """Valid settings, the instance's secrets, and what the host looked like before the deploy.

    ``judged`` says that the version in the image was known, and found fit, before the host had the image. Without TLS
    there is no ``identity``.
    """

    settings: Settings
    secrets: Secrets
    facts: HostFacts
    judged: bool
    identity: Identity | None = None

    @property
    def acl(self) -> File:
        """Its ACL file."""
        return render.acl_file(self.settings, self.secrets)
