"""Sessions: their number, remaining time and memory, and rules that remove them.

Each use of a session renews its TTL, so ``lifetime - TTL`` is the time since its last use. Key names are never shown:
the name of a session is the cookie that logs its user in.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from redis import Redis

from redisctl.core.formatting import ago, size
from redisctl.core.scan import Sample, ask, keys_like, memory

# Seconds, as docs/applications.md configures Flask-Session.
LIFETIME = 7200
# Keys whose memory is measured.
MEASURED = 1000
# Limits of the TTL buckets in seconds; the lifetime is another one.
EDGES = (60, 600, 1800, 3600, 86400, 7 * 86400)

# Answers of TTL for a key without one, and for a missing key.
NO_TTL, GONE = -1, -2

REMOVE, LIMIT = "remove", "limit"


@dataclass
class Tally:
    """Counts of TTLs in buckets.

    ``shortest`` and ``longest`` are in seconds, None before the first TTL.
    """

    lifetime: int = LIFETIME
    count: int = 0
    without_ttl: int = 0
    shortest: int | None = None
    longest: int | None = None
    buckets: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.edges = sorted({*EDGES, self.lifetime})
        self.buckets = [0] * (len(self.edges) + 1)

    def add(self, ttls: list[int]) -> None:
        """Count answers of TTL. A key that is gone does not count."""
        for ttl in ttls:
            if ttl == GONE:
                continue
            self.count += 1
            if ttl == NO_TTL:
                self.without_ttl += 1
                continue
            # A session that was just used belongs into the bucket below its lifetime.
            self.buckets[bisect_right(self.edges, ttl - 1)] += 1
            self.shortest = ttl if self.shortest is None else min(self.shortest, ttl)
            self.longest = ttl if self.longest is None else max(self.longest, ttl)

    def report(self, sizes: list[int]) -> dict[str, Any]:
        """Return all numbers, with memory estimated from the sizes of a sample.

        Times are in seconds, sizes in bytes.
        """
        ends = [*self.edges, None]
        starts = [0, *self.edges]
        return {
            "count": self.count,
            "without_ttl": self.without_ttl,
            "lifetime": self.lifetime,
            "ttl": {"shortest": self.shortest, "longest": self.longest},
            "longest_unused": None if self.shortest is None else max(0, self.lifetime - self.shortest),
            "buckets": [
                {"from": start, "to": end, "count": count}
                for start, end, count in zip(starts, ends, self.buckets, strict=True)
            ],
            "memory": memory(sizes, self.count),
        }


def collect(redis: Redis, pattern: str, lifetime: int = LIFETIME) -> dict[str, Any]:
    """Inspect all keys of a pattern in small steps. Raises RedisError."""
    tally = Tally(lifetime)
    sample = Sample(MEASURED)
    for keys in keys_like(redis, pattern):
        # TTL and MEMORY USAGE do not count as a use, so the order of eviction does not change.
        tally.add(ask(redis, [("TTL", key) for key in keys]))
        sample.add(keys)
    return tally.report(sample.sizes(redis))


def rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the report for people, without the buckets."""
    sizes, ttl = report["memory"], report["ttl"]
    yield "sessions", str(report["count"])
    without = report["without_ttl"]
    yield "without a TTL", f"{without}{': they never expire; redisctl sessions expire --no-ttl' if without else ''}"
    if ttl["shortest"] is not None:
        yield "time left", f"{ago(ttl['shortest'])} to {ago(ttl['longest'])}"
        yield "longest unused", ago(report["longest_unused"])
    if ttl["longest"] is not None and ttl["longest"] > report["lifetime"]:
        lifetime = ago(report["lifetime"])
        yield "lifetime", f"some TTLs are longer than {lifetime}: set --lifetime, or correct the application"
    if sizes["sampled"]:
        mean = f"{size(sizes['mean'])} each, the largest of {sizes['sampled']} takes {size(sizes['largest'])}"
        yield "memory", f"about {size(sizes['all'])}: {mean}"


def bucket_rows(report: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield the non-empty buckets as table rows for people.

    The columns are the time left, the time since the last use, the count and the share.
    """
    lifetime = report["lifetime"]
    for bucket in report["buckets"]:
        start, end, count = bucket["from"], bucket["to"], bucket["count"]
        if not count:
            continue
        left = f"over {ago(start)}" if end is None else f"{ago(start)} to {ago(end)}"
        unused = "?" if end is None or end > lifetime else f"{ago(lifetime - end)} to {ago(lifetime - start)}"
        yield left, unused, str(count), f"{count / report['count']:.1%}"
    if report["without_ttl"]:
        yield "no TTL", "?", str(report["without_ttl"]), f"{report['without_ttl'] / report['count']:.1%}"


@dataclass(frozen=True)
class Rule:
    """Which sessions to remove or limit.

    Removes sessions that were not used for more than ``older_than`` seconds. ``no_ttl`` gives a session without a TTL a
    whole lifetime, because it may be in use; its next use renews the TTL.
    """

    older_than: int | None = None
    no_ttl: bool = False
    lifetime: int = LIFETIME

    def verdict(self, ttl: int) -> str:
        """Return what to do with a session of this TTL: REMOVE, LIMIT or nothing.

        Nothing is an empty text.
        """
        if ttl == NO_TTL:
            return LIMIT if self.no_ttl else ""
        if self.older_than is None or ttl == GONE:
            return ""
        return REMOVE if self.lifetime - ttl > self.older_than else ""


def expire_sessions(redis: Redis, pattern: str, rule: Rule, *, dry_run: bool) -> dict[str, int]:
    """Apply a rule to all keys of a pattern, or count what it would do.

    Raises RedisError.
    """
    checked = removed = limited = 0
    for keys in keys_like(redis, pattern):
        verdicts = [rule.verdict(ttl) for ttl in ask(redis, [("TTL", key) for key in keys])]
        remove = [key for key, verdict in zip(keys, verdicts, strict=True) if verdict == REMOVE]
        limit = [key for key, verdict in zip(keys, verdicts, strict=True) if verdict == LIMIT]
        checked += len(keys)
        if dry_run:
            removed += len(remove)
            limited += len(limit)
            continue
        if remove:
            removed += int(redis.unlink(*remove))
        # NX: a session that was used since then has the application's TTL, and keeps it.
        limited += sum(ask(redis, [("EXPIRE", key, rule.lifetime, "NX") for key in limit]))
    return {"checked": checked, "removed": removed, "limited": limited}
