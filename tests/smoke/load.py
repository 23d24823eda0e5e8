"""Clients that write to Redis until its power is cut."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from redis import Redis
from redis.exceptions import RedisError

from tests.host.host_under_test import Target

# A client that waits for an answer for so long is still writing: an emulated disk that is busy takes its time.
PAUSE_SECONDS = 1.5


@dataclass
class Load:
    """A client that appends numbers to a list, one after the other, and notes when each was acknowledged.

    ``ended`` is when it could not go on, and ``why`` in Redis's or the system's words.
    """

    client: Redis
    key: str
    acknowledged: list[float] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    ended: float | None = None
    why: str = ""

    def run(self) -> None:
        """Until it is stopped, or Redis is gone."""
        try:
            while not self.stopped.is_set():
                self.client.rpush(self.key, len(self.acknowledged))
                self.acknowledged.append(time.monotonic())
        except (RedisError, OSError, ValueError) as error:
            # The last is redis-py's word for a connection that was closed under it.
            self.why = repr(error)
        finally:
            self.ended = time.monotonic()

    def assert_under_way(self, cut: float) -> None:
        """It wrote until the power was cut: otherwise the cut shows nothing."""
        assert self.ended is None or self.ended >= cut, f"ended {cut - self.ended:.1f} s before the cut: {self.why}"
        assert self.acknowledged, "nothing was written"
        assert cut - self.acknowledged[-1] < PAUSE_SECONDS, f"{len(self.acknowledged)} writes, and then no more"


@contextmanager
def under_load(targets: list[Target]) -> Iterator[list[Load]]:
    """Clients that write to all hosts meanwhile."""
    loads = [Load(target.client("queues"), f"rq:{target.mark}-load") for target in targets]
    threads = [threading.Thread(target=load.run) for load in loads]
    for thread in threads:
        thread.start()
    try:
        yield loads
    finally:
        for load, thread in zip(loads, threads, strict=True):
            load.stopped.set()
            thread.join()
