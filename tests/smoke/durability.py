"""The writes that must survive a power cut, by the settings."""

from redoubt.settings.model import Settings

# With appendfsync everysec Redis flushes once a second. During a flush it acknowledges writes that are only in memory,
# for two seconds at most (redis.conf, "appendfsync").
FLUSH_SECONDS = 3


def unflushed_seconds(settings: Settings) -> float | None:
    """Return for how many seconds before a power cut acknowledged writes may be lost.

    None if the settings promise nothing: RDB snapshots only, or an AOF that the kernel writes at any time.
    """
    if not settings.redis_appendonly or settings.redis_appendfsync == "no":
        return None
    return 0 if settings.redis_appendfsync == "always" else FLUSH_SECONDS


def required_writes(settings: Settings, acknowledged: list[float], cut: float) -> int:
    """Return how many writes must survive the cut.

    ``acknowledged`` are the times at which writes were acknowledged, by the same clock as ``cut``, in seconds.
    """
    unflushed = unflushed_seconds(settings)
    return 0 if unflushed is None else sum(time < cut - unflushed for time in acknowledged)
