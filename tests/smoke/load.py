"""Clients that write to Redis until its power is cut."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from redis import Redis
from redis.exceptions import RedisError

from tests.host.host_under_test import Target

# A busy emulated disk may make a client wait this long for an answer.
MAX_PAUSE_SECONDS = 1.5


@dataclass
class Load:
    """A client that appends numbers to a list and records when each was acknowledged.

    ``ended`` is the time of its first error, ``error`` the error.
    """

    client: Redis
    key: str
    acknowledged: list[float] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    ended: float | None = None
    error: str = ""

    def run(self) -> None:
        """Write until the load is stopped or Redis does not answer."""
        try:
            while not self.stopped.is_set():
                self.client.rpush(self.key, len(self.acknowledged))
                self.acknowledged.append(time.monotonic())
        except (RedisError, OSError, ValueError) as error:
            # redis-py raises ValueError if another thread closed its connection.
            self.error = repr(error)
        finally:
            self.ended = time.monotonic()

    def assert_running_at(self, cut: float) -> None:
        """Fail unless it wrote until the power cut.

        Otherwise the cut would prove nothing.
        """
        assert self.ended is None or self.ended >= cut, f"ended {cut - self.ended:.1f} s before the cut: {self.error}"
        assert self.acknowledged, "nothing was written"
        assert cut - self.acknowledged[-1] < MAX_PAUSE_SECONDS, f"{len(self.acknowledged)} writes, and then none"


@contextmanager
def under_load(targets: list[Target]) -> Iterator[list[Load]]:
    """Run clients that write to all hosts."""
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
