"""redisctl against a local redis-server: no deploy, no host, no Docker.

The server comes from the sandbox's Redis image, which `make deploy` builds. Needs root, as redisctl does.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from redisctl.backup.create import create_backup
from redisctl.core import network_filter
from sandbox import redis_root
from tests.redisctl.hostile_host import HostileHost
from tests.redisctl.local_redis import LocalRedis, load_local_instance, local_redis

_MOUNTS = ("backups", "data", "source", "run/redis", "run/secrets")


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


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report that the network filter is loaded and watched.

    A local server has no network. tests/lifecycle/test_network_filter.py removes the filter of a host.
    """
    monkeypatch.setattr(network_filter, "differences", lambda _: ())
    monkeypatch.setattr(network_filter, "client_limit_differences", lambda _, __: ())
    monkeypatch.setattr(network_filter, "refused_packets", lambda _, __: {})
    monkeypatch.setattr(network_filter, "is_watched", lambda _: True)
    monkeypatch.setattr(network_filter, "docker_publishes", lambda _: True)


@pytest.fixture(scope="module")
def host(redis: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileHost]:
    """Give a host like that of the local Redis, whose data and a backup it has."""
    instance = load_local_instance(redis.root)
    with instance.connect_quickly() as client:
        client.execute("SET", "app:session:one", "x", "EX", "7200")
        info = client.execute("INFO", "all")
        config = instance.execute_renamed(client, "CONFIG", "GET", "*")
    create_backup(instance)
    info = info.replace("role:master", "role:slave\r\nmaster_link_status:up\r\nslave_repl_offset:0")
    command = [sys.executable, "-m", "tests.redisctl.verb_process"]
    runner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    directory = tmp_path_factory.mktemp("hostile")
    host = HostileHost(directory, redis.root, info, config, runner)
    try:
        yield host
    finally:
        host.clean_up()
        runner.kill()
        runner.wait()
