"""What an instance does right now: two readings in, one frame out."""

import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from redis import Redis

from redisctl.core.formatting import words
from redisctl.core.instance import Instance
from redisctl.core.keyspace import keyspace
from redisctl.monitor.slowlog import SlowCommand, real_names, slow_commands

# Of the whole: a frame must cost Redis next to nothing.
SECTIONS = ("server", "clients", "memory", "persistence", "stats", "keyspace")
# The newest entries of the slow log that are looked at, and how many of them are shown.
SLOW_LOOKED_AT, SLOW_SHOWN = 32, 5
# Queues that are counted. Who has more looks at them by `redisctl queues`.
QUEUES = 50


@dataclass(frozen=True)
class Sample:
    """One look. ``clock`` is a clock that nobody sets, in seconds; ``round_trip`` is how long a PING took.

    ``queues`` are jobs that wait, by queue; ``queue_count`` counts those that were left out, too. ``own`` counts what
    this look itself added to Redis's counters since the look before: top shows what others do.
    """

    clock: float
    info: dict[str, Any]
    round_trip: float
    slow: tuple[SlowCommand, ...] = ()
    queues: dict[str, int] = field(default_factory=dict)
    queue_count: int = 0
    own: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Slow:
    """A slow command: how long ago and how long, in seconds, and its name."""

    ago: int
    seconds: float
    command: str


@dataclass(frozen=True)
class Frame:
    """What is shown. Rates are per second of the interval, None where the counters began anew in it.

    Sizes are bytes, times are seconds, ratios between 0 and 1; ``hit_ratio`` is None where nothing was asked for.
    """

    at: int
    interval: float
    server: str
    uptime: int
    operations: float | None
    hits: float | None
    misses: float | None
    hit_ratio: float | None
    evicted: float | None
    expired: float | None
    network_in: float | None
    network_out: float | None
    memory_used: int
    memory_most: int
    memory_peak: int
    fragmentation: float
    clients: int
    clients_most: int
    clients_blocked: int
    rejected: int
    rejected_in_interval: int | None
    round_trip: float
    keys: dict[str, dict[str, int]]
    queues: dict[str, int]
    queue_count: int
    save_age: int
    saving: bool
    save_failed: bool
    changes_since_save: int
    slow: tuple[Slow, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}


def frame_of(before: Sample, now: Sample) -> Frame:
    """The frame of two readings, the earlier one first. Pure."""
    info, interval = now.info, now.clock - before.clock
    # Counters begin anew with the server, and by CONFIG RESETSTAT.
    same = before.info["run_id"] == info["run_id"]

    def gone_by(counter: str) -> int | None:
        more: int = info[counter] - before.info[counter]
        # Own ones may be counted a moment later.
        return max(0, more - now.own.get(counter, 0)) if same and more >= 0 else None

    def rate(counter: str) -> float | None:
        more = gone_by(counter)
        return None if more is None or interval <= 0 else more / interval

    hits, misses = gone_by("keyspace_hits"), gone_by("keyspace_misses")
    asked = hits + misses if hits is not None and misses is not None else 0
    at = info["server_time_usec"] // 1_000_000
    slowest = sorted(now.slow, key=lambda entry: entry.seconds, reverse=True)[:SLOW_SHOWN]
    valkey = info.get("valkey_version")
    return Frame(
        at=at,
        interval=interval,
        server=f"Valkey {valkey}" if valkey else f"Redis {info['redis_version']}",
        uptime=info["uptime_in_seconds"],
        operations=rate("total_commands_processed"),
        hits=rate("keyspace_hits"),
        misses=rate("keyspace_misses"),
        hit_ratio=hits / asked if hits is not None and asked else None,
        evicted=rate("evicted_keys"),
        expired=rate("expired_keys"),
        network_in=rate("total_net_input_bytes"),
        network_out=rate("total_net_output_bytes"),
        memory_used=info["used_memory"],
        memory_most=info["maxmemory"],
        memory_peak=info["used_memory_peak"],
        fragmentation=info["mem_fragmentation_ratio"],
        clients=info["connected_clients"],
        clients_most=info["maxclients"],
        clients_blocked=info["blocked_clients"],
        rejected=info["rejected_connections"],
        rejected_in_interval=gone_by("rejected_connections"),
        round_trip=now.round_trip,
        keys=keyspace(info),
        queues=now.queues,
        queue_count=now.queue_count,
        save_age=max(0, at - info["rdb_last_save_time"]),
        saving=bool(info["rdb_bgsave_in_progress"]),
        save_failed=info["rdb_last_bgsave_status"] != "ok",
        changes_since_save=info["rdb_changes_since_last_save"],
        slow=tuple(Slow(max(0, at - entry.at), entry.seconds, entry.command) for entry in slowest),
    )


class Reader:
    """Reads over one connection, and connects anew after an error: Redis may have been restarted."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._redis: Redis | None = None
        self._own: dict[str, int] = {}

    def read(self) -> Sample:
        """Look once. Raises RedisError, and Failure when Redis is not running."""
        if self._redis is None:
            self._names = real_names(self._instance)
            # Bytes: arguments in the slow log may be anything.
            self._redis = self._instance.connect(decode_responses=False)
            self._own = {}
        try:
            return self._look(self._redis)
        except BaseException:
            self._redis.close()
            self._redis = None
            # It asks the engine once more where Redis is.
            self._instance = replace(self._instance)
            raise

    def _look(self, redis: Redis) -> Sample:
        start = time.perf_counter()
        redis.ping()
        round_trip = time.perf_counter() - start
        info, clock = redis.info(*SECTIONS), time.monotonic()
        # Two: INFO counts itself only afterwards, and so does the PING before the next one.
        own, self._own = self._own, {"total_commands_processed": 2}
        slow = slow_commands(redis, SLOW_LOOKED_AT, self._names)
        self._own["total_commands_processed"] += 1
        queues, count = self._queues(redis)
        return Sample(clock, info, round_trip, tuple(slow), queues, count, own)

    def _queues(self, redis: Redis) -> tuple[dict[str, int], int]:
        """Jobs that wait in each queue of RQ, and how many queues there are."""
        prefix = self._instance.queue_keys.removesuffix("*")
        with redis.pipeline(transaction=False) as pipe:
            pipe.smembers(f"{prefix}queues")
            # A key of another kind is no set of queues.
            (members,) = pipe.execute(raise_on_error=False)
            names = sorted(members)[:QUEUES] if isinstance(members, set) else []
            for name in names:
                pipe.llen(name)
            depths = pipe.execute(raise_on_error=False)
        found = [depth if isinstance(depth, int) else 0 for depth in depths]
        there = sum(1 for depth in found if depth) + bool(names)
        self._own["total_commands_processed"] += 1 + len(names)
        self._own["keyspace_hits"] = there
        self._own["keyspace_misses"] = 1 + len(names) - there
        shown = {words(name).removeprefix(f"{prefix}queue:"): depth for name, depth in zip(names, found, strict=True)}
        return shown, len(members) if names else 0
