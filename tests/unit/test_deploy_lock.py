"""A deploy's lock and history: messages about the holder, and the records."""

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
    """Return a record of a deploy."""
    original = Record("deploy", "d1", "redis:8.0.2", "ann@laptop", f"2026-11-27T09:12:0{run}+00:00", run)
    return replace(original, **changes)


@pytest.mark.parametrize("state", ["ours", "denied"])
def test_own_lock_is_no_problem(state: str) -> None:
    """The inspection of the host reports a missing root."""
    assert deploy_lock.problem("redis", deploy_lock.parse([state])) == ""


def test_held_lock_names_holder_and_release() -> None:
    answer = deploy_lock.parse(["held", "an id", "4711", HOLDER])
    assert answer.pid == "4711"
    message = deploy_lock.problem("redis", answer)
    assert message.startswith("ann@laptop is changing redis (deploy, since 2026-11-27T09:12:03+00:00): ")
    assert "release it with 'kill 4711' on the host" in message


def test_lock_of_a_redisctl_command_names_the_command() -> None:
    """The message names the command, no operator and no heartbeat.

    The lock does not record which operator runs the command, and the command sends no heartbeat.
    """
    answer = deploy_lock.parse(["held", "", "4711", '{"who": "", "verb": "restore", "since": 1795521600.0}'])
    message = deploy_lock.problem("redis", answer)
    assert message.startswith("redisctl is changing redis (restore): wait until that ends")
    assert "'kill 4711' on the host" in message
    assert "heartbeat" not in message


@pytest.mark.parametrize("answer", [deploy_lock.parse(["held"]), LockState("free"), None])
def test_unknown_lock_state_is_a_problem(answer: LockState | None) -> None:
    assert deploy_lock.problem("redis", answer) != ""


def test_lock_that_cannot_be_taken_names_the_reason() -> None:
    error = "sh: 9: cannot create /run/redoubt-redis.lock: Read-only file system"
    message = deploy_lock.problem("redis", deploy_lock.parse(["free", error]))
    assert message.startswith(f"/run/redoubt-redis.lock cannot be locked: {error}. Run the same command again.")
    assert "'flock /run/redoubt-redis.lock true' on the host" in message
    assert "free" not in message


def test_padded_line_is_sent_at_once() -> None:
    """pyinfra's local connector never flushes."""
    raw = io.BytesIO()
    buffered = io.BufferedWriter(raw)
    buffered.write(deploy_lock.pad_line(record("1").line()).encode())
    assert raw.getvalue().strip() == record("1").line().encode()


def test_lines_are_produced_while_they_are_read() -> None:
    produced: list[int] = []

    def produce() -> Iterator[str]:
        for number in range(3):
            produced.append(number)
            yield str(number)

    lines = StreamingLines(produce())
    assert isinstance(lines, list)
    assert lines
    first = next(iter(lines))
    assert (first, produced) == ("0", [0])


def test_history_is_newest_first_with_results() -> None:
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
    deploys, damaged = deploy_history.deploys([each.line() for each in records], running="5")
    assert [(deploy.result, deploy.changed) for deploy in deploys] == [
        ("running", ()),
        ("interrupted", ("a", "c")),
        ("failed", ("a",)),
        ("no change", ()),
        ("changed", ("a",)),
    ]
    assert deploys[2].what == ("a", "failed: b")
    assert damaged == 0
    assert json.loads(json.dumps(deploys[0].as_dict()))["ended"] is None


@pytest.mark.parametrize("line", ["", '{"run": "1"', "[]", "{}", '"x"', "\0\0", record("2", started=7).line()])
def test_damaged_line_is_counted_and_hides_no_other(line: str) -> None:
    deploys, damaged = deploy_history.deploys([line, record("1").line()], "")
    assert (len(deploys), damaged) == (1, 1)
