"""The security report: what the tests marked ``security`` prove of each host, by control.

``pytest tests/host -m security`` prints the table, ``--junitxml`` carries the controls as properties, and
``--audit-page`` writes the page. Own code, because pytest-html needs scripts to show anything and knows no controls.
"""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from inspect import cleandoc
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tests.host.controls import CONTROLS, Check, Verdict, verdict
from tests.host.host_under_test import Target, quoted
from tests.host.hosts import Fleet
from tests.host.inventory import PROJECT, scrubbed

# Writes a property of the whole run to the file of --junitxml; there while tests/host runs.
JUNIT = pytest.StashKey[Callable[[str, object], None]]()


# As a plugin it must have a hash.
@dataclass(eq=False)
class Audit:
    """The plugin that follows the tests of a run. ``why_left_out`` tells how a test left out could be included."""

    config: pytest.Config
    fleet: Fleet
    why_left_out: Callable[[pytest.Item], str]
    checks: dict[str, list[Check]] = field(default_factory=dict)

    def of(self, control: str, host: str) -> list[Check]:
        """The checks of one control on one host."""
        return [
            check for found in self.checks.values() for check in found if (check.control, check.host) == (control, host)
        ]

    def verdicts(self) -> dict[str, dict[str, Verdict]]:
        """By control and host."""
        hosts = [target.entry.name for target in self.fleet.targets.values()]
        return {name: {host: verdict(it, self.of(name, host)) for host in hosts} for name, it in CONTROLS.items()}

    # -- What pytest tells

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Before anything is left out."""
        unknown = []
        for item in items:
            controls = [mark.args[0] if mark.args else "(none)" for mark in item.iter_markers("security")]
            unknown += [f"{item.nodeid}: {control}" for control in controls if control not in CONTROLS]
            target = self.fleet.target_of(item)
            if controls and target and isinstance(item, pytest.Function):
                self._expect(item, target, controls)
        if unknown:
            words = "marked with a security control that is not in tests/host/controls.py"
            raise pytest.UsageError("\n".join([f"{words} ({', '.join(CONTROLS)}):", *unknown]))

    def _expect(self, item: pytest.Function, target: Target, controls: list[str]) -> None:
        host = target.entry.name
        function: Any = item.function
        name = function.__name__.removeprefix("test_").replace("_", " ").capitalize()
        parameters = item.callspec.id.replace(target.entry.pytest_id, "").strip("-")
        name += f" ({parameters})" if parameters else ""
        promise = " ".join(cleandoc(function.__doc__ or "").split())
        self.checks[item.nodeid] = [Check(control, host, item.nodeid, name, promise) for control in controls]
        item.user_properties += [("host", host), *(("control", control) for control in controls)]

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        for item in items:
            for check in self.checks.get(item.nodeid, []):
                check.why = self.why_left_out(item)
                check.outcome = "left out" if check.why else "not selected"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The report is without secrets by now: see pytest_runtest_makereport in tests/conftest.py."""
        for check in self.checks.get(report.nodeid, []):
            check.hear(report)

    # -- What it tells

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Before pytest writes its JUnit file. A control without a test has no test case: it is a property there."""
        tell = self.config.stash.get(JUNIT, None)
        if tell and self.is_wanted:
            for control, row in self.verdicts().items():
                for host, found in row.items():
                    tell(f"{control} on {host}", ": ".join(filter(None, (found.words, found.reason))))
        if self.config.option.audit_page:
            page(self.config).write_text(self._page())

    @property
    def is_wanted(self) -> bool:
        """Whether the run is about security."""
        return "security" in self.config.option.markexpr or self.config.option.audit_page is not None

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.is_wanted:
            terminalreporter.section("security controls")
            for line in self._lines():
                terminalreporter.line(line)

    def _lines(self) -> Iterator[str]:
        verdicts = self.verdicts()
        first = max(map(len, CONTROLS)) + 2
        hosts = list(next(iter(verdicts.values())))
        width = max(len(text) for text in (*hosts, *(v.words for row in verdicts.values() for v in row.values()))) + 2
        yield (" " * first + "".join(host.ljust(width) for host in hosts)).rstrip()
        for control, row in verdicts.items():
            yield (control.ljust(first) + "".join(found.words.ljust(width) for found in row.values())).rstrip()
        failed = [(f"{one.control} on {one.host}: {one.name}", one.complaint) for one in self._all("failed")]
        out: dict[str, list[str]] = {}
        for one in self._all("left out"):
            out.setdefault(f"{one.control}: {one.name} ({one.why})", []).append(one.host)
        for title, lines in (
            (
                "failed",
                [line for what, why in failed for line in (what, *(f"    {said}" for said in why.splitlines()))],
            ),
            ("not proven", [f"{control}: {why}" for control, row in verdicts.items() for why in reasons(row)]),
            ("left out", [f"{what} on {', '.join(names)}" for what, names in out.items()]),
        ):
            yield from ["", f"{title}:", *(f"  {line}" for line in lines)] if lines else []
        if self.config.option.audit_page:
            yield from ["", f"the page: {page(self.config)}"]

    def _all(self, outcome: str) -> list[Check]:
        return [check for found in self.checks.values() for check in found if check.outcome == outcome]

    def _page(self) -> str:
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent),
            undefined=StrictUndefined,
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        targets = list(self.fleet.targets.values())
        text = environment.get_template("audit.html.j2").render(
            date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            inventory=self.fleet.inventory,
            command=" ".join(("pytest", *self.config.invocation_params.args)),
            redoubt=_commit(),
            hosts={target.entry.name: _facts(target) for target in targets},
            controls=CONTROLS,
            verdicts=self.verdicts(),
            reasons=reasons,
            of=self.of,
        )
        # Every text in it was scrubbed already; the page goes to others, so once more as a whole.
        return scrubbed(text, [secret for target in targets for secret in target.hidden()])


def reasons(row: dict[str, Verdict]) -> list[str]:
    """Why a control is not proven: once where it is the same on all hosts."""
    reasons: dict[str, list[str]] = {}
    for host, found in row.items():
        if found.reason:
            reasons.setdefault(found.reason, []).append(host)
    return [why if len(hosts) == len(row) else f"on {', '.join(hosts)}: {why}" for why, hosts in reasons.items()]


def page(config: pytest.Config) -> Path:
    """Where the page goes: as other paths on the command line, seen from where pytest was called."""
    return config.invocation_params.dir / str(config.option.audit_page)


def prepare(config: pytest.Config) -> None:
    """Empty the page before the run: that of another day must not pass for this one's. Raises UsageError."""
    try:
        page(config).parent.mkdir(parents=True, exist_ok=True)
        page(config).write_text("")
    except OSError as error:
        raise pytest.UsageError(f"--audit-page cannot be written: {error}") from None


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty=, with changes"]
    try:
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "not known"
    return done.stdout.strip()


def _facts(target: Target) -> dict[str, str]:
    """Versions, without a login to Redis: that may be what fails."""
    name = quoted(target.settings.redis_name)
    inside = quoted("redis-server --version 2>/dev/null || valkey-server --version")
    asked = (
        ". /etc/os-release; echo System=$PRETTY_NAME; "
        "echo Engine=$(docker version --format '{{.Server.Version}}'); "
        f"echo Server=$(timeout 10 docker exec {name} sh -c {inside} | grep -o 'v=[^ ]*')"
    )
    try:
        said = target.run(asked).stdout
    except subprocess.SubprocessError:
        said = ""
    found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    known = {key: found.get(key, "").removeprefix("v=") or "not known" for key in ("Server", "Engine", "System")}
    return {"Image": target.settings.redis_image, **known}
