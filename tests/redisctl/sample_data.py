"""Data of a busy application: sessions, jobs, a queue, and a set slow to copy."""

from secrets import token_urlsafe
from uuid import uuid4

from redis import Redis

# Copying it takes Redis tens of milliseconds, three times the limit of the slow log.
ELEMENTS = 150_000
SESSIONS, JOBS, WAITING = 3000, 600, 17


def fill(admin: Redis) -> None:
    """Write the data."""
    with admin.pipeline(transaction=False) as pipe:
        for _ in range(SESSIONS):
            pipe.set(f"app:session:{token_urlsafe(32)}", "s" * 300, ex=3600)
        for _ in range(JOBS):
            pipe.hset(f"rq:job:{uuid4()}", mapping={"data": "j" * 600, "status": "queued"})
        pipe.sadd("rq:queues", "rq:queue:mail")
        pipe.rpush("rq:queue:mail", *map(str, range(WAITING)))
        for start in range(0, ELEMENTS, 10_000):
            pipe.sadd("shop:big:basket", *range(start, start + 10_000), "word")
        pipe.execute()
