"""From a pyinfra inventory to testinfra hosts.

testinfra knows no pyinfra inventory. pyinfra is asked for it in a process of its own (its command line patches
the process it runs in), and the answer becomes an ssh_config and a list of host specifications.
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
    """Why the inventory cannot be tested, in the operator's words."""


class NoHostsError(BridgeError):
    """An inventory that is right and names no host."""


@dataclass(frozen=True)
class Entry:
    """A host of the inventory with its data. ``listed`` is False for one that only --hosts names."""

    name: str
    data: dict[str, Any] = field(default_factory=dict, repr=False)
    listed: bool = True

    @property
    def alias(self) -> str:
        """The name by which ssh and testinfra know it: no character that either reads as something else."""
        return re.sub(r"[^A-Za-z0-9._-]", "_", self.name) if self.listed else self.name

    @property
    def is_local(self) -> bool:
        """Whether it is this very machine."""
        return self.name == LOCAL

    @property
    def pytest_id(self) -> str:
        """How testinfra names it in test ids."""
        return "local" if self.is_local else f"ssh://{self.alias}"

    @property
    def spec(self) -> str:
        """What testinfra connects by."""
        base = "local://" if self.is_local else f"ssh://{self.alias}"
        return f"{base}?sudo=true" if self.data.get("_sudo") else base


def is_disposable(inventory: str) -> bool:
    """Whether this is the inventory of disposable hosts, which a test may change and stop."""
    path = (PROJECT / inventory).resolve()
    return path in (PROJECT / DEFAULT_INVENTORY, PROJECT / DEFAULT_INVENTORY / "hosts.py")


def read_inventory(inventory: str) -> list[Entry]:
    """The hosts of an inventory. Raises BridgeError when it is misspelt, damaged or empty."""
    return [Entry(host["name"], host["data"]) for host in _debug_inventory(inventory)]


def unlisted(names: Sequence[str], inventory: str) -> list[Entry]:
    """Hosts that the inventory does not name, with the data that its group_data has for all hosts."""
    if not names:
        return []
    path = PROJECT / inventory
    group_data = (path if path.is_dir() else path.parent) / "group_data"
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "unlisted.py")
        file.write_text(f"unlisted = {list(names)!r}\n")
        found = _debug_inventory(str(file), "--group-data", str(group_data))
    return [Entry(host["name"], host["data"], listed=False) for host in found]


def _debug_inventory(inventory: str, *options: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "pyinfra", inventory, *options, "debug-inventory", "--json"]
    done = subprocess.run(
        command, cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        # pyinfra's own words without its progress; for a broken inventory file, all it said.
        match = re.search(r"pyinfra error: (.+)", done.stderr)
        why = match[1].strip() if match else f"pyinfra cannot read the inventory {inventory}:\n{done.stderr}"
        raise NoHostsError(why) if "names no host" in why else BridgeError(why)
    hosts: list[dict[str, Any]] = json.loads(done.stdout)
    if not hosts:
        raise NoHostsError(f"{inventory} names no host")
    return hosts


def name_in(spec: str) -> str:
    """The host that a testinfra specification names. Raises BridgeError for one that is neither SSH nor local."""
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
    """The specifications of --hosts with the inventory's entries that they name, and the names without one.

    A specification keeps its own user and port; what it does not say comes from the inventory.
    """
    known = {LOCAL if entry.is_local else entry.alias: entry for entry in entries}
    found = []
    missing = []
    for spec in specs:
        entry = known.get(name_in(spec))
        if entry is None:
            missing.append(name_in(spec))
        else:
            found.append((complete(spec, entry), entry))
    return found, missing


def complete(spec: str, entry: Entry) -> str:
    """A specification of --hosts with its connection, and with sudo where the inventory says so."""
    full = spec if "://" in spec else f"ssh://{spec}"
    if "sudo=" in full or not entry.data.get("_sudo"):
        return full
    return f"{full}{'&' if '?' in full else '?'}sudo=true"


def ssh_config(entries: Iterable[Entry], sockets: Path, given: Path | None = None) -> str:
    """An ssh_config in which the entries are reached as the deploy reaches them, each over one connection.

    testinfra asks for a shared connection but names no socket for it, and then opens one per command. ``given``
    is the ssh_config of testinfra's own option.
    """
    remote = [entry for entry in entries if not entry.is_local]
    blocks = [_block(entry, sockets / str(number), given) for number, entry in enumerate(remote)]
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


def _block(entry: Entry, socket: Path, given: Path | None) -> str:
    data = entry.data
    if data.get("ssh_password"):
        raise BridgeError(f"{entry.name}: logs in with ssh_password; the tests need a key (ssh_key, or an agent)")
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
    # pyinfra's own default.
    lines.append(f"  StrictHostKeyChecking {data.get('ssh_strict_host_key_checking') or 'accept-new'}")
    if hostname:
        # pyinfra looks the address up in the user's file, and not the name: so does ssh in its final pass.
        lines += ["", f"Match final originalhost {entry.alias}"]
    users_own = given or _path(data.get("ssh_config_file") or "~/.ssh/config")
    lines.append(f"  Include {_quoted(users_own)}")
    return "\n".join(lines) + "\n"


def _path(value: str) -> Path:
    return PROJECT / Path(value).expanduser()


def _quoted(path: Path) -> str:
    return f'"{path}"'


def marks_left_out(marks: Iterable[str], *, disposable: bool, writes: bool | None, disrupts: bool | None) -> list[str]:
    """Which of a test's marks keep it from a host: those it has that were not asked for.

    ``None`` is an option not given: a disposable host may be written to and stopped, any other may not.
    """
    chosen = {"writes": writes, "disrupts": disrupts}
    allowed = {mark for mark, choice in chosen.items() if (disposable if choice is None else choice)}
    return sorted(set(marks) & set(chosen) - allowed)


def scrubbed(text: str, hidden: Iterable[str]) -> str:
    """A text without the words that must not be seen."""
    for word in hidden:
        text = text.replace(word, "[secret]")
    return text
