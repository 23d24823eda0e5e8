"""Writes of clients to the source of an import, while the copy follows it."""

import time

from redisctl.migrate.replica import Replica, wait_for_offset, writes
from redisctl.migrate.source import SourceServer


class WriteMonitor:
    """Counts what clients write to the source, from its creation on."""

    def __init__(self, source: SourceServer, replica: Replica) -> None:
        self.source, self.replica = source, replica
        self.since = time.monotonic()
        self.removed = self._removed()
        # So that the copy has received every removal that was counted.
        wait_until_synced(source, replica)
        self.before = replica.read()

    def _removed(self) -> int:
        with self.source.connect() as redis:
            stats = redis.info("stats")
        return int(stats["expired_keys"]) + int(stats["evicted_keys"])

    def writes(self) -> dict[str, int]:
        """Return write commands by name, without removals of expired and evicted keys."""
        wait_until_synced(self.source, self.replica)
        after = self.replica.read()
        return writes(self.before, after, self._removed() - self.removed)


def wait_until_synced(source: SourceServer, replica: Replica) -> None:
    """Wait until the copy has everything that the source has now.

    Raises Failure if that takes too long.
    """
    with source.connect() as primary, replica.client() as copy:
        wait_for_offset(primary, copy)
