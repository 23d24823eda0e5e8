"""What has to be there after a power cut, by the settings."""

from redoubt.settings.model import Settings

# With appendfsync everysec Redis flushes once a second. While a flush is under way it keeps writes in memory, for two
# seconds at most, and acknowledges them all the same (redis.conf, "appendfsync").
FLUSH_SECONDS = 3


def unflushed_seconds(settings: Settings) -> float | None:
    """How long before a power cut a write may have been acknowledged that is lost all the same.

    None where the settings promise nothing of the kind: snapshots alone, or a log that the kernel writes when it likes.
    """
    if not settings.redis_appendonly or settings.redis_appendfsync == "no":
        return None
    return 0 if settings.redis_appendfsync == "always" else FLUSH_SECONDS


def promised(settings: Settings, acknowledged: list[float], cut: float) -> int:
    """How many of the writes that were acknowledged at these moments have to be there after the cut."""
    unflushed = unflushed_seconds(settings)
    return 0 if unflushed is None else sum(moment < cut - unflushed for moment in acknowledged)
