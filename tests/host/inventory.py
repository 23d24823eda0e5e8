"""Turns a pyinfra inventory into hosts for testinfra.

testinfra cannot read pyinfra inventories. A separate pyinfra process (its command line patches its process) prints the
inventory, which becomes an ssh_config and a list of host specifications.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testinfra.backend import parse_hostspec
from testinfra.backend.base import BaseBackend

PROJECT = Path(__file__).resolve().parents[2]
DEFAULT_INVENTORY = "inventory"
LOCAL = "@local"


class BridgeError(ValueError):
    """The inventory cannot be tested. The message is for the operator."""


class NoHostsError(BridgeError):
    """A valid inventory without hosts."""


@dataclass(frozen=True)
class Entry:
    """A host of the inventory with its data.

    ``listed`` is False for a host that only --hosts names.
    """

    name: str
    data: dict[str, Any] = field(default_factory=dict, repr=False)
    listed: bool = True

    @property
    def alias(self) -> str:
        """The host's name for ssh and testinfra, without their special characters."""
        return re.sub(r"[^A-Za-z0-9._-]", "_", self.name) if self.listed else self.name

    @property
    def is_local(self) -> bool:
        """Whether it is this machine."""
        return self.name == LOCAL

    @property
    def pytest_id(self) -> str:
        """testinfra's name for it in test ids."""
        return "local" if self.is_local else f"ssh://{self.alias}"

    @property
    def spec(self) -> str:
        """testinfra's host specification."""
        base = "local://" if self.is_local else f"ssh://{self.alias}"
        return f"{base}?sudo=true" if self.data.get("_sudo") else base


def is_disposable(inventory: str) -> bool:
    """Return whether this is the inventory of the disposable hosts.

    Tests may change and stop these hosts.
    """
    path = (PROJECT / inventory).resolve()
    return path in (PROJECT / DEFAULT_INVENTORY, PROJECT / DEFAULT_INVENTORY / "hosts.py")


def read_inventory(inventory: str) -> list[Entry]:
    """Return the hosts of an inventory.

    Raises BridgeError if it is missing, invalid or empty.
    """
    return [Entry(host["name"], host["data"]) for host in _debug_inventory(inventory)]


def unlisted(names: Sequence[str], inventory: str) -> list[Entry]:
    """Return hosts outside the inventory, with its group data for all hosts."""
    if not names:
        return []
    path = PROJECT / inventory
    group_data = (path if path.is_dir() else path.parent) / "group_data"
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "unlisted.py")
        file.write_text(f"unlisted = {list(names)!r}\n")
        hosts = _debug_inventory(str(file), "--group-data", str(group_data))
    return [Entry(host["name"], host["data"], listed=False) for host in hosts]


def _debug_inventory(inventory: str, *options: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "pyinfra", inventory, *options, "debug-inventory", "--json"]
    result = subprocess.run(
        command, cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    if result.returncode != 0:
        # pyinfra's error without its progress messages; the whole output for an invalid inventory file.
        match = re.search(r"error: (.+)", result.stderr)
        reason = match[1].strip() if match else f"pyinfra cannot read the inventory {inventory}:\n{result.stderr}"
        raise NoHostsError(reason) if "names no host" in reason else BridgeError(reason)
    hosts: list[dict[str, Any]] = json.loads(result.stdout)
    if not hosts:
        raise NoHostsError(f"{inventory} names no host")
    return hosts


def name_in(spec: str) -> str:
    """Return the host that a testinfra specification names.

    Raises BridgeError unless it is SSH or local.
    """
    host, options = parse_hostspec(spec)
    connection = options.get("connection", "ssh")
    if connection == "local":
        return LOCAL
    if connection != "ssh":
        raise BridgeError(f"--hosts {spec}: only ssh:// and local:// can be tested")
    name: str = BaseBackend.parse_hostspec(host).name
    if not name:
        raise BridgeError(f"--hosts {spec!r} names no host")
    return name


def named(specs: Sequence[str], entries: Iterable[Entry]) -> tuple[list[tuple[str, Entry]], list[str]]:
    """Match the specifications of --hosts with the inventory.

    Returns the specifications with their entries, and the names without an entry. User and port of a specification win
    over the inventory.
    """
    by_name = {LOCAL if entry.is_local else entry.alias: entry for entry in entries}
    matches = []
    missing = []
    for spec in specs:
        entry = by_name.get(name_in(spec))
        if entry is None:
            missing.append(name_in(spec))
        else:
            matches.append((complete(spec, entry), entry))
    return matches, missing


def complete(spec: str, entry: Entry) -> str:
    """Return a specification of --hosts with its connection.

    It has sudo if the inventory says so.
    """
    full = spec if "://" in spec else f"ssh://{spec}"
    if "sudo=" in full or not entry.data.get("_sudo"):
        return full
    return f"{full}{'&' if '?' in full else '?'}sudo=true"


def ssh_config(entries: Iterable[Entry], sockets: Path, user_config: Path | None = None) -> str:
    """Return an ssh_config that reaches the hosts as a deploy does.

    Each host has one shared connection. testinfra asks for a shared connection without a socket, which would open a
    connection for each command. ``user_config`` is the value of testinfra's option --ssh-config.
    """
    remote = [entry for entry in entries if not entry.is_local]
    blocks = [_block(entry, sockets / str(number), user_config) for number, entry in enumerate(remote)]
    common = """\
Host *
  BatchMode yes
  ConnectTimeout 10
  ControlMaster auto
  ControlPersist 60
  ServerAliveInterval 5
  LogLevel ERROR
"""
    return "\n".join([*blocks, common])


def _block(entry: Entry, socket: Path, user_config: Path | None) -> str:
    data = entry.data
    if data.get("ssh_password"):
        raise BridgeError(f"{entry.name}: the inventory has ssh_password; the tests need a key (ssh_key, or an agent)")
    hostname = data.get("ssh_hostname") or (entry.name if entry.name != entry.alias else None)
    lines = [f"Host {entry.alias}", f"  ControlPath {_quoted(socket)}"]
    if hostname:
        lines.append(f"  HostName {hostname}")
    if data.get("ssh_port"):
        lines.append(f"  Port {data['ssh_port']}")
    if data.get("ssh_user"):
        lines.append(f"  User {data['ssh_user']}")
    if data.get("ssh_key"):
        lines += [f"  IdentityFile {_quoted(_path(data['ssh_key']))}", "  IdentitiesOnly yes"]
    if data.get("ssh_allow_agent") is False:
        lines.append("  IdentityAgent none")
    if data.get("ssh_known_hosts_file"):
        lines.append(f"  UserKnownHostsFile {_quoted(_path(data['ssh_known_hosts_file']))}")
    # pyinfra's default.
    lines.append(f"  StrictHostKeyChecking {data.get('ssh_strict_host_key_checking') or 'accept-new'}")
    if hostname:
        # pyinfra looks up the address in the user's file, and not the name. In its final pass ssh does so, too.
        lines += ["", f"Match final originalhost {entry.alias}"]
    included = user_config or _path(data.get("ssh_config_file") or "~/.ssh/config")
    lines.append(f"  Include {_quoted(included)}")
    return "\n".join(lines) + "\n"


def _path(value: str) -> Path:
    return PROJECT / Path(value).expanduser()


def _quoted(path: Path) -> str:
    return f'"{path}"'


def marks_left_out(marks: Iterable[str], *, disposable: bool, writes: bool | None, disrupts: bool | None) -> list[str]:
    """Return the marks because of which a test is left out on a host.

    ``None`` means that the option was not given: then only disposable hosts may be written to and stopped.
    """
    options = {"writes": writes, "disrupts": disrupts}
    allowed = {mark for mark, option in options.items() if (disposable if option is None else option)}
    return sorted(set(marks) & set(options) - allowed)


def scrubbed(text: str, secrets: Iterable[str]) -> str:
    """Return a text in which secrets are replaced."""
    for secret in secrets:
        text = text.replace(secret, "[secret]")
    return text
