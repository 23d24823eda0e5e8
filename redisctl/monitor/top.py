"""What an instance does right now: two samples in, one frame out."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from redis import Redis

from redisctl.core.formatting import printable, words
from redisctl.core.instance import Instance
from redisctl.core.keyspace import keyspace
from redisctl.monitor.slowlog import SlowCommand, original_names, slow_commands

# Sections of INFO. A frame must cost Redis next to nothing.
SECTIONS = ("server", "clients", "memory", "persistence", "stats", "keyspace")
# Entries of the slow log that are read, newest first, and how many of them are shown.
SLOW_READ, SLOW_SHOWN = 32, 5
# Queues whose jobs are counted. `redisctl queues` shows all.
QUEUES = 50


@dataclass(frozen=True)
class Sample:
    """One sample.

    ``clock`` is a monotonic clock in seconds; ``round_trip`` is the time of a PING in seconds. ``queues`` are waiting
    jobs by queue; ``queue_count`` includes the queues that were left out. ``own`` is what top's own commands added to
    Redis's counters since the last sample.
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
    """A slow command: its age and execution time in seconds, and its name."""

    ago: int
    seconds: float
    command: str


@dataclass(frozen=True)
class Frame:
    """One frame.

    Rates are per second of the interval, None if the counters were reset in it. Sizes are in bytes, times in seconds,
    ratios between 0 and 1. ``hit_ratio`` is None without reads.
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
    maxmemory: int
    memory_peak: int
    fragmentation: float
    clients: int
    maxclients: int
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
        """Return the frame for JSON."""
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}


def frame_of(before: Sample, now: Sample) -> Frame:
    """Return the frame between two samples. Pure."""
    info, interval = now.info, now.clock - before.clock
    # A restart and CONFIG RESETSTAT reset the counters.
    same_server = before.info["run_id"] == info["run_id"]

    def increase(counter: str) -> int | None:
        count: int = info[counter] - before.info[counter]
        # Redis may count top's own commands a moment later.
        return max(0, count - now.own.get(counter, 0)) if same_server and count >= 0 else None

    def rate(counter: str) -> float | None:
        count = increase(counter)
        return None if count is None or interval <= 0 else count / interval

    hits, misses = increase("keyspace_hits"), increase("keyspace_misses")
    reads = hits + misses if hits is not None and misses is not None else 0
    at = info["server_time_usec"] // 1_000_000
    slowest = sorted(now.slow, key=lambda entry: entry.seconds, reverse=True)[:SLOW_SHOWN]
    valkey = info.get("valkey_version")
    return Frame(
        at=at,
        interval=interval,
        server=printable(f"Valkey {valkey}" if valkey else f"Redis {info['redis_version']}"),
        uptime=info["uptime_in_seconds"],
        operations=rate("total_commands_processed"),
        hits=rate("keyspace_hits"),
        misses=rate("keyspace_misses"),
        hit_ratio=hits / reads if hits is not None and reads else None,
        evicted=rate("evicted_keys"),
        expired=rate("expired_keys"),
        network_in=rate("total_net_input_bytes"),
        network_out=rate("total_net_output_bytes"),
        memory_used=info["used_memory"],
        maxmemory=info["maxmemory"],
        memory_peak=info["used_memory_peak"],
        fragmentation=info["mem_fragmentation_ratio"],
        clients=info["connected_clients"],
        maxclients=info["maxclients"],
        clients_blocked=info["blocked_clients"],
        rejected=info["rejected_connections"],
        rejected_in_interval=increase("rejected_connections"),
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
    """Reader of samples over one connection.

    It connects again after an error: Redis may have been restarted.
    """

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._redis: Redis | None = None
        self._own: dict[str, int] = {}

    def read(self) -> Sample:
        """Take a sample. Raises RedisError, and Failure if Redis does not run."""
        if self._redis is None:
            self._names = original_names(self._instance)
            # Without decoding: arguments in the slow log may be any bytes.
            self._redis = self._instance.connect(decode_responses=False)
            self._own = {}
        try:
            return self._sample(self._redis)
        except BaseException:
            self._redis.close()
            self._redis = None
            # Redis may have another process by then.
            self._instance.refresh_container()
            raise

    def _sample(self, redis: Redis) -> Sample:
        start = time.perf_counter()
        redis.ping()
        round_trip = time.perf_counter() - start
        info, clock = redis.info(*SECTIONS), time.monotonic()
        # INFO and the next PING are counted only in the next sample.
        own, self._own = self._own, {"total_commands_processed": 2}
        slow = slow_commands(redis, SLOW_READ, self._names)
        self._own["total_commands_processed"] += 1
        queues, count = self._queues(redis)
        return Sample(clock, info, round_trip, tuple(slow), queues, count, own)

    def _queues(self, redis: Redis) -> tuple[dict[str, int], int]:
        """Return the waiting jobs of each queue of RQ, and the number of queues."""
        prefix = self._instance.queue_keys.removesuffix("*")
        with redis.pipeline(transaction=False) as pipe:
            pipe.smembers(f"{prefix}queues")
            # An error if the key is not a set.
            (members,) = pipe.execute(raise_on_error=False)
            names = sorted(members)[:QUEUES] if isinstance(members, set) else []
            for name in names:
                pipe.llen(name)
            depths = pipe.execute(raise_on_error=False)
        waiting = [depth if isinstance(depth, int) else 0 for depth in depths]
        hits = sum(1 for depth in waiting if depth) + bool(names)
        self._own["total_commands_processed"] += 1 + len(names)
        self._own["keyspace_hits"] = hits
        self._own["keyspace_misses"] = 1 + len(names) - hits
        shown = {words(name).removeprefix(f"{prefix}queue:"): depth for name, depth in zip(names, waiting, strict=True)}
        return shown, len(members) if names else 0
