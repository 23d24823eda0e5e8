"""How long Redis takes: as a client on the host sees it, and as Redis itself counted."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError

# Between two PINGs: quick enough to fall into what takes milliseconds, and no load of its own.
PAUSE = 0.001


@dataclass(frozen=True)
class Trips:
    """Round trips of PINGs one after the other, in seconds."""

    count: int
    least: float
    median: float
    p99: float
    most: float


@dataclass(frozen=True)
class Command:
    """What Redis counted of one command since it started. Times are in seconds, without waiting and the network.

    Redis counts in steps of powers of two: each is no more than is said, and more than half of it.
    """

    name: str
    calls: int
    median: float
    p99: float
    most: float


@dataclass(frozen=True)
class Event:
    """Something that the latency monitor saw take longer than its threshold. Times in seconds; ``at`` is the last."""

    name: str
    at: int
    last: float
    most: float


@dataclass(frozen=True)
class Latency:
    """All of it. ``doctor`` is None where the user may not ask, and ``threshold`` 0 where the monitor is off."""

    trips: Trips
    commands: tuple[Command, ...]
    events: tuple[Event, ...]
    threshold: float
    doctor: str | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(redis: Redis, seconds: float, threshold: float) -> Latency:
    """PING for some seconds, then ask what Redis counted. ``redis`` answers in text. Raises RedisError."""
    trips = trips_of(_pings(redis, seconds))
    answer = redis.execute_command("LATENCY", "HISTOGRAM")
    commands = [command_of(name, told) for name, told in zip(answer[::2], answer[1::2], strict=True)]
    events = [event_of(item) for item in redis.execute_command("LATENCY", "LATEST")]
    try:
        doctor = str(redis.execute_command("LATENCY", "DOCTOR")).strip()
    except NoPermissionError:
        doctor = None
    return Latency(
        trips,
        tuple(sorted(commands, key=lambda command: (command.p99, command.calls), reverse=True)),
        tuple(sorted(events, key=lambda event: event.most, reverse=True)),
        threshold,
        doctor,
    )


def _pings(redis: Redis, seconds: float) -> list[float]:
    redis.ping()  # what follows does not count the login
    found: list[float] = []
    until = time.perf_counter() + seconds
    while (start := time.perf_counter()) < until:
        redis.ping()
        found.append(time.perf_counter() - start)
        time.sleep(PAUSE)
    return found


def trips_of(seconds: Sequence[float]) -> Trips:
    """Round trips summed up, of at least one."""
    found = sorted(seconds)

    def share(part: float) -> float:
        return found[max(0, math.ceil(part * len(found)) - 1)]

    return Trips(len(found), found[0], share(0.5), share(0.99), found[-1])


def command_of(name: str, told: list[Any]) -> Command:
    """One command of LATENCY HISTOGRAM: calls, and a cumulative count by steps of microseconds."""
    answer = dict(zip(told[::2], told[1::2], strict=True))
    steps, calls = answer["histogram_usec"], answer["calls"]

    def share(part: float) -> float:
        below = (upper for upper, count in zip(steps[::2], steps[1::2], strict=True) if count >= part * calls)
        return float(next(below, steps[-2])) / 1e6

    return Command(name, calls, share(0.5), share(0.99), share(1))


def event_of(item: list[Any]) -> Event:
    """One event of LATENCY LATEST, in milliseconds; newer servers tell more of it."""
    name, at, last, most = item[:4]
    return Event(name, at, last / 1000, most / 1000)
