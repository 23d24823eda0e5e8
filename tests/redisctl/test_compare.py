"""The comparison of an import: two servers, and a client that writes.

One server has a copy of the other's keys.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from redisctl.migrate.compare import Pair, Report, compare
from tests.redisctl.local_redis import LocalRedis, local_redis

SESSIONS = 3000
PATTERNS = ("app:session:*", "rq:*")


@pytest.fixture(scope="module")
def copy(image_root: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    """A second server."""
    with local_redis(image_root, tmp_path_factory.mktemp("copy"), "local-copy") as server:
        yield server


@pytest.fixture(autouse=True)
def _same_data(redis: LocalRedis, copy: LocalRedis) -> None:
    """Both servers with the same keys of all types, in two databases."""
    expiry = int(time.time() * 1000) + 3_600_000
    for server in (redis, copy):
        for number in (0, 3):
            with server.client(db=number) as client:
                keys = list(client.scan_iter(count=10_000))
                if keys:
                    client.unlink(*keys)
        with server.client() as client, client.pipeline(transaction=False) as pipeline:
            for number in range(SESSIONS):
                pipeline.set(f"app:session:{number}", f"user {number}", pxat=expiry + number)
            pipeline.execute()
        with server.client(db=3) as client:
            _write_types(client)


def _write_types(client: Redis) -> None:
    with client.pipeline(transaction=False) as pipeline:
        pipeline.set(b"\xff\x00bytes", b"\x00\xfe")
        pipeline.rpush("list", *range(50))
        pipeline.hset("hash", mapping={f"field{number}": number for number in range(700)})
        pipeline.sadd("set", *(f"member{number}" for number in range(700)))
        pipeline.zadd("zset", {"third": 1 / 3, "large": 1e300, "none": 0.0})
        for number in range(20):
            pipeline.xadd("stream", {"number": str(number)}, id=f"1-{number + 1}")
        pipeline.set("large", "x" * 200_000)
        pipeline.execute()


def compare_servers(
    redis: LocalRedis, copy: LocalRedis, *, full: bool = True, while_waiting: Callable[[], None] = lambda: None
) -> Report:
    """Compare two servers.

    ``while_waiting`` runs each time that the comparison waits for the copy.
    """
    pair = Pair(
        source=lambda db: redis.client(db=db, protocol=2),
        copy=lambda db: copy.client(db=db, protocol=2),
        wait_until_synced=while_waiting,
        absolute_expiry=True,
        patterns=PATTERNS,
    )
    return compare(pair, full=full)


def test_equal_servers_have_no_problems(redis: LocalRedis, copy: LocalRedis) -> None:
    report = compare_servers(redis, copy)
    assert (report.all_problems(), report.compared, report.still_changing) == ([], SESSIONS + 7, 0)
    # Of a large value only the length is compared. No pattern matches the keys of db3.
    assert (report.length_only, report.outside_patterns) == (1, 7)


def test_a_sample_covers_all_databases(redis: LocalRedis, copy: LocalRedis) -> None:
    report = compare_servers(redis, copy, full=False)
    assert report.all_problems() == []
    assert 500 < report.compared < 1100
    assert report.outside_patterns > 0


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (("SET", "app:session:7", "other", "KEEPTTL"), "1 keys differ: value (string in db0)"),
        (("PERSIST", "app:session:7"), "1 keys differ: expiry (string in db0)"),
        (("UNLINK", "app:session:7"), "1 keys differ: missing (string in db0)"),
    ],
)
def test_each_difference_is_reported(
    redis: LocalRedis, copy: LocalRedis, command: tuple[str, ...], problem: str
) -> None:
    with copy.client() as client:
        client.execute_command(*command)
    report = compare_servers(redis, copy)
    assert problem in report.all_problems()
    assert report.names == ["app:session:7"]


def test_difference_inside_a_collection_is_reported(redis: LocalRedis, copy: LocalRedis) -> None:
    with copy.client(db=3) as client:
        client.hset("hash", "field1", "other")
    assert compare_servers(redis, copy).all_problems() == ["1 keys differ: value (hash in db3)"]


def test_missing_keys_are_counted(redis: LocalRedis, copy: LocalRedis) -> None:
    with copy.client() as client:
        client.unlink("app:session:1", "app:session:2")
    assert f"db0 has {SESSIONS} keys there and {SESSIONS - 2} here" in compare_servers(redis, copy).all_problems()


def test_changing_keys_are_not_reported_as_different(redis: LocalRedis, copy: LocalRedis) -> None:
    """A key that changes during each comparison counts as changing."""

    def write() -> None:
        with redis.client() as client:
            client.append("app:session:5", "x")

    report = compare_servers(redis, copy, while_waiting=write)
    assert report.all_problems() == []
    assert report.still_changing == 1
