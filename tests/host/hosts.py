"""The hosts of a test run, connected and answering.

An inventory or specifications select them.
"""

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.host.host_under_test import Target, expectations, listens
from tests.host.inventory import (
    BridgeError,
    Entry,
    NoHostsError,
    is_disposable,
    named,
    read_inventory,
    ssh_config,
    unlisted,
)


@dataclass
class Fleet:
    """The hosts of a run, by testinfra's name.

    ``directory`` holds the sockets and keys; it is removed at the end.
    """

    inventory: str
    directory: Path
    targets: dict[str, Target] = field(default_factory=dict)

    @property
    def ssh_config(self) -> Path:
        """The configuration with which ssh and testinfra reach the hosts."""
        return self.directory / "ssh_config"

    def target_of(self, item: pytest.Item) -> Target | None:
        """Return the host that a test checks; None for a test without a host."""
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            return None
        host: Any = item.callspec.params.get("_testinfra_host")
        return None if host is None else self.targets[host.backend.get_pytest_id()]

    def hang_up(self) -> None:
        """Close all connections and remove the directory."""
        for target in self.targets.values():
            target.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def connect(inventory: str, specs: list[str], user_config: Path | None = None) -> Fleet:
    """Connect to the hosts of an inventory, or to those of ``specs``.

    ``user_config`` is the user's ssh_config. Raises BridgeError unless all hosts answer.
    """
    chosen = _chosen(inventory, specs)
    if shutil.which("ssh") is None and not all(entry.is_local for _, entry in chosen):
        raise BridgeError("this machine has no ssh program: install openssh-client")
    # pytest's own temporary directory is too long: the path of a socket has at most 100 characters.
    fleet = Fleet(inventory, Path(tempfile.mkdtemp(prefix="rd-", dir="/tmp")))
    try:
        _fill(fleet, chosen, user_config)
    except BaseException:
        fleet.hang_up()
        raise
    return fleet


def _fill(fleet: Fleet, chosen: list[tuple[str, Entry]], user_config: Path | None) -> None:
    fleet.ssh_config.write_text(ssh_config([entry for _, entry in chosen], fleet.directory, user_config))
    errors = []
    for spec, entry in chosen:
        disposable = entry.listed and is_disposable(fleet.inventory)
        try:
            expected = expectations(entry)
        except BridgeError as error:
            errors.append(str(error))
            continue
        outside = _outside(entry, disposable)
        fleet.targets[entry.pytest_id] = Target(entry, spec, fleet.ssh_config, disposable, *expected, outside)
    if errors:
        raise BridgeError("\n".join(errors))
    _ensure_reachable(fleet)


def _chosen(inventory: str, specs: list[str]) -> list[tuple[str, Entry]]:
    """Return the specifications of the hosts with their entries.

    --hosts wins over the inventory.
    """
    if not specs:
        return [(entry.spec, entry) for entry in read_inventory(inventory)]
    try:
        entries = read_inventory(inventory)
    except NoHostsError:
        # With --hosts, no disposable host has to run.
        if not is_disposable(inventory):
            raise
        entries = []
    in_inventory, missing = named(specs, entries)
    unknown, _ = named(specs, unlisted(missing, inventory))
    return in_inventory + unknown


def _outside(entry: Entry, disposable: bool) -> str | None:
    """Return the address at which this machine reaches a host without SSH.

    None if it cannot reach the host this way.
    """
    address, port = _address(entry, disposable)
    return address if address and listens(address, port) else None


def _address(entry: Entry, disposable: bool) -> tuple[str | None, int]:
    """Return a host's own address and its SSH port.

    The address is None for this machine. The inventory's data of a disposable host has an SSH port of this machine, so
    its own port is always 22.
    """
    if disposable:
        from sandbox import hosts

        return next((host.address for host in hosts.load() if host.name == entry.name), None), 22
    address = str(entry.data.get("ssh_hostname") or entry.name)
    is_this_machine = entry.is_local or address in ("localhost", "127.0.0.1", "::1")
    return None if is_this_machine else address, int(entry.data.get("ssh_port") or 22)


def _ensure_reachable(fleet: Fleet) -> None:
    """Wait once for all hosts together; testinfra would wait in every test.

    Raises BridgeError if a host cannot be tested.
    """
    targets = list(fleet.targets.values())
    with ThreadPoolExecutor(len(targets)) as pool:
        reasons = list(pool.map(lambda target: target.check_reachable(), targets))
    dead = [f"{target.entry.name}: {reason}" for target, reason in zip(targets, reasons, strict=True) if reason]
    if dead:
        alive = ",".join(target.spec for target, reason in zip(targets, reasons, strict=True) if not reason)
        hints = [f"to test the others: --hosts {alive}"] if alive else []
        hints += ["'make deploy' starts disposable hosts"] if is_disposable(fleet.inventory) else []
        raise BridgeError("\n".join(["not all hosts can be tested:", *dead, *hints]))
