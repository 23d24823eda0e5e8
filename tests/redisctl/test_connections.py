"""The reserve of connections, which clients without a login cannot use."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.redisctl.local_redis import LocalRedis, local_redis
from tests.redisctl.test_health import health

CLIENTS = 10


@pytest.fixture(scope="module")
def small(image_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    """Give a server for few clients."""
    directory = tmp_path_factory.mktemp("local")
    with local_redis(image_root, directory, f"few-{os.getpid()}", redis_maxclients=CLIENTS) as server:
        yield server


def strangers(redis: LocalRedis, stack: ExitStack, count: int) -> list[bytes]:
    """Open connections without a login, and return what Redis sends at once."""
    greetings = []
    for _ in range(count):
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(redis.socket)
        client.settimeout(0.2)
        try:
            greetings.append(client.recv(100))
        except TimeoutError:
            greetings.append(b"")
    return greetings


def test_redisctl_and_admin_have_connections_left(small: LocalRedis) -> None:
    """Clients have opened all connections that redis_maxclients gives them.

    Without the reserve Redis would refuse the next connection.
    """
    with ExitStack() as stack:
        assert set(strangers(small, stack, CLIENTS)) == {b""}
        code, _, checks = health(small)
        assert (code, checks) == (0, {})
        with small.client() as admin:
            assert admin.ping()
        refused = [greeting for greeting in strangers(small, stack, 40) if b"max number of clients" in greeting]
        assert len(refused) == 40 - 32
