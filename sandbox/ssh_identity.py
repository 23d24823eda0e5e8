"""The identity of a host: its keys and its machine-id."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from sandbox.ssh import KeyPair

# The uid of the image's first user.
_OPERATOR = 1000


@dataclass(frozen=True)
class File:
    """A file of a host. Its group is root."""

    path: str
    text: str = field(repr=False)
    mode: int
    uid: int = 0


def files(host_key: KeyPair, authorized_key: str) -> list[File]:
    """Return the files that differ between hosts, with a new machine-id at each call."""
    return [
        File("/etc/ssh/ssh_host_ed25519_key", host_key.private, 0o600),
        File("/etc/ssh/ssh_host_ed25519_key.pub", f"{host_key.public}\n", 0o644),
        File("/etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444),
        File("/root/.ssh/authorized_keys", authorized_key, 0o600),
        File("/home/operator/.ssh/authorized_keys", authorized_key, 0o600, _OPERATOR),
    ]
