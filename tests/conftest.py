"""Which hosts the tests in tests/host look at, and what they may do there.

By default the disposable hosts; --inventory names others, and --hosts names them by testinfra's specifications.
Tests that write to Redis or stop it are left out of any inventory but the disposable one until they are asked for.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.host import bridge
from tests.host.target import Target, expectations

HOST_TESTS = Path(__file__).parent / "host"
LIFECYCLE_TESTS = Path(__file__).parent / "lifecycle"
MARKS = {
    "writes": "writes to Redis or the host, under names of its own, and cleans up",
    "disrupts": "stops, kills or freezes Redis for a moment",
}
# Marks of tests that would prove nothing about some hosts, and which hosts these are.
UNPROVABLE: dict[str, tuple[str, Callable[[Target], bool]]] = {
    "kernel": (
        "the kernel's settings (redis_host_tuning = False: nobody set them)",
        lambda target: not target.settings.redis_host_tuning,
    ),
    "outside": (
        "reachability from outside (this machine has no way there but SSH)",
        lambda target: target.outside is None,
    ),
}


@dataclass
class Fleet:
    """The hosts of this run, by testinfra's name for them."""

    inventory: str
    directory: Path
    targets: dict[str, Target] = field(default_factory=dict)


FLEET = pytest.StashKey[Fleet]()
TEMPORARY = pytest.StashKey[Path]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("redoubt", "hosts under test (tests/host)")
    group.addoption(
        "--inventory",
        default=bridge.DEFAULT_INVENTORY,
        help="pyinfra inventory whose hosts are tested (default: the disposable hosts)",
    )
    for mark, meaning in MARKS.items():
        group.addoption(
            f"--{mark}",
            action=argparse.BooleanOptionalAction,
            default=None,
            help=f"include what {meaning} (default: on disposable hosts only)",
        )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Before pytest chooses a directory for temporary files: those of its own choice stay, with stores of secrets."""
    for mark, meaning in MARKS.items():
        config.addinivalue_line("markers", f"{mark}: {meaning}; --{mark} includes it")
    for mark, (what, _) in UNPROVABLE.items():
        config.addinivalue_line("markers", f"{mark}: {what}: left out there")
    if config.option.basetemp is None:
        config.stash[TEMPORARY] = Path(tempfile.mkdtemp(prefix="redoubt-tests-"))
        config.option.basetemp = str(config.stash[TEMPORARY])


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Before the header is printed, and not for --help or --markers."""
    config = session.config
    if not _looks_at_hosts(config):
        return
    try:
        _bridge(config)
    except bridge.BridgeError as error:
        _hang_up(config)
        raise pytest.UsageError(str(error)) from None


def _looks_at_hosts(config: pytest.Config) -> bool:
    """Whether the chosen paths include host tests: others must run without any host."""
    for argument in config.args:
        path = (config.invocation_params.dir / argument.partition("::")[0]).resolve()
        if path.is_relative_to(HOST_TESTS) or HOST_TESTS.is_relative_to(path):
            return True
    return False


def _bridge(config: pytest.Config) -> None:
    """Find out whom to look at, and make testinfra look there. Raises BridgeError."""
    inventory: str = config.option.inventory
    specs = config.option.hosts.split(",") if config.option.hosts else []
    chosen = _chosen(inventory, specs)
    if shutil.which("ssh") is None and not all(entry.is_local for _, entry in chosen):
        raise bridge.BridgeError("there is no ssh program on this machine: install openssh-client")

    # Not pytest's own temporary directory: a socket's path has room for 100 characters.
    fleet = Fleet(inventory, Path(tempfile.mkdtemp(prefix="rd-", dir="/tmp")))
    config.stash[FLEET] = fleet
    file = fleet.directory / "ssh_config"
    given = Path(config.option.ssh_config).absolute() if config.option.ssh_config else None
    file.write_text(bridge.ssh_config([entry for _, entry in chosen], fleet.directory, given))
    wrong = []
    for spec, entry in chosen:
        disposable = entry.listed and bridge.is_disposable(inventory)
        try:
            settings, secrets = expectations(entry)
        except bridge.BridgeError as error:
            wrong.append(str(error))
            continue
        outside = _outside(entry, disposable)
        fleet.targets[entry.pytest_id] = Target(entry, spec, file, disposable, settings, secrets, outside)
    if wrong:
        raise bridge.BridgeError("\n".join(wrong))
    _refuse_unreachable(fleet)
    config.option.hosts = ",".join(spec for spec, _ in chosen)
    config.option.ssh_config = str(file)


def _chosen(inventory: str, specs: list[str]) -> list[tuple[str, bridge.Entry]]:
    """Specifications with what is known of their hosts; an explicit --hosts wins."""
    if not specs:
        return [(entry.spec, entry) for entry in bridge.read(inventory)]
    try:
        entries = bridge.read(inventory)
    except bridge.NoHostsError:
        # Hosts were named: that no disposable one runs is no mistake.
        if not bridge.is_disposable(inventory):
            raise
        entries = []
    found, missing = bridge.named(specs, entries)
    others, _ = bridge.named(specs, bridge.unlisted(missing, inventory))
    return found + others


def _outside(entry: bridge.Entry, disposable: bool) -> str | None:
    """The address at which others reach a host. SSH to a disposable one goes to a port of this machine."""
    if disposable:
        from sandbox import hosts

        return next((host.address for host in hosts.load() if host.name == entry.name), None)
    address = str(entry.data.get("ssh_hostname") or entry.name)
    return None if entry.is_local or address in ("localhost", "127.0.0.1", "::1") else address


def _refuse_unreachable(fleet: Fleet) -> None:
    """One wait for all dead hosts together; testinfra would wait again in every test."""
    targets = list(fleet.targets.values())
    with ThreadPoolExecutor(len(targets)) as pool:
        reasons = list(pool.map(lambda target: target.check_reachable(), targets))
    dead = [f"{target.entry.name}: {why}" for target, why in zip(targets, reasons, strict=True) if why]
    if dead:
        alive = ",".join(target.spec for target, why in zip(targets, reasons, strict=True) if not why)
        hints = [f"to look at the others: --hosts {alive}"] if alive else []
        hints += ["'make deploy' starts disposable hosts"] if bridge.is_disposable(fleet.inventory) else []
        raise bridge.BridgeError("\n".join(["not all hosts can be tested:", *dead, *hints]))


def pytest_report_header(config: pytest.Config) -> list[str]:
    fleet = config.stash.get(FLEET, None)
    if fleet is None:
        return []
    lines = [f"redoubt: {', '.join(target.entry.name for target in fleet.targets.values())} ({fleet.inventory})"]
    if not bridge.is_disposable(fleet.inventory):
        lines.append(
            "left out: tests/lifecycle, which makes and breaks disposable hosts (without --inventory: included)"
        )
    for what, is_unprovable in UNPROVABLE.values():
        names = [target.entry.name for target in fleet.targets.values() if is_unprovable(target)]
        lines += [f"left out on {', '.join(names)}: {what}"] if names else []
    left_out = {
        mark: [target.entry.name for target in fleet.targets.values() if _left_out(config, target, [mark])]
        for mark in MARKS
    }
    lines += [
        f"left out on {', '.join(names)}: what {MARKS[mark]} (--{mark} includes it)"
        for mark, names in left_out.items()
        if names
    ]
    return lines


def _left_out(config: pytest.Config, target: Target, marks: list[str]) -> list[str]:
    return bridge.marks_left_out(
        marks, disposable=target.disposable, writes=config.option.writes, disrupts=config.option.disrupts
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for; stop Redis only after everything else has been looked at."""
    fleet = config.stash.get(FLEET, None)
    if fleet is None:
        return
    out = [
        item
        for item in items
        if (target := _target_of(item, fleet))
        and (_left_out(config, target, _marks(item)) or _is_unprovable(target, item))
    ]
    if not bridge.is_disposable(fleet.inventory):
        # Whoever looks at hosts of their own did not ask for others to be made on this machine.
        out += [item for item in items if item.path.is_relative_to(LIFECYCLE_TESTS)]
    config.hook.pytest_deselected(items=out)
    kept = [item for item in items if item not in out]
    mine = [item for item in kept if item.path.is_relative_to(HOST_TESTS)]
    mine.sort(key=lambda item: max((list(MARKS).index(mark) + 1 for mark in _marks(item)), default=0))
    in_order = iter(mine)
    items[:] = [next(in_order) if item.path.is_relative_to(HOST_TESTS) else item for item in kept]


def _target_of(item: pytest.Item, fleet: Fleet) -> Target | None:
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return None
    host: Any = item.callspec.params.get("_testinfra_host")
    return None if host is None else fleet.targets[host.backend.get_pytest_id()]


def _is_unprovable(target: Target, item: pytest.Item) -> bool:
    """Whether a test, passed or failed, would say nothing of this host."""
    return any(
        item.get_closest_marker(mark) and is_unprovable(target) for mark, (_, is_unprovable) in UNPROVABLE.items()
    )


def _marks(item: pytest.Item) -> list[str]:
    return [mark for mark in MARKS if item.get_closest_marker(mark)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what was compared: it must not show a secret, wherever that came from."""
    report = yield
    fleet = item.config.stash.get(FLEET, None)
    hidden = [secret for target in fleet.targets.values() for secret in target.hidden()] if fleet else []
    report.sections = [(title, bridge.scrubbed(text, hidden)) for title, text in report.sections]
    text = str(report.longrepr) if report.longrepr else ""
    if bridge.scrubbed(text, hidden) != text:
        report.longrepr = bridge.scrubbed(text, hidden)
    return report


def pytest_unconfigure(config: pytest.Config) -> None:
    _hang_up(config)
    if TEMPORARY in config.stash:
        shutil.rmtree(config.stash[TEMPORARY])


def _hang_up(config: pytest.Config) -> None:
    fleet = config.stash.get(FLEET, None)
    if fleet is not None:
        for target in fleet.targets.values():
            target.close()
        shutil.rmtree(fleet.directory, ignore_errors=True)
        del config.stash[FLEET]
