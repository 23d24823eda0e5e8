"""Which hosts the tests in tests/host look at, and what they may do there.

By default the disposable hosts; --inventory names others, and --hosts names them by testinfra's specifications.
Tests that write to Redis or stop it are left out of any inventory but the disposable one until they are asked for.
"""

import argparse
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.host import audit, inventory
from tests.host.controls import CONTROLS
from tests.host.host_under_test import Target
from tests.host.hosts import Fleet, connect

HOST_TESTS = Path(__file__).parent / "host"
LIFECYCLE_TESTS = Path(__file__).parent / "lifecycle"
SMOKE_TESTS = Path(__file__).parent / "smoke"
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
    "tls": ("what encryption promises (redis_tls = 'off')", lambda target: target.settings.redis_tls == "off"),
}


FLEET = pytest.StashKey[Fleet]()
TEMPORARY = pytest.StashKey[Path]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("redoubt", "hosts under test (tests/host)")
    group.addoption(
        "--inventory",
        default=inventory.DEFAULT_INVENTORY,
        help="pyinfra inventory whose hosts are tested (default: the disposable hosts)",
    )
    for mark, meaning in MARKS.items():
        group.addoption(
            f"--{mark}",
            action=argparse.BooleanOptionalAction,
            default=None,
            help=f"include what {meaning} (default: on disposable hosts only)",
        )
    group.addoption("--audit-page", metavar="FILE", help="write the security report to a page that a person can read")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Before pytest chooses a directory for temporary files: those of its own choice stay, with stores of secrets."""
    for mark, meaning in MARKS.items():
        config.addinivalue_line("markers", f"{mark}: {meaning}; --{mark} includes it")
    for mark, (what, _) in UNPROVABLE.items():
        config.addinivalue_line("markers", f"{mark}: {what}: left out there")
    controls = ", ".join(CONTROLS)
    config.addinivalue_line("markers", "core: one test for each main promise of a deploy; make test runs them")
    config.addinivalue_line("markers", f"security(control): proves a control of the security report: {controls}")
    # A run that is called off removes its hosts, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if config.option.basetemp is None:
        config.stash[TEMPORARY] = Path(tempfile.mkdtemp(prefix="redoubt-tests-"))
        config.option.basetemp = str(config.stash[TEMPORARY])


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Before the header is printed, and not for --help or --markers."""
    config = session.config
    # Others must run without any host.
    if not any(path.is_relative_to(HOST_TESTS) or HOST_TESTS.is_relative_to(path) for path in _chosen_paths(config)):
        return
    try:
        _bridge(config)
    except inventory.BridgeError as error:
        raise pytest.UsageError(str(error)) from None
    if config.option.audit_page:
        audit.prepare(config)
    config.pluginmanager.register(
        audit.Audit(config, config.stash[FLEET], lambda item: "; ".join(_why_left_out(config, item)))
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A smoke run reboots what it deploys to, and takes its time: only who names it gets it."""
    asked_for = any(path.is_relative_to(SMOKE_TESTS) for path in _chosen_paths(config))
    return True if collection_path == SMOKE_TESTS and not asked_for else None


def _chosen_paths(config: pytest.Config) -> list[Path]:
    """The files and directories that were named, or stand in the configuration."""
    return [(config.invocation_params.dir / argument.partition("::")[0]).resolve() for argument in config.args]


def _bridge(config: pytest.Config) -> None:
    """Find out whom to look at, and make testinfra look there. Raises BridgeError."""
    specs = config.option.hosts.split(",") if config.option.hosts else []
    given = Path(config.option.ssh_config).absolute() if config.option.ssh_config else None
    config.stash[FLEET] = connect(config.option.inventory, specs, given)
    config.option.hosts = ",".join(target.spec for target in config.stash[FLEET].targets.values())
    config.option.ssh_config = str(config.stash[FLEET].ssh_config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    fleet = config.stash.get(FLEET, None)
    if fleet is None:
        return []
    lines = [f"redoubt: {', '.join(target.entry.name for target in fleet.targets.values())} ({fleet.inventory})"]
    if not inventory.is_disposable(fleet.inventory):
        lines.append(
            "left out: tests/lifecycle, which makes and breaks disposable hosts (without --inventory: included)"
        )
    return lines + _said_left_out(config, fleet)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """At the end again: -q shows no header, and a number of tests that were deselected says nothing."""
    fleet = config.stash.get(FLEET, None)
    # A smoke run has a fleet, and leaves it to others to look at it.
    if fleet is not None and config.option.hosts:
        for line in _said_left_out(config, fleet):
            terminalreporter.write_line(line)


def _said_left_out(config: pytest.Config, fleet: Fleet) -> list[str]:
    """What is left out on which hosts, in words."""
    lines = []
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
    return inventory.marks_left_out(
        marks, disposable=target.disposable, writes=config.option.writes, disrupts=config.option.disrupts
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for; stop Redis only after everything else has been looked at."""
    fleet = config.stash.get(FLEET, None)
    if fleet is None:
        return
    out = [item for item in items if _why_left_out(config, item)]
    if not inventory.is_disposable(fleet.inventory):
        # Whoever looks at hosts of their own did not ask for others to be made on this machine.
        out += [item for item in items if item.path.is_relative_to(LIFECYCLE_TESTS)]
    config.hook.pytest_deselected(items=out)
    kept = [item for item in items if item not in out]
    mine = [item for item in kept if item.path.is_relative_to(HOST_TESTS)]
    mine.sort(key=lambda item: max((list(MARKS).index(mark) + 1 for mark in _marks(item)), default=0))
    in_order = iter(mine)
    items[:] = [next(in_order) if item.path.is_relative_to(HOST_TESTS) else item for item in kept]


def _why_left_out(config: pytest.Config, item: pytest.Item) -> list[str]:
    """Why a test is not for its host: it was not asked for, or would say nothing of it, passed or failed."""
    target = config.stash[FLEET].target_of(item)
    if target is None:
        return []
    unprovable = [what for mark, (what, is_so) in UNPROVABLE.items() if item.get_closest_marker(mark) and is_so(target)]
    return unprovable + [f"--{mark} includes it" for mark in _left_out(config, target, _marks(item))]


def _marks(item: pytest.Item) -> list[str]:
    return [mark for mark in MARKS if item.get_closest_marker(mark)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what was compared: it must not show a secret, wherever that came from."""
    report = yield
    fleet = item.config.stash.get(FLEET, None)
    hidden = [secret for target in fleet.targets.values() for secret in target.hidden()] if fleet else []
    report.sections = [(title, inventory.scrubbed(text, hidden)) for title, text in report.sections]
    text = str(report.longrepr) if report.longrepr else ""
    if inventory.scrubbed(text, hidden) != text:
        report.longrepr = inventory.scrubbed(text, hidden)
    return report


def pytest_unconfigure(config: pytest.Config) -> None:
    if FLEET in config.stash:
        config.stash[FLEET].hang_up()
    if TEMPORARY in config.stash:
        shutil.rmtree(config.stash[TEMPORARY], ignore_errors=True)
