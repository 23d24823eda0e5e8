"""Parsing what the kernel enforces on a container, with both versions of cgroups."""

from dataclasses import replace

import pytest

from tests.host import proc
from tests.host.proc import Limits, Mount

PROCESS = [
    "@@process 10",
    "Name:\tredis-server",
    "CapEff:\t0000000000000000",
    "Exe: /usr/bin/redis-server",
    "Nofile: 11024 11024",
    "Shared-net: yes",
]
MOUNTS = [
    "@@mounts",
    "314 205 0:79 / / ro,relatime - overlay overlay rw,lowerdir=/a",
    "335 314 0:39 /srv/redis/data/live /data rw,relatime master:2 - ext4 /dev/vda rw",
    "336 314 0:39 /srv/redis/logs /var/log/redis rw,relatime - ext4 /dev/vda ro,errors=x",
]
V1 = [
    "@@cgroup",
    "memory.limit_in_bytes 1610612736",
    "memory.soft_limit_in_bytes 536870912",
    "memory.memsw.limit_in_bytes 1610612736",
    "cpu.cfs_quota_us 150000",
    "cpu.cfs_period_us 100000",
    "cpu.shares 512",
    "pids.max 128",
]
V2 = [
    "@@cgroup",
    "memory.max 1610612736",
    "memory.low 536870912",
    "memory.swap.max 0",
    "cpu.max 150000 100000",
    "cpu.weight 20",
    "pids.max 128",
]
LIMITS = Limits(memory=1610612736, reservation=536870912, swap=0, cpus=1.5, weight=512, pids=128, version=1)


def test_both_cgroup_versions_give_the_same_limits() -> None:
    assert proc.parse([*PROCESS, *MOUNTS, *V1]).limits == LIMITS
    assert proc.parse([*PROCESS, *MOUNTS, *V2]).limits == replace(LIMITS, weight=20, version=2)


@pytest.mark.parametrize(
    ("lines", "line"), [(V1, "cpu.cfs_quota_us -1"), (V2, "cpu.max max 100000"), (V2, "memory.max max")]
)
def test_missing_limit_is_none(lines: list[str], line: str) -> None:
    key = line.split(maxsplit=1)[0]
    changed = [line if old.startswith(key) else old for old in lines]
    limits = proc.parse([*PROCESS, *MOUNTS, *changed]).limits
    assert None in (limits.cpus, limits.memory)


def test_swap_excludes_memory() -> None:
    changed = [line.replace("memsw.limit_in_bytes 1610612736", "memsw.limit_in_bytes 3221225472") for line in V1]
    assert proc.parse([*PROCESS, *MOUNTS, *changed]).limits.swap == 1610612736


def test_missing_value_is_an_error() -> None:
    with pytest.raises((KeyError, ValueError)):
        proc.parse([*PROCESS, *MOUNTS, "@@cgroup", "memory.limit_in_bytes "])


def test_mount_is_writable_if_its_file_system_is() -> None:
    assert proc.parse([*PROCESS, *MOUNTS, *V1]).mounts == (
        Mount("/", "overlay", False),
        Mount("/data", "ext4", True),
        Mount("/var/log/redis", "ext4", False),
    )


def test_processes_have_their_status() -> None:
    (process,) = proc.parse([*PROCESS, *MOUNTS, *V1]).processes
    assert (process.pid, process.name, process.status["CapEff"]) == (10, "redis-server", "0000000000000000")
    assert process.shared_namespaces == {"net"}


@pytest.mark.parametrize(
    ("shares", "version", "weights"),
    [
        (512, 1, {512}),
        (2, 2, {1}),
        # Docker's default shares: 39 on runc's old scale, the kernel's default of 100 on the new one.
        (1024, 2, {39, 100}),
        (262144, 2, {10000}),
    ],
)
def test_cpu_shares_become_weights(shares: int, version: int, weights: set[int]) -> None:
    assert proc.weights(shares, version) == weights
