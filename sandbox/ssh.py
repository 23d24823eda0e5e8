"""SSH to the hosts: a key pair, known host keys and an ssh_config.

The host keys are known before the first connection.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sandbox import tools
from sandbox.util import RUNTIME, STATE, runtime_dir, write_whole

KEY = STATE / "ssh" / "id_ed25519"
CONFIG = STATE / "ssh_config"


@dataclass(frozen=True)
class KeyPair:
    """An ed25519 key pair in OpenSSH's formats."""

    private: str
    public: str


@dataclass(frozen=True)
class Entry:
    """A host in ssh_config."""

    name: str
    port: int
    known_hosts: Path


def generate() -> KeyPair:
    """Generate a key pair."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return KeyPair(private.decode(), public.decode())


def public_key() -> str:
    """Return the public key that hosts accept. The first call generates the pair."""
    public = KEY.with_suffix(".pub")
    if not public.exists():
        pair = generate()
        KEY.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        KEY.touch(mode=0o600)
        KEY.write_text(pair.private)
        public.write_text(f"{pair.public} redoubt sandbox\n")
    return public.read_text()


def known_hosts_line(port: int, host_key: str) -> str:
    """Return the line of known_hosts for a host on a loopback port."""
    return f"[127.0.0.1]:{port} {host_key}\n"


def render_config(entries: Iterable[Entry], *, key: Path, sockets: Path) -> str:
    """Return an ssh_config with all hosts by name."""
    blocks = [
        f"""\
Host {entry.name}
  HostName 127.0.0.1
  Port {entry.port}
  User root
  UserKnownHostsFile "{entry.known_hosts}"
"""
        for entry in entries
    ]
    common = f"""\
Host *
  IdentityFile "{key}"
  IdentitiesOnly yes
  StrictHostKeyChecking yes
  ConnectTimeout 10
  ServerAliveInterval 5
  # Commands share a connection. testinfra sets ControlMaster, but no path.
  ControlMaster auto
  ControlPath {sockets}/%n@%r
  ControlPersist 60
  LogLevel ERROR
"""
    return "\n".join(["# Written by `python -m sandbox`, which overwrites changes.", *blocks, common])


def write_config(entries: Iterable[Entry]) -> None:
    """Write `.sandbox/ssh_config`, for `ssh -F .sandbox/ssh_config NAME`."""
    text = render_config(entries, key=KEY, sockets=runtime_dir())
    write_whole(CONFIG, text)


def command(name: str, *arguments: str, user: str = "root") -> list[str]:
    """Return the ssh command line for a host.

    `arguments` are options, then the remote command.
    """
    return ["ssh", "-F", str(CONFIG), "-l", user, name, *arguments]


def environment() -> dict[str, str]:
    """Return an environment with ssh, which is unpacked if this machine lacks it."""
    return dict(os.environ) if shutil.which("ssh") else tools.provide({"ssh": "openssh-client"})


def hang_up(name: str) -> None:
    """Close the shared connections to a host.

    They stay open after the commands that opened them.
    """
    for socket in RUNTIME.glob(f"{name}@*"):
        subprocess.run(
            ["ssh", "-F", os.devnull, "-o", f"ControlPath={socket}", "-O", "exit", name],
            env=environment(),
            capture_output=True,
            check=False,
        )
        socket.unlink(missing_ok=True)
