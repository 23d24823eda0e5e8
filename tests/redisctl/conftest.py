"""redisctl against a local redis-server: no deploy, no host, no Docker.

The server comes from the sandbox's Redis image, which `make deploy` builds. Needs root, as redisctl does.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import redis_root
from tests.redisctl.local_redis import LocalRedis, local_redis

_MOUNTS = ("backups", "run/redis", "run/secrets")


@pytest.fixture(scope="session")
def image_root() -> Path:
    """Return the root directory of the Redis image's file system.

    It has the directories onto which a container has its mounts.
    """
    assert os.geteuid() == 0, "tests/redisctl needs root: redisctl reads passwords and enters namespaces"
    root = redis_root.unpack()
    for name in _MOUNTS:
        (root / name).mkdir(parents=True, exist_ok=True)
    return root


@pytest.fixture(scope="module")
def redis(image_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    """Give a server with the settings of a default deploy.

    It must never deny redisctl anything.
    """
    directory = tmp_path_factory.mktemp("local")
    with local_redis(image_root, directory, f"local-{os.getpid()}") as server:
        yield server
        with server.client(decode_responses=True) as client:
            denied = [entry for entry in client.acl_log() if "redisctl" in str(entry)]
        assert denied == []
