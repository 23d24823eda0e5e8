"""What a smoke run stands on: a virtual machine of its own, or the hosts of an inventory that is named.

The steps are those of an operator: the literal commands, and clients from outside. Only the power switch of a virtual
machine is the sandbox's.
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
from tests.host.host_under_test import Target, until
from tests.host.hosts import Fleet, connect
from tests.host.inventory import LOCAL, PROJECT, BridgeError, is_disposable, read_inventory
from tests.lifecycle.conftest import Deployer, DeployResult, pyinfra

# A virtual machine that is emulated beside other work; a server with much memory to test takes as long.
BOOT_SECONDS = 600
_MACHINE = "lifecycle-smoke"
# The kernel restarts the machine at once, without writing anything (kernel: admin-guide/sysrq.rst).
_RESET = "echo b >/proc/sysrq-trigger"
# What the machine is deployed with. All that the tests need from outside is SSH.
_SETTINGS = {"redis_bind": ["0.0.0.0", "::"], "redis_allow_from": ["192.0.2.2", "2001:db8::2"]}
REBOOTS = "reboots"
MACHINE = "machine"
OWN_BOOT = Path("/proc/sys/kernel/random/boot_id")
LEFT_OUT = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("redoubt").addoption(
        f"--{REBOOTS}",
        action="store_true",
        help="smoke run on hosts of an inventory: include what reboots them and cuts their power",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{REBOOTS}: reboots the hosts, or cuts their power; --{REBOOTS} includes it")
    config.addinivalue_line("markers", f"{MACHINE}: about the virtual machine and its settings; not for other hosts")
    if config.option.hosts:
        raise pytest.UsageError("a smoke run deploys: name its hosts by an inventory (--inventory), not by --hosts")
    if config.option.reboots and not is_disposable(config.option.inventory):
        _refuse_this_machine(config.option.inventory)


def _refuse_this_machine(inventory: str) -> None:
    try:
        entries = read_inventory(inventory)
    except BridgeError as error:
        raise pytest.UsageError(str(error)) from None
    if any(entry.is_local for entry in entries):
        raise pytest.UsageError(
            f"--{REBOOTS} would reboot {LOCAL}, the machine that these tests run on, and end them: "
            f"run them from another machine, or leave --{REBOOTS} out"
        )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was left out, by the acceptance suite too, whose own words are not shown. -q shows no header."""
    for line in _no_reboots(config):
        terminalreporter.write_line(line)
    for line in config.stash.get(LEFT_OUT, []):
        terminalreporter.write_line(f"tests/host: {line}")


def _may_reboot(config: pytest.Config) -> bool:
    return bool(config.option.reboots) or is_disposable(config.option.inventory)


def pytest_report_header(config: pytest.Config) -> list[str]:
    if is_disposable(config.option.inventory):
        return ["smoke run: on a virtual machine that is made for it"]
    return [f"smoke run: on the hosts of {config.option.inventory}", *_no_reboots(config)]


def _no_reboots(config: pytest.Config) -> list[str]:
    return [] if _may_reboot(config) else [f"left out: what reboots the hosts (--{REBOOTS} includes it)"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On hosts of an inventory: nothing that reboots them unasked, nothing of this machine or a disposable one."""
    if is_disposable(config.option.inventory):
        return
    out = [
        item
        for item in items
        if item.path.name == "test_no_engine.py"
        or item.get_closest_marker(MACHINE)
        or (item.get_closest_marker(REBOOTS) and not _may_reboot(config))
    ]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


@dataclass
class Smoke:
    """The hosts of a run and what is done to them. ``machine`` is the disposable one, if it is that."""

    inventory: str
    options: tuple[str, ...]
    machine: Host | None = None
    fleet: Fleet | None = field(default=None, repr=False)
    left_out: list[str] = field(default_factory=list)

    def deploy(self) -> DeployResult:
        """``pyinfra -y <inventory> deploy.py``"""
        done = pyinfra("-y", "--json", self.inventory, "deploy.py", timeout=1800)
        return DeployResult(done.returncode, done.stdout, done.stderr)

    def verify(self) -> int:
        """``pytest tests/host --inventory <inventory>``: how many tests passed. Fails when one did not."""
        command = [sys.executable, "-m", "pytest", "tests/host", "--inventory", self.inventory, *self.options]
        done = subprocess.run(
            command, cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1800, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        # What no other run proves must not be left out of this one, nor of others in silence.
        assert self.machine is None or UNPROVABLE["kernel"][0] not in done.stdout
        said = re.findall(r"^left out on .*", done.stdout, re.MULTILINE)
        self.left_out += [line for line in dict.fromkeys(said) if line not in self.left_out]
        counted = re.search(r"^=+ (\d+) passed", done.stdout, re.MULTILINE)
        assert counted, done.stdout
        return int(counted[1])

    @property
    def targets(self) -> list[Target]:
        """The hosts, once they are deployed."""
        assert self.fleet is not None, "not deployed"
        return list(self.fleet.targets.values())

    def reboot(self) -> None:
        """Reboot all hosts in good order, and wait until they are up again."""
        before = self.boots()
        for target in self.targets:
            # In the background: the connection does not outlive it.
            target.run("(sleep 1; systemctl reboot) >/dev/null 2>&1 &")
        self._hang_up()
        _await_boots(before)

    def cut_power(self) -> float:
        """End all hosts at once, with whatever they had not written, and wait until they are up again.

        Returns when it was (time.monotonic).
        """
        before = self.boots()
        cut = time.monotonic()
        if self.machine is not None:
            self.machine.kill()
        else:
            # Nothing answers any more: ssh finds that out by itself.
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda target: target.run(_RESET), self.targets))
        self._hang_up()
        if self.machine is not None:
            self.machine.start()
        _await_boots(before)
        return cut

    def boots(self) -> list[tuple[Target, str]]:
        """The hosts and their boots. Fails when one runs on the kernel of this machine, which would end with it."""
        before = [(target, _boot_id(target)) for target in self.targets]
        here = [target.entry.name for target, boot in before if boot == OWN_BOOT.read_text().strip()]
        assert not here, (
            f"{', '.join(here)}: its kernel is that of this machine, where these tests run; nothing was done"
        )
        return before

    def _hang_up(self) -> None:
        for target in self.targets:
            target.close()


def _boot_id(target: Target) -> str:
    """Another one after each boot; nothing while the host does not answer."""
    try:
        done = target.run("cat /proc/sys/kernel/random/boot_id")
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _await_boots(before: list[tuple[Target, str]]) -> None:
    assert all(boot for _, boot in before), "a host did not answer before it was rebooted"

    def is_up(target: Target, former: str) -> bool:
        time.sleep(1)
        return _boot_id(target) not in ("", former)

    with ThreadPoolExecutor() as pool:
        waits = [pool.submit(until, partial(is_up, target, former), BOOT_SECONDS) for target, former in before]
        for wait in waits:
            wait.result()


@pytest.fixture(scope="session")
def smoke(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Smoke]:
    """The run: on the hosts of --inventory, or on a virtual machine that is made for it and removed afterwards."""
    config = request.config
    left_out = config.stash[LEFT_OUT] = []
    inventory: str = config.option.inventory
    if not is_disposable(inventory):
        chosen = {name: getattr(config.option, name) for name in ("writes", "disrupts")}
        yield Smoke(inventory, tuple(f"--{name}" for name, wanted in chosen.items() if wanted), left_out=left_out)
    else:
        _remove_machine()  # of a run that was broken off: this one starts from a bare one
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
    """The run after its first deploy, with clients for its hosts. Their secrets are hidden in what is printed."""
    smoke.fleet = request.config.stash[FLEET] = connect(smoke.inventory, [])
    return smoke


@pytest.fixture
def outside(deployed: Smoke) -> Iterator[str]:
    """A network on the machine itself, joined to it by a cable: what comes from there comes from outside.

    The machine has the addresses 192.0.2.1 and 2001:db8::1 there. At the other end are those that end in 2, whom the
    settings name, and in 3, whom they do not. Returns the command by which another one runs at that end.
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
    deployed.machine.run("set -e\n" + "\n".join(commands), check=True)
    yield "ip netns exec outside"
    deployed.machine.run("ip link delete cable; ip netns delete outside", check=True)
