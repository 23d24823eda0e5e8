"""Drift: what a plan and the notes beside it say of each host, and the exit code."""

from typing import Any

from redoubt.drift_report import AS_WANTED, DIFFERS, UNKNOWN, Found, code, found


def note(host: str, event: str, why: str = "") -> dict[str, str]:
    return {"host": host, "event": event, "why": why}


NOTES = [
    *(note(host, "named") for host in ("a", "b", "c")),
    *(note(host, "ready") for host in ("a", "b")),
    note("a", "differs", "redis.conf: content differs"),
    note("a", "differs", "redis.conf: content differs"),
    # Looked at, and found to need nothing.
    note("b", "differs", "not known"),
]
PLAN: list[dict[str, Any]] = [
    {"name": "Write redis.conf", "hosts_with_change": ["a"]},
    {"name": "Start Redis", "hosts_with_change": []},
]


def test_each_host_is_told_of_by_itself() -> None:
    assert found(PLAN, NOTES) == {
        "a": Found(DIFFERS, ("redis.conf: content differs",), ("Write redis.conf",)),
        "b": Found(AS_WANTED),
        "c": Found(UNKNOWN),
    }


def test_the_exit_code_is_that_of_the_worst_host() -> None:
    wanted, differs, unknown = Found(AS_WANTED), Found(DIFFERS), Found(UNKNOWN)
    assert code({"a": wanted, "b": wanted}) == 0
    assert code({"a": wanted, "b": differs}) == 1
    assert code({"a": unknown, "b": differs}) == 2
    assert code({}) == 2
