"""Options of the tests: which hosts tests/host checks, and what it may do there.

The default is the disposable hosts. --inventory chooses other hosts, and --hosts does by testinfra's specifications.
Elsewhere, tests that write to Redis or stop it run only with --writes and --disrupts.
"""

import argparse
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from redoubt.redis_conf import client_eviction_is_safe
from tests.host import audit, inventory
from tests.host.controls import CONTROLS
from tests.host.host_under_test import Target
from tests.host.hosts import Fleet, connect

pytest_plugins = ["tests.deployer"]

HOST_TESTS = Path(__file__).parent / "host"
LIFECYCLE_TESTS = Path(__file__).parent / "lifecycle"
APP_TESTS = Path(__file__).parent / "apps"
SMOKE_TESTS = Path(__file__).parent / "smoke"
MARKS = {
    "writes": "writes to Redis or the host, under its own names, and cleans up",
    "disrupts": "stops, kills or freezes Redis for a moment",
}
# Marks of tests that would prove nothing about some hosts: a text, and whether a host is one of them.
UNPROVABLE: dict[str, tuple[str, Callable[[Target], bool]]] = {
    "kernel": (
        "the kernel and AppArmor (redis_host_tuning = False: the deploy leaves the kernel alone)",
        lambda target: not target.settings.redis_host_tuning,
    ),
    "outside": (
        "access from outside (this machine reaches the host only through SSH)",
        lambda target: target.outside is None,
    ),
    "client_eviction": (
        "the memory of all clients together (this release would not be safe with maxmemory-clients)",
        lambda target: not client_eviction_is_safe(target.settings),
    ),
    "tls": ("encryption (redis_tls = 'off')", lambda target: target.settings.redis_tls == "off"),
    "issued": (
        "certificates of Redoubt's CA (redis_tls_source = 'files')",
        lambda target: target.settings.redis_tls_source == "files",
    ),
}


FLEET = pytest.StashKey[Fleet]()
TEMPORARY = pytest.StashKey[Path]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("redoubt", "hosts under test (tests/host)")
    group.addoption(
        "--inventory",
        default=inventory.DEFAULT_INVENTORY,
        help="pyinfra inventory of the hosts to test (default: the disposable hosts)",
    )
    for mark, description in MARKS.items():
        group.addoption(
            f"--{mark}",
            action=argparse.BooleanOptionalAction,
            default=None,
            help=f"include each test that {description} (default: on disposable hosts only)",
        )
    group.addoption("--audit-page", metavar="FILE", help="write the security report as an HTML page")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register marks, and choose a temporary directory that is removed.

    pytest would keep its own, which contains secret stores.
    """
    for mark, description in MARKS.items():
        config.addinivalue_line("markers", f"{mark}: {description}; --{mark} includes it")
    for mark, (text, _) in UNPROVABLE.items():
        config.addinivalue_line("markers", f"{mark}: about {text}, where it is left out")
    controls = ", ".join(CONTROLS)
    config.addinivalue_line("markers", f"security(control): proves a control of the security report: {controls}")
    # A terminated run removes its hosts, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if config.option.basetemp is None:
        config.stash[TEMPORARY] = Path(tempfile.mkdtemp(prefix="redoubt-tests-"))
        config.option.basetemp = str(config.stash[TEMPORARY])


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Connect to the hosts before the header is printed.

    Does nothing unless tests/host is among the chosen tests.
    """
    config = session.config
    if not any(path.is_relative_to(HOST_TESTS) or HOST_TESTS.is_relative_to(path) for path in _chosen_paths(config)):
        return
    try:
        _connect(config)
    except inventory.BridgeError as error:
        raise pytest.UsageError(str(error)) from None
    if config.option.audit_page:
        audit.prepare(config)
    config.pluginmanager.register(
        audit.Audit(config, config.stash[FLEET], lambda item: "; ".join(_why_left_out(config, item)))
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Collect tests/smoke only if it is named: it takes long and reboots its hosts."""
    is_named = any(path.is_relative_to(SMOKE_TESTS) for path in _chosen_paths(config))
    return True if collection_path == SMOKE_TESTS and not is_named else None


def _chosen_paths(config: pytest.Config) -> list[Path]:
    """Return the files and directories of the command line, or of the configuration."""
    return [(config.invocation_params.dir / argument.partition("::")[0]).resolve() for argument in config.args]


def _connect(config: pytest.Config) -> None:
    """Connect to the chosen hosts and pass them to testinfra. Raises BridgeError."""
    specs = config.option.hosts.split(",") if config.option.hosts else []
    user_config = Path(config.option.ssh_config).absolute() if config.option.ssh_config else None
    config.stash[FLEET] = connect(config.option.inventory, specs, user_config)
    config.option.hosts = ",".join(target.spec for target in config.stash[FLEET].targets.values())
    config.option.ssh_config = str(config.stash[FLEET].ssh_config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    fleet = config.stash.get(FLEET, None)
    if fleet is None:
        return []
    lines = [f"redoubt: {', '.join(target.entry.name for target in fleet.targets.values())} ({fleet.inventory})"]
    if not inventory.is_disposable(fleet.inventory):
        lines.append("left out: tests/lifecycle and tests/apps, which start disposable hosts (run without --inventory)")
    return lines + _left_out_lines(config, fleet)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Repeat at the end what was left out.

    -q shows no header, and pytest only counts deselected tests.
    """
    fleet = config.stash.get(FLEET, None)
    # A smoke run has a fleet, but its host suite is another process.
    if fleet is not None and config.option.hosts:
        for line in _left_out_lines(config, fleet):
            terminalreporter.write_line(line)


def _left_out_lines(config: pytest.Config, fleet: Fleet) -> list[str]:
    """Return what is left out on which hosts."""
    lines = []
    for text, is_unprovable in UNPROVABLE.values():
        names = [target.entry.name for target in fleet.targets.values() if is_unprovable(target)]
        lines += [f"left out on {', '.join(names)}: {text}"] if names else []
    left_out = {
        mark: [target.entry.name for target in fleet.targets.values() if _left_out(config, target, [mark])]
        for mark in MARKS
    }
    lines += [
        f"left out on {', '.join(names)}: each test that {MARKS[mark]} (--{mark} includes it)"
        for mark, names in left_out.items()
        if names
    ]
    return lines


def _left_out(config: pytest.Config, target: Target, marks: list[str]) -> list[str]:
    return inventory.marks_left_out(
        marks, disposable=target.disposable, writes=config.option.writes, disrupts=config.option.disrupts
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that may not run on their host; run tests that stop Redis last."""
    fleet = config.stash.get(FLEET, None)
    if fleet is None:
        return
    left_out = [item for item in items if _why_left_out(config, item)]
    if not inventory.is_disposable(fleet.inventory):
        # A check of one's own hosts must not start disposable hosts on this machine.
        left_out += [item for item in items if {LIFECYCLE_TESTS, APP_TESTS} & set(item.path.parents)]
    config.hook.pytest_deselected(items=left_out)
    selected = [item for item in items if item not in left_out]
    host_tests = [item for item in selected if item.path.is_relative_to(HOST_TESTS)]
    host_tests.sort(key=lambda item: max((list(MARKS).index(mark) + 1 for mark in _marks(item)), default=0))
    in_order = iter(host_tests)
    items[:] = [next(in_order) if item.path.is_relative_to(HOST_TESTS) else item for item in selected]


def _why_left_out(config: pytest.Config, item: pytest.Item) -> list[str]:
    """Return why a test may not run on its host, or would prove nothing there.

    The list is empty if the test runs.
    """
    target = config.stash[FLEET].target_of(item)
    if target is None:
        return []
    unprovable = [
        text
        for mark, (text, is_unprovable) in UNPROVABLE.items()
        if item.get_closest_marker(mark) and is_unprovable(target)
    ]
    return unprovable + [f"--{mark} includes it" for mark in _left_out(config, target, _marks(item))]


def _marks(item: pytest.Item) -> list[str]:
    return [mark for mark in MARKS if item.get_closest_marker(mark)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remove secrets from the report: a failed comparison shows its values."""
    report = yield
    fleet = item.config.stash.get(FLEET, None)
    secrets = [secret for target in fleet.targets.values() for secret in target.hidden()] if fleet else []
    report.sections = [(title, inventory.scrubbed(text, secrets)) for title, text in report.sections]
    text = str(report.longrepr) if report.longrepr else ""
    if inventory.scrubbed(text, secrets) != text:
        report.longrepr = inventory.scrubbed(text, secrets)
    return report


def pytest_unconfigure(config: pytest.Config) -> None:
    if FLEET in config.stash:
        config.stash[FLEET].hang_up()
    if TEMPORARY in config.stash:
        shutil.rmtree(config.stash[TEMPORARY], ignore_errors=True)
