"""The controls of the security report, and when a control is proven.

A control is proven on a host if tests of it ran there and all of them passed. Otherwise it is failed, left out, or not
proven with the reason.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import shorten

import pytest


@dataclass(frozen=True)
class Control:
    """A promise to an auditor.

    ``lacks`` names a part that no test proves; with it the control is never proven.
    """

    promise: str
    lacks: str = ""


CONTROLS = {
    "authentication": Control("Every client needs a user name and a generated password."),
    "least privilege": Control(
        "Every user may do what its clients need, on its own keys and channels, and nothing else."
    ),
    "dangerous commands": Control(
        "Commands that erase everything, run code or inspect the server are disabled; commands that change or stop the "
        "server have unguessable names."
    ),
    "network": Control("Redis is reachable only where the settings say, and cannot open outgoing connections."),
    "TLS": Control("Connections between hosts are encrypted, and clients can verify the server."),
    "container isolation": Control(
        "A compromised Redis is an unprivileged process: it reaches only its own directories, and its resources are "
        "limited."
    ),
    "file permissions": Control("Only Redis and root can read or change the data, the secrets and the settings."),
    "secrets exposure": Control("Passwords, their hashes and the new command names appear only in their own files."),
    "version": Control("Redis runs the pinned image, and no release that lacks published security fixes."),
}

FAILED, PROVEN, LEFT_OUT, NOT_PROVEN = "failed", "proven", "left out", "not proven"


@dataclass
class Check:
    """One test on one host for one control. ``reason`` says why it did not pass."""

    control: str
    host: str
    test: str
    name: str
    promise: str
    outcome: str = "not run"
    reason: str = ""

    def add(self, report: pytest.TestReport) -> None:
        """Add the result of the setup, call or teardown; one failure is a failure."""
        if report.failed:
            self.outcome, self.reason = "failed", f"{self.reason}\n{report.longreprtext}".strip()
        elif report.skipped:
            # pytest reports a skip as file, line and reason.
            reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longreprtext
            self.outcome, self.reason = "skipped", reason
        elif report.when == "call" and self.outcome == "not run":
            self.outcome = "passed"

    @property
    def summary(self) -> str:
        """The first lines that pytest marks with E."""
        lines = [line[1:].strip() for line in self.reason.splitlines() if line.startswith("E ")]
        first = [line for line in lines if line and "Use -v" not in line][:3] or self.reason.splitlines()[-1:]
        return "\n".join(shorten(line, 200) for line in first)


@dataclass(frozen=True)
class Verdict:
    """A control's state on a host, with a text and the reason if it is not proven."""

    state: str
    text: str
    reason: str = ""


def verdict(control: Control, checks: Iterable[Check]) -> Verdict:
    """Return the verdict on one control on one host from its checks.

    Only tests that ran and passed prove a control.
    """
    counts = Counter(check.outcome for check in checks)
    passed, failed, left_out = counts["passed"], counts["failed"], counts["left out"]
    missing = [f"{counts[kind]} {kind}" for kind in ("not selected", "not run", "skipped") if counts[kind]]
    if failed:
        return Verdict(FAILED, f"FAILED: {failed} of {_tests(failed + passed)}")
    if control.lacks or missing or not counts:
        reason = control.lacks or (f"of its tests, {', '.join(missing)}" if missing else "no test of it was collected")
        return Verdict(NOT_PROVEN, f"not proven{f' ({passed} passed)' if passed else ''}", reason)
    if not passed:
        return Verdict(LEFT_OUT, f"left out: {_tests(left_out)}", "all of its tests are left out, see below")
    return Verdict(PROVEN, f"proven by {_tests(passed)}{f', {left_out} left out' if left_out else ''}")


def _tests(number: int) -> str:
    return f"{number} test{'' if number == 1 else 's'}"
