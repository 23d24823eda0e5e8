"""How long Redis takes to answer.

A client on the host measures it, and Redis counts it.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError

from redisctl.core.answers import reading_answers

# Seconds between two PINGs: short enough to meet commands that take milliseconds, without being a load.
PAUSE = 0.001


@dataclass(frozen=True)
class PingTimes:
    """Round trips of consecutive PINGs, in seconds."""

    count: int
    min: float
    median: float
    p99: float
    max: float


@dataclass(frozen=True)
class Command:
    """Execution times of one command since Redis started, in seconds.

    They do not include queues and network. Redis counts in powers of two: each time is an upper limit, and less than
    twice the true value.
    """

    name: str
    calls: int
    median: float
    p99: float
    max: float


@dataclass(frozen=True)
class Event:
    """An event that took longer than the latency monitor's threshold.

    Times are in seconds; ``at`` is the time of the last one.
    """

    name: str
    at: int
    last: float
    max: float


@dataclass(frozen=True)
class Latency:
    """The whole report.

    ``doctor`` is None if the user may not ask; ``threshold`` is 0 if the monitor is off.
    """

    pings: PingTimes
    commands: tuple[Command, ...]
    events: tuple[Event, ...]
    threshold: float
    doctor: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return asdict(self)


@reading_answers()
def measure(redis: Redis, seconds: float, threshold: float) -> Latency:
    """Send PINGs for some seconds, then read what Redis counted.

    ``redis`` decodes answers. Raises RedisError and Failure.
    """
    pings = ping_times(_pings(redis, seconds))
    answer = redis.execute_command("LATENCY", "HISTOGRAM")
    commands = [command_of(name, values) for name, values in zip(answer[::2], answer[1::2], strict=True)]
    events = [event_of(item) for item in redis.execute_command("LATENCY", "LATEST")]
    try:
        doctor = str(redis.execute_command("LATENCY", "DOCTOR")).strip()
    except NoPermissionError:
        doctor = None
    return Latency(
        pings,
        tuple(sorted(commands, key=lambda command: (command.p99, command.calls), reverse=True)),
        tuple(sorted(events, key=lambda event: event.max, reverse=True)),
        threshold,
        doctor,
    )


def _pings(redis: Redis, seconds: float) -> list[float]:
    redis.ping()  # The first one includes the login.
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        redis.ping()
        times.append(time.perf_counter() - start)
        time.sleep(PAUSE)
    return times


def ping_times(seconds: Sequence[float]) -> PingTimes:
    """Summarize round trips, of which there is at least one."""
    times = sorted(seconds)

    def share(part: float) -> float:
        return times[max(0, math.ceil(part * len(times)) - 1)]

    return PingTimes(len(times), times[0], share(0.5), share(0.99), times[-1])


def command_of(name: str, values: list[Any]) -> Command:
    """Parse one command of LATENCY HISTOGRAM.

    ``values`` are calls, and a cumulative count by steps of microseconds.
    """
    answer = dict(zip(values[::2], values[1::2], strict=True))
    steps, calls = answer["histogram_usec"], answer["calls"]

    def share(part: float) -> float:
        below = (upper for upper, count in zip(steps[::2], steps[1::2], strict=True) if count >= part * calls)
        return float(next(below, steps[-2])) / 1e6

    return Command(name, calls, share(0.5), share(0.99), share(1))


def event_of(item: list[Any]) -> Event:
    """Parse one event of LATENCY LATEST, in milliseconds. Newer servers add fields."""
    name, at, last, longest = item[:4]
    return Event(name, at, last / 1000, longest / 1000)
