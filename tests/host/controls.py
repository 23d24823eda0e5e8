"""The controls of the security report, and when a control is proven.

A control is proven on a host if tests of it ran there, all of them passed, and the settings of the host keep the
promise. Otherwise it is failed, off, left out, or not proven with the reason.

To add a control: add it to ``CONTROLS`` and to the table in docs/audit.md, mark its tests, and remove its protection in
tests/lifecycle/test_audit.py. If a setting can turn it off, add a function that says so.
"""

import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import pytest

from redoubt.settings.load import load
from redoubt.settings.model import Settings


def _never(_: Settings) -> str:
    return ""


@dataclass(frozen=True)
class Control:
    """A promise to an auditor.

    ``lacks`` names a part that no test proves; with it the control is never proven. ``off`` returns how the settings of
    a host turn off the protection or a part of it, and what that means; empty if they do not. Then the control is not
    proven either, although its tests pass: they compare the host with the settings.
    """

    promise: str
    lacks: str = ""
    off: Callable[[Settings], str] = _never


def _outside(settings: Settings) -> list[str]:
    """Return the addresses that publish Redis to other hosts."""
    return [address for address in settings.redis_bind if not ipaddress.ip_address(address).is_loopback]


def _login_without_name(settings: Settings) -> str:
    if not settings.redis_enable_default_user:
        return ""
    return "redis_enable_default_user = True: a client needs only a password, no user name"


def _keys_of_others(settings: Settings) -> str:
    names = [
        name
        for name, user in settings.redis_users.items()
        if any("*" in key and not set(key) - {*"*?"} for key in user.keys)
    ]
    if not names:
        return ""
    return f"redis_users: the key patterns of {', '.join(names)} match the keys of all other users"


def _usable_commands(settings: Settings) -> str:
    default = load({})
    covered = {*settings.redis_disabled_commands, *settings.redis_renamed_commands}
    usable = [
        name for name in (*default.redis_disabled_commands, *default.redis_renamed_commands) if name not in covered
    ]
    reasons = []
    if usable:
        reasons.append(
            f"redis_disabled_commands and redis_renamed_commands leave out {', '.join(usable)}: only the rights of the "
            "users stand before these commands"
        )
    if "loadmodule" in settings.redis_extra_config:
        reasons.append("redis_extra_config loads a module, whose code has every right")
    return "; ".join(reasons)


def _open_network(settings: Settings) -> str:
    addresses = _outside(settings)
    if not addresses:
        return ""
    if not settings.redis_allow_from:
        return (
            f"redis_bind publishes Redis at {', '.join(addresses)}, and redis_allow_from is empty: every host that "
            "reaches this address can connect"
        )
    bound = {ipaddress.ip_address(address).version for address in addresses}
    networks = [ipaddress.ip_network(network) for network in settings.redis_allow_from]
    admitted = [version for version in sorted(bound) if _is_everyone([n for n in networks if n.version == version])]
    if not admitted:
        return ""
    return f"redis_allow_from admits every host ({', '.join(f'IPv{version}' for version in admitted)})"


def _is_everyone(networks: list[Any]) -> bool:
    return any(network.prefixlen == 0 for network in ipaddress.collapse_addresses(networks))


def _plain_connections(settings: Settings) -> str:
    if settings.redis_tls == "required":
        return ""
    addresses = _outside(settings)
    if addresses:
        meaning = f"a port without TLS is published at {', '.join(addresses)}, and others on the way can read passwords"
    else:
        meaning = "no other host reaches the port, but connections on the host need no encryption"
    return f"redis_tls = {settings.redis_tls!r}: {meaning}"


def _unlimited_clients(settings: Settings) -> str:
    if not (settings.redis_unix_socket and settings.redis_unix_socket_gid):
        return ""
    return (
        f"redis_unix_socket_gid = {settings.redis_unix_socket_gid}: no limit of connections holds for members of this "
        "group, who can use up the reserve"
    )


CONTROLS = {
    "authentication": Control("Every client needs a user name and a generated password.", off=_login_without_name),
    "least privilege": Control(
        "Every user may do what its clients need, on its own keys and channels, and nothing else.", off=_keys_of_others
    ),
    "dangerous commands": Control(
        "Commands that erase everything, run code or inspect the server are disabled; commands that change or stop the "
        "server have unguessable names.",
        off=_usable_commands,
    ),
    "network": Control(
        "Redis is reachable only where the settings say, and cannot open outgoing connections.", off=_open_network
    ),
    "TLS": Control(
        "Connections between hosts are encrypted, and clients can verify the server.", off=_plain_connections
    ),
    "container isolation": Control(
        "A compromised Redis is an unprivileged process: it reaches only its own directories, and its resources are "
        "limited."
    ),
    "file permissions": Control("Only Redis and root can read or change the data, the secrets and the settings."),
    "secrets exposure": Control("Passwords, their hashes and the new command names appear only in their own files."),
    "availability": Control(
        "One application cannot take Redis from the others: clients have limits, connections are reserved, and admin "
        "may stop scripts.",
        lacks="the user queues and users with the role queue may run scripts and copy keys in a transaction. Redis has "
        "no memory limit for these, so they can have the kernel kill Redis. It restarts with its data, without the "
        "writes of the last second (docs/sizing.md, Scripts and copies).",
        off=_unlimited_clients,
    ),
    "version": Control("Redis runs the pinned image, and no release that lacks published security fixes."),
}

FAILED, PROVEN, LEFT_OUT, NOT_PROVEN, OFF = "failed", "proven", "left out", "not proven", "off"


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


def verdict(control: Control, checks: list[Check], settings: Settings) -> Verdict:
    """Return the verdict on one control on one host.

    Only tests that ran and passed prove a control, and only if the settings do not turn it off.
    """
    counts = Counter(check.outcome for check in checks)
    passed, failed, left_out = counts["passed"], counts["failed"], counts["left out"]
    missing = [f"{counts[kind]} {kind}" for kind in ("not selected", "not run", "skipped") if counts[kind]]
    skipped = "; ".join(dict.fromkeys(check.reason for check in checks if check.outcome == "skipped" and check.reason))
    off = control.off(settings)
    some = f" ({passed} passed)" if passed else ""
    if failed:
        return Verdict(FAILED, f"FAILED: {failed} of {_tests(failed + passed)}")
    if off:
        return Verdict(OFF, f"off by the settings{some}", off)
    if control.lacks or missing or not counts:
        tests = f"of its tests, {', '.join(missing)}" if missing else "no test of it was collected"
        return Verdict(NOT_PROVEN, f"not proven{some}", control.lacks or ": ".join(filter(None, (tests, skipped))))
    if not passed:
        return Verdict(LEFT_OUT, f"left out: {_tests(left_out)}", "all of its tests are left out, see below")
    return Verdict(PROVEN, f"proven by {_tests(passed)}{f', {left_out} left out' if left_out else ''}")


def _tests(number: int) -> str:
    return f"{number} test{'' if number == 1 else 's'}"
