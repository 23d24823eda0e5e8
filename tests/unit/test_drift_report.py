"""The drift report: each host's state and the exit code, from plan and notes."""

from typing import Any

from redoubt.drift_report import DIFFERS, UNKNOWN, UP_TO_DATE, HostReport, exit_code, reports


def note(host: str, event: str, reason: str = "") -> dict[str, str]:
    return {"host": host, "event": event, "reason": reason}


NOTES = [
    *(note(host, "named") for host in ("a", "b", "c")),
    *(note(host, "ready") for host in ("a", "b")),
    note("a", "differs", "redis.conf: content differs"),
    note("a", "differs", "redis.conf: content differs"),
    # An operation inspected the host further and changes nothing.
    note("b", "differs", "not known"),
    *(note("d", event, reason) for event, reason in (("named", ""), ("ready", ""), ("warning", "restart Docker"))),
]
PLAN: list[dict[str, Any]] = [
    {"name": "Write redis.conf", "hosts_with_change": ["a"]},
    {"name": "Start Redis", "hosts_with_change": []},
]


def test_each_host_has_its_own_report() -> None:
    assert reports(PLAN, NOTES) == {
        "a": HostReport(DIFFERS, ("redis.conf: content differs",), ("Write redis.conf",)),
        "b": HostReport(UP_TO_DATE),
        "c": HostReport(UNKNOWN),
        "d": HostReport(DIFFERS, ("restart Docker",)),
    }


def test_exit_code_is_that_of_the_worst_host() -> None:
    up_to_date, differs, unknown = HostReport(UP_TO_DATE), HostReport(DIFFERS), HostReport(UNKNOWN)
    assert exit_code({"a": up_to_date, "b": up_to_date}) == 0
    assert exit_code({"a": up_to_date, "b": differs}) == 1
    assert exit_code({"a": unknown, "b": differs}) == 2
    assert exit_code({}) == 2
