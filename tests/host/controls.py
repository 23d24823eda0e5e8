"""The controls of the security report, and when one is proven.

A control is proven on a host when tests of it ran there and all of them passed. Everything else is said as what it is:
failed, left out, or not proven and why.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import shorten

import pytest


@dataclass(frozen=True)
class Control:
    """What is promised to an auditor. ``lacks`` says what of it no test proves: with it, nothing counts as proven."""

    promise: str
    lacks: str = ""


CONTROLS = {
    "authentication": Control("Nobody does anything in Redis without a user's name and a password that was generated."),
    "least privilege": Control("Every user may do what its clients need, on its own keys and channels, and no more."),
    "dangerous commands": Control(
        "Commands that erase everything, run code or look inside are disabled; those that change or stop the server "
        "have names that nobody can guess."
    ),
    "network": Control("Redis is reached where the settings say and nowhere else, and has no way out."),
    "TLS": Control("What travels between hosts is encrypted, and clients can tell the server from another."),
    "container isolation": Control(
        "A taken-over Redis is an ordinary user in a box: no privileges, nothing of the host in reach but its own "
        "directories, and an end to what it can use up."
    ),
    "file permissions": Control(
        "Nobody but Redis and root reads the data, the secrets or the settings, or changes them."
    ),
    "secrets exposure": Control("Passwords, their hashes and the new names of commands are seen nowhere but at home."),
    "version": Control(
        "What runs is the image that the settings pin, and no release older than the mends of published security holes."
    ),
}

FAILED, PROVEN, LEFT_OUT, NOT_PROVEN = "failed", "proven", "left out", "not proven"


@dataclass
class Check:
    """One test on one host, for one control. ``why`` is the reason it did not pass."""

    control: str
    host: str
    test: str
    name: str
    promise: str
    outcome: str = "not run"
    why: str = ""

    def hear(self, report: pytest.TestReport) -> None:
        """Take in how the set-up, the call or the cleaning up ended; one failure is a failure."""
        if report.failed:
            self.outcome, self.why = "failed", f"{self.why}\n{report.longreprtext}".strip()
        elif report.skipped:
            # pytest's own form of a skip: file, line and reason.
            reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longreprtext
            self.outcome, self.why = "skipped", reason
        elif report.when == "call" and self.outcome == "not run":
            self.outcome = "passed"

    @property
    def complaint(self) -> str:
        """What failed, in pytest's few words: the lines that it marks with E."""
        lines = [line[1:].strip() for line in self.why.splitlines() if line.startswith("E ")]
        few = [line for line in lines if line and "Use -v" not in line][:3] or self.why.splitlines()[-1:]
        return "\n".join(shorten(line, 200) for line in few)


@dataclass(frozen=True)
class Verdict:
    """A control on a host: the state, the same in a few words, and the reason where it is not proven."""

    state: str
    words: str
    reason: str = ""


def verdict(control: Control, checks: Iterable[Check]) -> Verdict:
    """What the checks of one control on one host amount to. Only what ran and passed proves anything."""
    counts = Counter(check.outcome for check in checks)
    passed, failed, out = counts["passed"], counts["failed"], counts["left out"]
    missing = [f"{counts[kind]} {kind}" for kind in ("not selected", "not run", "skipped") if counts[kind]]
    if failed:
        return Verdict(FAILED, f"FAILED: {failed} of {_tests(failed + passed)}")
    if control.lacks or missing or not counts:
        reason = control.lacks or (f"of its tests, {', '.join(missing)}" if missing else "no test of it was collected")
        return Verdict(NOT_PROVEN, f"not proven{f' ({passed} passed)' if passed else ''}", reason)
    if not passed:
        return Verdict(LEFT_OUT, f"left out: {_tests(out)}", "all of its tests are left out, see there")
    return Verdict(PROVEN, f"proven by {_tests(passed)}{f', {out} left out' if out else ''}")


def _tests(number: int) -> str:
    return f"{number} test{'' if number == 1 else 's'}"
