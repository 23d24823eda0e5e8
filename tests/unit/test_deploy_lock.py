"""The lock of a deploy and the history: who holds it, in words, and what is made of the records."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from redisctl.monitor import deploy_history
from redoubt import deploy_lock
from redoubt.deploy_lock import LockState, Record, StreamingLines

HOLDER = '{"who": "ann@laptop", "verb": "deploy", "since": "2026-11-27T09:12:03+00:00"}'


def record(run: str, **changes: Any) -> Record:
    """A record of a deploy."""
    one = Record("deploy", "d1", "redis:8.0.2", "ann@laptop", f"2026-11-27T09:12:0{run}+00:00", run)
    return replace(one, **changes)


@pytest.mark.parametrize("state", ["ours", "denied"])
def test_a_lock_that_is_ours_is_in_nobody_s_way(state: str) -> None:
    """Who is not root is told so by what looks at the host."""
    assert deploy_lock.problem("redis", deploy_lock.parse([state])) == ""


def test_a_lock_that_another_has_is_told_with_who_since_when_and_how_to_break_it() -> None:
    answer = deploy_lock.parse(["held", "an id", "4711", HOLDER])
    assert answer.pid == "4711"
    told = deploy_lock.problem("redis", answer)
    assert told.startswith("ann@laptop is changing redis (deploy) since 2026-11-27T09:12:03+00:00: ")
    assert "release it with 'kill 4711' on the host" in told


@pytest.mark.parametrize("answer", [deploy_lock.parse(["held"]), LockState("free"), None])
def test_a_lock_of_which_little_is_known_is_no_free_one(answer: LockState | None) -> None:
    assert deploy_lock.problem("redis", answer) != ""


def test_a_line_is_sent_at_once() -> None:
    """Without a flush: what carries it knows none."""
    raw = io.BytesIO()
    buffered = io.BufferedWriter(raw)
    buffered.write(deploy_lock.pad_line(record("1").line()).encode())
    assert raw.getvalue().strip() == record("1").line().encode()


def test_lines_are_made_while_they_are_read() -> None:
    made: list[int] = []

    def making() -> Iterator[str]:
        for number in range(3):
            made.append(number)
            yield str(number)

    lines = StreamingLines(making())
    assert isinstance(lines, list)
    assert lines
    first = next(iter(lines))
    assert (first, made) == ("0", [0])


def test_deploys_are_told_newest_first_with_how_they_ended() -> None:
    records = [
        record("1"),
        record("1", changed=["a"], ended="2026-11-27T09:13:00+00:00"),
        record("2"),
        record("2", ended="2026-11-27T09:14:00+00:00"),
        record("3"),
        record("3", changed=["a"], failed="b", ended="2026-11-27T09:15:00+00:00"),
        record("4"),
        record("4", changed=["a", "c"]),
        record("5"),
    ]
    found, damaged = deploy_history.deploys([one.line() for one in records], under_way="5")
    assert [(one.result, one.changed) for one in found] == [
        ("running", ()),
        ("interrupted", ("a", "c")),
        ("failed", ("a",)),
        ("no change", ()),
        ("changed", ("a",)),
    ]
    assert found[2].what == "a\nfailed: b"
    assert damaged == 0
    assert json.loads(json.dumps(found[0].as_dict()))["ended"] is None


@pytest.mark.parametrize("line", ["", '{"run": "1"', "[]", "{}", '"x"', "\0\0", record("2", started=7).line()])
def test_a_damaged_line_is_counted_and_hides_no_other(line: str) -> None:
    found, damaged = deploy_history.deploys([line, record("1").line()], "")
    assert (len(found), damaged) == (1, 1)
