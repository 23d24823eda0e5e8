"""Memory of a trial load: by the header, the settings, or the host.

A number in a file only says where to begin. A local container is killed when it takes more than its limit, as by the
kernel. tests/lifecycle/test_foreign_data.py has a real one.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from redisctl.core import scratch_redis
from redisctl.core.formatting import size
from redisctl.core.scratch_redis import BASE_MEMORY, describe_shortage, memory_limits, running_redis, scratch_name
from tests.redisctl.foreign_files import command
from tests.redisctl.local_containers import LocalContainers, local_containers
from tests.redisctl.local_redis import LocalRedis, load_local_instance, local_redis

MIB = 1024**2
# Loaded, and in a file: a value that compresses well.
LARGE = 150 * MIB


@pytest.fixture(scope="module")
def containers(image_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalContainers]:
    with local_containers(image_root, tmp_path_factory.mktemp("logs")) as running:
        yield running


@pytest.fixture(scope="module")
def small(
    image_root: Path, containers: LocalContainers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalRedis]:
    with local_redis(image_root, tmp_path_factory.mktemp("small"), "small", redis_maxmemory="300mb") as server:
        yield server


@pytest.fixture(scope="module")
def snapshot(small: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a snapshot whose header says that its data takes 1 MiB."""
    instance, directory = load_local_instance(small.root), tmp_path_factory.mktemp("large") / "data"
    directory.mkdir()
    os.chown(directory, *instance.owner)
    with running_redis(instance, scratch_name(instance), directory, {"rdbchecksum": "no"}, LARGE) as redis:
        for number in range(LARGE // MIB):
            redis.set(f"large:{number}", b"x" * MIB)
        redis.save()
    data = (directory / "dump.rdb").read_bytes()
    assert len(data) < 10 * MIB
    changed, count = re.subn(rb"(used-mem\xc2)....", rb"\g<1>" + MIB.to_bytes(4, "little"), data, flags=re.DOTALL)
    assert count == 1
    return changed


@pytest.fixture
def limits(containers: LocalContainers) -> Iterator[list[int]]:
    """Give the limits of the trials of a test, and enforce them."""
    containers.limits = []
    yield containers.limits
    containers.limits = None


def needed(memory: int) -> int:
    return scratch_redis.memory_needed(memory)


def test_wrong_header_stops_no_restore(small: LocalRedis, snapshot: bytes, limits: list[int], tmp_path: Path) -> None:
    """The trial begins with the header, and then gets what redis_maxmemory needs."""
    path = tmp_path / "dump.rdb"
    path.write_bytes(snapshot)
    assert small.report(f"restore {path}")["memory"] > LARGE
    assert limits == [needed(MIB), needed(300 * MIB)]


def test_data_larger_than_the_settings_gets_what_the_host_has(
    small: LocalRedis, snapshot: bytes, limits: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The AOF has no header, and the refusal is that of the settings."""
    monkeypatch.setattr(scratch_redis, "free_memory", lambda: 2048 * MIB)
    path = tmp_path / "appendonly.aof"
    conf = small.root / "config/redis.conf"
    text = conf.read_text()
    conf.write_text(re.sub(r"^maxmemory \d+", f"maxmemory {10 * MIB}", text, flags=re.MULTILINE))
    try:
        with path.open("wb") as file:
            for number in range(LARGE // MIB):
                file.write(command("SET", f"large:{number}", b"x" * MIB))
        assert "redis_maxmemory is 10.0 MiB" in small.refusal(f"restore {path} --yes")
    finally:
        conf.write_text(text)
    # The limit before them is that of a server that loads nothing.
    assert limits[-2:] == [needed(10 * MIB), 2048 * MIB - 256 * MIB]


def test_host_with_too_little_memory_says_what_is_needed(
    small: LocalRedis, snapshot: bytes, limits: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is tried nevertheless: a number in a file is a guess."""
    monkeypatch.setattr(scratch_redis, "free_memory", lambda: 400 * MIB)
    path = tmp_path / "dump.rdb"
    header = re.sub(rb"(used-mem\xc2)....", rb"\g<1>" + LARGE.to_bytes(4, "little"), snapshot, flags=re.DOTALL)
    path.write_bytes(header)
    message = small.refusal(f"restore {path} --yes")
    assert limits == [144 * MIB]
    assert (
        f"loading the data takes more than 144.0 MiB of memory, and should take about {size(needed(LARGE))}. "
        "The host has 400.0 MiB free: stop something else, give the host more memory, or load the data on another host"
    ) in message


def test_recorded_memory_of_a_backup_stops_nothing(small: LocalRedis, limits: list[int]) -> None:
    """A backup says that it took more memory than any host has."""
    with small.client() as client:
        client.set("app:session:1", "x", ex=7200)
    backup = Path(small.report("backup --no-verify")["path"])
    metadata = backup / "backup.json"
    values = json.loads(metadata.read_text())
    metadata.write_text(json.dumps(values | {"memory": 1024**4}))
    assert small.report("backup verify")["verified"]["verdict"] == "ok"
    assert small.report("restore latest")["keys"] == 1
    assert max(limits) < 1024**4


@pytest.mark.parametrize(
    ("memory", "maxmemory", "free", "expected"),
    [
        # Sizes in MiB.
        (100, 1000, 4000, [248, 1328, 3744]),
        (None, 1000, 4000, [1328, 3744]),
        (None, 0, 4000, [3744]),
        (2000, 1000, 4000, [2528, 3744]),
        # The host has less than the guesses.
        (100, 1000, 1000, [248, 744]),
        (2000, 1000, 1000, [744]),
        (2000, 1000, 100, [128]),
    ],
)
def test_limits_grow_to_what_the_host_has(memory: int | None, maxmemory: int, free: int, expected: list[int]) -> None:
    bytes_needed = None if memory is None else memory * MIB
    assert memory_limits(bytes_needed, maxmemory * MIB, free * MIB) == [limit * MIB for limit in expected]
    assert expected[0] * MIB >= BASE_MEMORY


def test_shortage_without_a_header_names_the_limit_alone() -> None:
    assert "more than 1.0 GiB of memory. The host has 2.0 GiB free" in describe_shortage(1024**3, None, 2 * 1024**3)
