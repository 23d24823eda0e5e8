"""What `redisctl top` makes of two readings, and that it fits on a terminal."""

from dataclasses import replace
from typing import Any

import pytest

from redisctl.monitor.slowlog import SlowCommand
from redisctl.monitor.top import Frame, Sample, frame_of
from redisctl.monitor.top_screen import lines, plain

INFO: dict[str, Any] = {
    "run_id": "a",
    "redis_version": "8.0.2",
    "server_time_usec": 1_700_000_000_000_000,
    "uptime_in_seconds": 100_000,
    "total_commands_processed": 1000,
    "keyspace_hits": 100,
    "keyspace_misses": 50,
    "evicted_keys": 0,
    "expired_keys": 0,
    "total_net_input_bytes": 0,
    "total_net_output_bytes": 0,
    "used_memory": 512 * 1024**2,
    "used_memory_peak": 600 * 1024**2,
    "maxmemory": 1024**3,
    "mem_fragmentation_ratio": 1.05,
    "connected_clients": 12,
    "maxclients": 10_000,
    "blocked_clients": 3,
    "rejected_connections": 7,
    "rdb_last_save_time": 1_699_999_000,
    "rdb_bgsave_in_progress": 0,
    "rdb_last_bgsave_status": "ok",
    "rdb_changes_since_last_save": 5,
    "db0": {"keys": 12, "expires": 10},
}


def reading(clock: float, own: dict[str, int] | None = None, **info: Any) -> Sample:
    return Sample(clock, {**INFO, **info}, 0.0005, own=own or {})


def slow(number: int, seconds: float, at: int = 1_699_999_990) -> SlowCommand:
    return SlowCommand(number, at, seconds, f"COMMAND{number}", 1, ("secret",), "10.0.0.1:1", "web")


def text(frame: Frame) -> str:
    return plain("redis", frame)


def test_rates_leave_out_commands_of_top_itself() -> None:
    own = {"total_commands_processed": 4, "keyspace_misses": 1}
    later = reading(14.0, own, total_commands_processed=1404, keyspace_hits=190, keyspace_misses=61, evicted_keys=2)
    frame = frame_of(reading(10.0), later)
    assert (frame.operations, frame.hits, frame.misses, frame.evicted) == (100, 22.5, 2.5, 0.5)
    assert frame.hit_ratio == 0.9
    assert frame.interval == 4


def test_where_nothing_was_asked_for_there_is_no_ratio() -> None:
    frame = frame_of(reading(0.0), reading(1.0, {"keyspace_misses": 1}, keyspace_misses=51))
    assert frame.hit_ratio is None
    assert "no reads" in text(frame)


@pytest.mark.parametrize("change", [{"run_id": "b"}, {"total_commands_processed": 10, "keyspace_hits": 0}])
def test_reset_counters_give_no_rate(change: dict[str, Any]) -> None:
    frame = frame_of(reading(0.0), reading(2.0, **change))
    assert frame.operations is None
    assert frame.hits is None
    assert "commands   -\n" in text(frame)


def test_rejected_clients_are_counted_in_all_and_in_the_interval() -> None:
    frame = frame_of(reading(0.0), reading(2.0, rejected_connections=9))
    assert (frame.rejected, frame.rejected_in_interval) == (9, 2)
    assert "9 rejected (+2)" in text(frame)


def test_slowest_commands_are_shown_without_arguments() -> None:
    now = replace(reading(1.0), slow=tuple(slow(number, number / 100) for number in range(32)))
    frame = frame_of(reading(0.0), now)
    slowest = [(f"COMMAND{number}", 10) for number in range(31, 26, -1)]
    assert [(entry.command, entry.ago) for entry in frame.slow] == slowest
    assert "secret" not in text(frame)
    assert "secret" not in str(frame.as_dict())


def test_the_deepest_queues_are_named_and_the_others_counted() -> None:
    queues = {"a": 1, "b": 500, "c": 0, "d": 7, "e": 3, "f": 2}
    shown = text(frame_of(reading(0.0), replace(reading(1.0), queues=queues, queue_count=60)))
    assert "queues     b: 500   d: 7   e: 3   f: 2   56 more\n" in shown


def test_a_failed_save_and_a_full_memory_are_red() -> None:
    frame = frame_of(reading(0.0), reading(1.0, rdb_last_bgsave_status="err", used_memory=1000 * 1024**2))
    red = [line.plain for line in lines("redis", frame) if any(span.style == "red" for span in line.spans)]
    assert [line.split()[0] for line in red] == ["memory", "saved"]


def test_large_numbers_fit_into_80_by_24() -> None:
    counters = ("total_commands_processed", "keyspace_hits", "keyspace_misses", "evicted_keys", "rejected_connections")
    huge: dict[str, Any] = {
        **dict.fromkeys(counters, 10**7),
        **dict.fromkeys(("used_memory", "used_memory_peak", "maxmemory"), 9 * 1024**4),
        **dict.fromkeys(("connected_clients", "maxclients"), 65_000),
        "uptime_in_seconds": 10**8,
        "db0": {"keys": 10**9, "expires": 10**9},
    }
    now = replace(
        reading(1.0, **huge),
        slow=tuple(slow(number, 100, at=0) for number in range(32)),
    )
    shown = list(lines("redis-sessions", frame_of(reading(0.0), now)))
    assert max(len(line) for line in shown) <= 80, "\n".join(line.plain for line in shown if len(line) > 80)
    assert len(shown) + 2 <= 24
