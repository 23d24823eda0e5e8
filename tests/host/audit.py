"""The security report: what the ``security`` tests prove about each host.

The report is sorted by control. ``pytest tests/host -m security`` prints the table, ``--junitxml`` contains the
controls as properties, and ``--audit-page`` writes the page. pytest-html is no alternative: its pages need scripts, and
it has no controls.
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

from tests.host.controls import CONTROLS, LEFT_OUT, NOT_PROVEN, OFF, Check, Verdict, verdict
from tests.host.host_under_test import Target, quoted
from tests.host.hosts import Fleet
from tests.host.inventory import PROJECT, scrubbed

# Writes a property of the whole run to the file of --junitxml. Set while tests/host runs.
JUNIT = pytest.StashKey[Callable[[str, object], None]]()


# A pytest plugin must be hashable.
@dataclass(eq=False)
class Audit:
    """Plugin that collects the results of a run.

    ``why_left_out`` returns how to include a test that is left out.
    """

    config: pytest.Config
    fleet: Fleet
    why_left_out: Callable[[pytest.Item], str]
    checks: dict[str, list[Check]] = field(default_factory=dict)

    def checks_of(self, control: str, host: str) -> list[Check]:
        """Return the checks of one control on one host."""
        checks = (check for checks in self.checks.values() for check in checks)
        return [check for check in checks if (check.control, check.host) == (control, host)]

    def verdicts(self) -> dict[str, dict[str, Verdict]]:
        """Return the verdicts by control and host."""
        settings = {target.entry.name: target.settings for target in self.fleet.targets.values()}
        return {
            name: {host: verdict(control, self.checks_of(name, host), own) for host, own in settings.items()}
            for name, control in CONTROLS.items()
        }

    # -- Input: pytest's hooks

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Register all checks before tests are left out."""
        unknown = []
        for item in items:
            controls = [mark.args[0] if mark.args else "(none)" for mark in item.iter_markers("security")]
            unknown += [f"{item.nodeid}: {control}" for control in controls if control not in CONTROLS]
            target = self.fleet.target_of(item)
            if controls and target and isinstance(item, pytest.Function):
                self._register(item, target, controls)
        if unknown:
            message = "marked with a security control that is not in tests/host/controls.py"
            raise pytest.UsageError("\n".join([f"{message} ({', '.join(CONTROLS)}):", *unknown]))

    def _register(self, item: pytest.Function, target: Target, controls: list[str]) -> None:
        host = target.entry.name
        function: Any = item.function
        name = title(function.__name__)
        parameters = item.callspec.id.replace(target.entry.pytest_id, "").strip("-")
        name += f" ({parameters})" if parameters else ""
        promise = " ".join(cleandoc(function.__doc__ or "").split())
        self.checks[item.nodeid] = [Check(control, host, item.nodeid, name, promise) for control in controls]
        item.user_properties += [("host", host), *(("control", control) for control in controls)]

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        for item in items:
            for check in self.checks.get(item.nodeid, []):
                check.reason = self.why_left_out(item)
                check.outcome = "left out" if check.reason else "not selected"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add a report, from which tests/conftest.py has removed all secrets."""
        for check in self.checks.get(report.nodeid, []):
            check.add(report)

    # -- Output: terminal, JUnit file and page

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Write the page, and the verdicts as properties for pytest's JUnit file.

        This runs before pytest writes that file. A control without a test has no test case, so its verdict is only in
        the properties.
        """
        record_property = self.config.stash.get(JUNIT, None)
        if record_property and self.is_requested:
            for control, row in self.verdicts().items():
                for host, result in row.items():
                    record_property(f"{control} on {host}", ": ".join(filter(None, (result.text, result.reason))))
        if self.config.option.audit_page:
            page(self.config).write_text(self._page())

    @property
    def is_requested(self) -> bool:
        """Whether the options of the run ask for the report."""
        return "security" in self.config.option.markexpr or self.config.option.audit_page is not None

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.is_requested:
            terminalreporter.section("security controls")
            for line in self._lines():
                terminalreporter.line(line)

    def _lines(self) -> Iterator[str]:
        verdicts = self.verdicts()
        first_width = max(map(len, CONTROLS)) + 2
        hosts = list(next(iter(verdicts.values())))
        width = max(len(text) for text in (*hosts, *(v.text for row in verdicts.values() for v in row.values()))) + 2
        yield (" " * first_width + "".join(host.ljust(width) for host in hosts)).rstrip()
        for control, row in verdicts.items():
            yield (control.ljust(first_width) + "".join(result.text.ljust(width) for result in row.values())).rstrip()
        failed = []
        for check in self._with_outcome("failed"):
            failed += [
                f"{check.control} on {check.host}: {check.name}",
                *(f"    {line}" for line in check.summary.splitlines()),
            ]
        left_out: dict[str, list[str]] = {}
        for check in self._with_outcome("left out"):
            left_out.setdefault(f"{check.control}: {check.name} ({check.reason})", []).append(check.host)
        without_proof = {
            state: [f"{control}: {reason}" for control, row in verdicts.items() for reason in reasons(row, state)]
            for state in (OFF, NOT_PROVEN, LEFT_OUT)
        }
        for title, lines in (
            ("failed", failed),
            ("off by the settings", without_proof[OFF]),
            ("not proven", without_proof[NOT_PROVEN] + without_proof[LEFT_OUT]),
            ("left out", [f"{text} on {', '.join(names)}" for text, names in left_out.items()]),
        ):
            yield from ["", f"{title}:", *(f"  {line}" for line in lines)] if lines else []
        if self.config.option.audit_page:
            yield from ["", f"the page: {page(self.config)}"]

    def _with_outcome(self, outcome: str) -> list[Check]:
        return [check for checks in self.checks.values() for check in checks if check.outcome == outcome]

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
            checks_of=self.checks_of,
        )
        # Every text was scrubbed already. The page goes to other people, so it is scrubbed again as a whole.
        return scrubbed(text, [secret for target in targets for secret in target.hidden()])


# Names that a function's name cannot spell.
_SPELLINGS = {
    **{name.lower(): name for name in ("AOF", "AppArmor", "CAs", "CPUs", "Docker", "RDB", "Redis", "RQ", "SELinux")},
    "tls": "TLS",
}


def title(function: str) -> str:
    """Return the name of a test function as a person reads it."""
    words = [_SPELLINGS.get(word, word) for word in function.removeprefix("test_").split("_")]
    text = " ".join(words)
    return text[:1].upper() + text[1:]


def reasons(row: dict[str, Verdict], *states: str) -> list[str]:
    """Return why a control has one of these verdicts.

    A reason that is the same on all hosts is returned once, without their names.
    """
    reasons: dict[str, list[str]] = {}
    for host, result in row.items():
        if result.state in states and result.reason:
            reasons.setdefault(result.reason, []).append(host)
    return [text if len(hosts) == len(row) else f"on {', '.join(hosts)}: {text}" for text, hosts in reasons.items()]


def page(config: pytest.Config) -> Path:
    """Return the path of the page, relative to the directory where pytest was called."""
    return config.invocation_params.dir / str(config.option.audit_page)


def prepare(config: pytest.Config) -> None:
    """Empty the page, so that an old page is never taken for this run's.

    Raises UsageError if it cannot be written.
    """
    try:
        page(config).parent.mkdir(parents=True, exist_ok=True)
        page(config).write_text("")
    except OSError as error:
        raise pytest.UsageError(f"--audit-page cannot be written, choose another file: {error}") from None


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty=, with changes"]
    try:
        result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()


def _facts(target: Target) -> dict[str, str]:
    """Return the image and the versions of server, Docker and system.

    This needs no login to Redis, which may be what fails.
    """
    name = quoted(target.settings.redis_name)
    inside = quoted("redis-server --version 2>/dev/null || valkey-server --version")
    script = (
        ". /etc/os-release; echo System=$PRETTY_NAME; "
        "echo Docker=$(docker version --format '{{.Server.Version}}'); "
        f"echo Server=$(timeout 10 docker exec {name} sh -c {inside} | grep -o 'v=[^ ]*')"
    )
    try:
        output = target.run(script).stdout
    except subprocess.SubprocessError:
        output = ""
    values = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    facts = {key: values.get(key, "").removeprefix("v=") or "unknown" for key in ("Server", "Docker", "System")}
    return {"Image": target.settings.redis_image, **facts}
