"""Parsing and formatting of SLOWLOG, LATENCY HISTOGRAM and round pings."""

from typing import Any

import pytest
from redis import Redis

from redisctl.core.formatting import took, words
from redisctl.monitor import latency, slowlog


class Answering(Redis):
    """A client of a Redis that always gives the same answer."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __del__(self) -> None:
        pass

    def execute_command(self, *args: Any, **options: Any) -> Any:
        return self.answer


def entry(*command: bytes) -> slowlog.SlowCommand:
    raw = [1, 1_700_000_000, 25_000, list(command), b"10.0.0.1:5000", b"web"]
    (slow_command,) = slowlog.slow_commands(Answering([raw]), 1, {"X7F2": "CONFIG"})
    return slow_command


def test_arguments_are_shown_only_on_request() -> None:
    command = entry(b"set", b"app:session:abc", b"two words")
    assert command.as_dict() == {
        "id": 1,
        "at": 1_700_000_000,
        "seconds": 0.025,
        "command": "SET",
        "argument_count": 2,
        "address": "10.0.0.1:5000",
        "client": "web",
    }
    assert command.as_dict(arguments=True)["arguments"] == ["app:session:abc", "two words"]


def test_renamed_command_is_shown_by_its_original_name() -> None:
    assert entry(b"x7f2", b"GET", b"*").command == "CONFIG"


def test_arguments_that_redis_omits_are_counted() -> None:
    assert entry(b"DEL", *[b"k"] * 30, b"... (70 more arguments)").count == 100
    assert entry(b"DEL", b"... (70 more arguments)").count == 1


def test_control_characters_are_escaped() -> None:
    assert words(b"a\x1b[2J\xff\nb") == r"a\x1b[2J\xff\nb"
    assert words("café".encode()) == "café"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.00004, "40 µs"), (0.0123, "12.3 ms"), (2.5, "2.5 s"), (0, "0 µs"), (0.9999, "999.9 ms")]
)
def test_short_times_have_a_matching_unit(seconds: float, text: str) -> None:
    assert took(seconds) == text


def test_percentiles_of_round_trips() -> None:
    pings = latency.ping_times([number / 1000 for number in range(100, 0, -1)])
    assert pings == latency.PingTimes(count=100, min=0.001, median=0.05, p99=0.099, max=0.1)
    assert latency.ping_times([0.5]) == latency.PingTimes(1, 0.5, 0.5, 0.5, 0.5)


def test_percentiles_of_a_histogram() -> None:
    values = ["calls", 100, "histogram_usec", [1, 40, 2, 60, 16, 98, 1024, 99, 33_000, 100]]
    command = latency.command_of("get", values)
    assert (command.calls, command.median, command.p99, command.max) == (100, 2e-6, 1024e-6, 0.033)


def test_additional_fields_of_newer_servers_are_ignored() -> None:
    assert latency.event_of(["fork", 1_700_000_000, 120, 250, 370, 2]) == latency.Event(
        "fork", 1_700_000_000, 0.12, 0.25
    )
