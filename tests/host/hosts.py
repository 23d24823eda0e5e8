"""All hosts of a run: from an inventory or from specifications, connected and known to answer."""

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
    """The hosts of a run, by testinfra's name for them. ``directory`` has what connects to them; it goes at the end."""

    inventory: str
    directory: Path
    targets: dict[str, Target] = field(default_factory=dict)

    @property
    def ssh_config(self) -> Path:
        """By which ssh and testinfra reach them."""
        return self.directory / "ssh_config"

    def target_of(self, item: pytest.Item) -> Target | None:
        """The host that a test looks at; None for a test of no host."""
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            return None
        host: Any = item.callspec.params.get("_testinfra_host")
        return None if host is None else self.targets[host.backend.get_pytest_id()]

    def hang_up(self) -> None:
        """End all connections."""
        for target in self.targets.values():
            target.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def connect(inventory: str, specs: list[str], given: Path | None = None) -> Fleet:
    """The hosts of an inventory, or those that are named, if all answer. Raises BridgeError.

    ``given`` is an ssh_config of the user's own.
    """
    chosen = _chosen(inventory, specs)
    if shutil.which("ssh") is None and not all(entry.is_local for _, entry in chosen):
        raise BridgeError("there is no ssh program on this machine: install openssh-client")
    # Not pytest's own temporary directory: a socket's path has room for 100 characters.
    fleet = Fleet(inventory, Path(tempfile.mkdtemp(prefix="rd-", dir="/tmp")))
    try:
        _fill(fleet, chosen, given)
    except BaseException:
        fleet.hang_up()
        raise
    return fleet


def _fill(fleet: Fleet, chosen: list[tuple[str, Entry]], given: Path | None) -> None:
    fleet.ssh_config.write_text(ssh_config([entry for _, entry in chosen], fleet.directory, given))
    wrong = []
    for spec, entry in chosen:
        disposable = entry.listed and is_disposable(fleet.inventory)
        try:
            promised = expectations(entry)
        except BridgeError as error:
            wrong.append(str(error))
            continue
        outside = _outside(entry, disposable)
        fleet.targets[entry.pytest_id] = Target(entry, spec, fleet.ssh_config, disposable, *promised, outside)
    if wrong:
        raise BridgeError("\n".join(wrong))
    _refuse_unreachable(fleet)


def _chosen(inventory: str, specs: list[str]) -> list[tuple[str, Entry]]:
    """Specifications with what is known of their hosts; an explicit --hosts wins."""
    if not specs:
        return [(entry.spec, entry) for entry in read_inventory(inventory)]
    try:
        entries = read_inventory(inventory)
    except NoHostsError:
        # Hosts were named: that no disposable one runs is no mistake.
        if not is_disposable(inventory):
            raise
        entries = []
    found, missing = named(specs, entries)
    others, _ = named(specs, unlisted(missing, inventory))
    return found + others


def _outside(entry: Entry, disposable: bool) -> str | None:
    """The address at which others reach a host. None where this machine does not: then silence proves nothing."""
    address, port = _address(entry, disposable)
    return address if address and listens(address, port) else None


def _address(entry: Entry, disposable: bool) -> tuple[str | None, int]:
    """A host's own address and its port for SSH. SSH to a disposable one goes to a port of this machine."""
    if disposable:
        from sandbox import hosts

        return next((host.address for host in hosts.load() if host.name == entry.name), None), 22
    address = str(entry.data.get("ssh_hostname") or entry.name)
    here = entry.is_local or address in ("localhost", "127.0.0.1", "::1")
    return None if here else address, int(entry.data.get("ssh_port") or 22)


def _refuse_unreachable(fleet: Fleet) -> None:
    """One wait for all dead hosts together; testinfra would wait again in every test."""
    targets = list(fleet.targets.values())
    with ThreadPoolExecutor(len(targets)) as pool:
        reasons = list(pool.map(lambda target: target.check_reachable(), targets))
    dead = [f"{target.entry.name}: {why}" for target, why in zip(targets, reasons, strict=True) if why]
    if dead:
        alive = ",".join(target.spec for target, why in zip(targets, reasons, strict=True) if not why)
        hints = [f"to look at the others: --hosts {alive}"] if alive else []
        hints += ["'make deploy' starts disposable hosts"] if is_disposable(fleet.inventory) else []
        raise BridgeError("\n".join(["not all hosts can be tested:", *dead, *hints]))
