"""Fixtures of the smoke run: a virtual machine, or the hosts of an inventory.

The virtual machine is disposable. The steps are an operator's commands, and clients from outside. The sandbox only
switches the power of a virtual machine.
"""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from sandbox import hosts
from sandbox.hosts import Host
from tests.conftest import FLEET, UNPROVABLE
from tests.deployer import Deployer, DeployResult, pyinfra
from tests.host.host_under_test import Target, until
from tests.host.hosts import Fleet, connect
from tests.host.inventory import LOCAL, PROJECT, BridgeError, is_disposable, read_inventory

# For a virtual machine that is emulated on a busy machine, or a server that tests much memory when it boots.
BOOT_SECONDS = 600
_MACHINE = "lifecycle-smoke"
# The kernel restarts the machine at once and writes nothing (kernel: admin-guide/sysrq.rst).
_RESET = "echo b >/proc/sysrq-trigger"
# The machine's settings. The tests reach it from outside only through SSH.
_SETTINGS = {"redis_bind": ["0.0.0.0", "::"], "redis_allow_from": ["192.0.2.2", "2001:db8::2"]}
REBOOTS = "reboots"
MACHINE = "machine"
OWN_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
LEFT_OUT = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("redoubt").addoption(
        f"--{REBOOTS}",
        action="store_true",
        help="smoke run on hosts of an inventory: reboot them and cut their power",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{REBOOTS}: reboots the hosts or cuts their power; --{REBOOTS} includes it")
    config.addinivalue_line("markers", f"{MACHINE}: only for the virtual machine and its settings")
    if config.option.hosts:
        raise pytest.UsageError("a smoke run deploys: choose its hosts with --inventory instead of --hosts")
    if config.option.reboots and not is_disposable(config.option.inventory):
        _refuse_this_machine(config.option.inventory)


def _refuse_this_machine(inventory: str) -> None:
    try:
        entries = read_inventory(inventory)
    except BridgeError as error:
        raise pytest.UsageError(str(error)) from None
    if any(entry.is_local for entry in entries):
        raise pytest.UsageError(
            f"--{REBOOTS} would reboot {LOCAL}, the machine that runs these tests: "
            f"run them on another machine, or leave --{REBOOTS} out"
        )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Repeat at the end what was left out.

    This includes what the host suite left out, whose output is not shown.
    """
    for line in _no_reboots(config):
        terminalreporter.write_line(line)
    for line in config.stash.get(LEFT_OUT, []):
        terminalreporter.write_line(f"tests/host: {line}")


def _may_reboot(config: pytest.Config) -> bool:
    return bool(config.option.reboots) or is_disposable(config.option.inventory)


def pytest_report_header(config: pytest.Config) -> list[str]:
    if is_disposable(config.option.inventory):
        return ["smoke run: on a disposable virtual machine"]
    return [f"smoke run: on the hosts of {config.option.inventory}", *_no_reboots(config)]


def _no_reboots(config: pytest.Config) -> list[str]:
    return [] if _may_reboot(config) else [f"left out: tests that reboot the hosts (--{REBOOTS} includes them)"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that are not for the hosts of an inventory.

    These are the tests for the virtual machine, and reboots without --reboots.
    """
    if is_disposable(config.option.inventory):
        return
    left_out = [
        item
        for item in items
        if item.path.name == "test_no_engine.py"
        or item.get_closest_marker(MACHINE)
        or (item.get_closest_marker(REBOOTS) and not _may_reboot(config))
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@dataclass
class Smoke:
    """The hosts of a run. ``machine`` is the virtual machine, if there is one."""

    inventory: str
    options: tuple[str, ...]
    machine: Host | None = None
    fleet: Fleet | None = field(default=None, repr=False)
    left_out: list[str] = field(default_factory=list)

    def deploy(self) -> DeployResult:
        """Run ``pyinfra -y <inventory> deploy.py``."""
        done = pyinfra("-y", "--json", self.inventory, "deploy.py", timeout=1800)
        return DeployResult(done.returncode, done.stdout, done.stderr)

    def verify(self, *selection: str) -> int:
        """Run the host suite on the hosts and return how many tests passed.

        The command is ``pytest tests/host --inventory <inventory>``. Fails if a test failed.
        """
        command = [sys.executable, "-m", "pytest", "tests/host", "--inventory", self.inventory]
        command += [*self.options, *selection]
        result = subprocess.run(
            command, cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1800, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        # Only this run tests the kernel's settings, so it must not leave them out.
        assert self.machine is None or UNPROVABLE["kernel"][0] not in result.stdout
        lines = re.findall(r"^left out on .*", result.stdout, re.MULTILINE)
        self.left_out += [line for line in dict.fromkeys(lines) if line not in self.left_out]
        passed = re.search(r"^=+ (\d+) passed", result.stdout, re.MULTILINE)
        assert passed, result.stdout
        return int(passed[1])

    @property
    def targets(self) -> list[Target]:
        """The hosts after the first deploy."""
        assert self.fleet is not None, "the first deploy has not finished"
        return list(self.fleet.targets.values())

    def reboot(self) -> None:
        """Reboot all hosts cleanly and wait until they are up again."""
        before = self.boots()
        for target in self.targets:
            # In the background, because the reboot closes the connection.
            target.run("(sleep 1; systemctl reboot) >/dev/null 2>&1 &")
        self._hang_up()
        _await_boots(before)

    def cut_power(self) -> float:
        """Cut the power of all hosts and wait until they are up again.

        Return the time of the cut (time.monotonic).
        """
        before = self.boots()
        cut = time.monotonic()
        if self.machine is not None:
            self.machine.kill()
        else:
            # No host answers afterwards; ssh notices that by itself.
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda target: target.run(_RESET), self.targets))
        self._hang_up()
        if self.machine is not None:
            self.machine.start()
        _await_boots(before)
        return cut

    def boots(self) -> list[tuple[Target, str]]:
        """Return the hosts with their boot ids.

        Fails if one shares the kernel of this machine.
        """
        boots = [(target, _boot_id(target)) for target in self.targets]
        shared = [target.entry.name for target, boot in boots if boot == OWN_BOOT_ID.read_text().strip()]
        assert not shared, (
            f"{', '.join(shared)}: its kernel is that of this machine, which runs the tests. Nothing was done"
        )
        return boots

    def _hang_up(self) -> None:
        for target in self.targets:
            target.close()


def _boot_id(target: Target) -> str:
    """Return the boot id, which differs after each boot.

    Empty while the host does not answer.
    """
    try:
        result = target.run("cat /proc/sys/kernel/random/boot_id")
    except subprocess.TimeoutExpired:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def _await_boots(before: list[tuple[Target, str]]) -> None:
    assert all(boot for _, boot in before), "a host did not answer before the reboot"

    def is_up(target: Target, previous: str) -> bool:
        time.sleep(1)
        return _boot_id(target) not in ("", previous)

    with ThreadPoolExecutor() as pool:
        waits = [pool.submit(until, partial(is_up, target, previous), BOOT_SECONDS) for target, previous in before]
        for wait in waits:
            wait.result()


@pytest.fixture(scope="session")
def smoke(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Smoke]:
    """Return the hosts of --inventory, or a virtual machine.

    The virtual machine is removed afterwards.
    """
    config = request.config
    left_out = config.stash[LEFT_OUT] = []
    inventory: str = config.option.inventory
    if not is_disposable(inventory):
        options = tuple(f"--{name}" for name in ("writes", "disrupts") if getattr(config.option, name))
        yield Smoke(inventory, options, left_out=left_out)
    else:
        # An interrupted run may have left one, but this run needs a bare one.
        _remove_machine()
        try:
            machine = hosts.up(_MACHINE, kind="vm")
            path = Deployer(tmp_path_factory.mktemp("smoke")).inventory(machine, **_SETTINGS)
            yield Smoke(str(path), ("--writes", "--disrupts"), machine, left_out=left_out)
        finally:
            _remove_machine()


def _remove_machine() -> None:
    for host in hosts.load():
        if host.name == _MACHINE:
            host.down()


@pytest.fixture(scope="session")
def deployed(smoke: Smoke, request: pytest.FixtureRequest) -> Smoke:
    """Return the hosts after the first deploy, with clients.

    Failures do not show their secrets.
    """
    smoke.fleet = request.config.stash[FLEET] = connect(smoke.inventory, [])
    return smoke


@pytest.fixture
def outside(deployed: Smoke) -> Iterator[str]:
    """Create a network namespace on the machine whose connections come from outside.

    The machine has the addresses 192.0.2.1 and 2001:db8::1 in this network. At the other end, the settings allow the
    addresses that end in 2 and do not allow those that end in 3. Returns the command that runs another one at that end.
    """
    assert deployed.machine is not None
    commands = [
        "ip netns add outside",
        "ip link add cable type veth peer name end netns outside",
        *(f"ip address add {address} dev cable" for address in ("192.0.2.1/24", "2001:db8::1/64 nodad")),
        "ip link set cable up",
        "ip netns exec outside sh -ec '",
        *(f"ip address add 192.0.2.{number}/24 dev end" for number in (2, 3)),
        *(f"ip address add 2001:db8::{number}/64 dev end nodad" for number in (2, 3)),
        "ip link set end up'",
    ]
    try:
        deployed.machine.run("set -e\n" + "\n".join(commands), check=True)
        yield "ip netns exec outside"
    finally:
        deployed.machine.run("ip link delete cable; ip netns delete outside", check=True)
