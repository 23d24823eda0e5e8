"""Sessions: how many, how long they have left, what they weigh; and which are to go.

A session has a TTL that each use renews, so that ``lifetime`` less the TTL is how long it was not used. Names of keys
are never shown: a session's name is the cookie that lets in whoever has it.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from redis import Redis

from redisctl.core.formatting import ago, size
from redisctl.core.scan import Sample, ask, keys_like, memory

# What Flask-Session is given here, in seconds: docs/applications.md.
LIFETIME = 7200
# Keys whose memory is measured.
MEASURED = 1000
# Where one bucket of TTLs ends and the next begins, in seconds; the lifetime is another.
EDGES = (60, 600, 1800, 3600, 86400, 7 * 86400)

# What TTL answers for a key without one, and for no key.
NO_TTL, GONE = -1, -2

REMOVE, LIMIT = "remove", "limit"


@dataclass
class Tally:
    """TTLs as they pass, counted in buckets. ``shortest`` and ``longest`` are None before the first."""

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
        """Count TTLs as Redis answers them; a key that went meanwhile does not count."""
        for ttl in ttls:
            if ttl == GONE:
                continue
            self.count += 1
            if ttl == NO_TTL:
                self.without_ttl += 1
                continue
            # A session that was just used belongs below its lifetime.
            self.buckets[bisect_right(self.edges, ttl - 1)] += 1
            self.shortest = ttl if self.shortest is None else min(self.shortest, ttl)
            self.longest = ttl if self.longest is None else max(self.longest, ttl)

    def report(self, sizes: list[int]) -> dict[str, Any]:
        """All of it in numbers, with the memory that a sample of the keys takes. Times are seconds, sizes bytes."""
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
    """Look at all keys of a pattern, at no time at many of them. Raises RedisError."""
    tally = Tally(lifetime)
    sample = Sample(MEASURED)
    for keys in keys_like(redis, pattern):
        # Neither this nor MEMORY USAGE counts as a use: what would be evicted first stays the same.
        tally.add(ask(redis, [("TTL", key) for key in keys]))
        sample.add(keys)
    return tally.report(sample.sizes(redis))


def rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The report for people, but for the buckets."""
    bytes_, ttl = report["memory"], report["ttl"]
    yield "sessions", str(report["count"])
    without = report["without_ttl"]
    yield "without a TTL", f"{without}{': they never go; redisctl sessions expire --no-ttl' if without else ''}"
    if ttl["shortest"] is not None:
        yield "time left", f"{ago(ttl['shortest'])} to {ago(ttl['longest'])}"
        yield "longest unused", ago(report["longest_unused"])
    if ttl["longest"] is not None and ttl["longest"] > report["lifetime"]:
        yield "lifetime", f"longer than {ago(report['lifetime'])}: say --lifetime, or mend the application"
    if bytes_["sampled"]:
        mean = f"{size(bytes_['mean'])} each, the largest of {bytes_['sampled']} has {size(bytes_['largest'])}"
        yield "memory", f"about {size(bytes_['all'])}: {mean}"


def bucket_rows(report: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Buckets for people: time left, time unused, count, share. Empty ones are left out."""
    lifetime = report["lifetime"]
    for bucket in report["buckets"]:
        start, end, count = bucket["from"], bucket["to"], bucket["count"]
        if not count:
            continue
        left = f"over {ago(start)}" if end is None else f"{ago(start)} to {ago(end)}"
        unused = "?" if end is None or end > lifetime else f"{ago(lifetime - end)} to {ago(lifetime - start)}"
        yield left, unused, str(count), f"{count / report['count']:.1%}"
    if report["without_ttl"]:
        yield "for ever", "?", str(report["without_ttl"]), f"{report['without_ttl'] / report['count']:.1%}"


@dataclass(frozen=True)
class Rule:
    """Which sessions are to go: those unused for longer than ``older_than`` seconds at once, those ``no_ttl`` in time.

    A session without a TTL may be in use. It is given a whole lifetime, which its next use renews.
    """

    older_than: int | None = None
    no_ttl: bool = False
    lifetime: int = LIFETIME

    def verdict(self, ttl: int) -> str:
        """What becomes of a session with this TTL: REMOVE, LIMIT, or nothing."""
        if ttl == NO_TTL:
            return LIMIT if self.no_ttl else ""
        if self.older_than is None or ttl == GONE:
            return ""
        return REMOVE if self.lifetime - ttl > self.older_than else ""


def expire_sessions(redis: Redis, pattern: str, rule: Rule, *, dry_run: bool) -> dict[str, int]:
    """Apply a rule to all keys of a pattern, or only count what it would do. Raises RedisError."""
    looked_at = removed = limited = 0
    for keys in keys_like(redis, pattern):
        verdicts = [rule.verdict(ttl) for ttl in ask(redis, [("TTL", key) for key in keys])]
        remove = [key for key, verdict in zip(keys, verdicts, strict=True) if verdict == REMOVE]
        limit = [key for key, verdict in zip(keys, verdicts, strict=True) if verdict == LIMIT]
        looked_at += len(keys)
        if dry_run:
            removed += len(remove)
            limited += len(limit)
            continue
        if remove:
            removed += int(redis.unlink(*remove))
        # NX: what was used meanwhile has the application's own TTL, and keeps it.
        limited += sum(ask(redis, [("EXPIRE", key, rule.lifetime, "NX") for key in limit]))
    return {"looked_at": looked_at, "removed": removed, "limited": limited}
