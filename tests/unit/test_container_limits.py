"""The limits of Redis's container, the same in four places.

The places are Compose, docker update, docker inspect and the kernel.
"""

from dataclasses import replace
from typing import Any

import pytest

from redoubt.container_limits import ContainerLimits
from redoubt.settings.load import load
from redoubt.sizes import GIB, MIB

LIMITS = ContainerLimits.of(load({"redis_container_cpus": 1.5, "redis_container_cpu_reservation": 0.25}))
V1 = {
    "memory.limit_in_bytes": "1744830464",
    "memory.memsw.limit_in_bytes": "1744830464",
    "pids.max": "128",
    "cpu.cfs_quota_us": "150000",
    "cpu.cfs_period_us": "100000",
}
V2 = {"memory.max": "1744830464", "memory.swap.max": "0", "pids.max": "128", "cpu.max": "150000 100000"}


def test_limits_are_those_of_the_settings() -> None:
    settings = load(
        {
            "redis_maxmemory": "2gb",
            "redis_container_memory": "3G",
            "redis_container_memory_reservation": "256M",
            "redis_container_pids": 99,
            "redis_restart": "always",
        }
    )
    limits = ContainerLimits.of(settings)
    assert (limits.memory, limits.memory_reservation) == (3 * GIB, 256 * MIB)
    assert (limits.pids, limits.restart) == (99, "always")


def test_compose_keys_are_the_limits() -> None:
    assert LIMITS.compose() == {
        "restart": LIMITS.restart,
        "cpu_shares": 256,
        "memswap_limit": 1664 * MIB + 1,
        "deploy": {
            "resources": {
                "limits": {"cpus": "1.5", "memory": "1664mb", "pids": 128},
                "reservations": {"cpus": "0.25", "memory": "512mb"},
            }
        },
    }


def test_update_options_set_every_limit_of_inspect() -> None:
    """An option that is missing would leave a difference that no deploy repairs."""
    options = dict(zip(LIMITS.update_options()[::2], LIMITS.update_options()[1::2], strict=True))
    assert options == {
        "--memory": str(1664 * MIB),
        "--memory-swap": str(1664 * MIB + 1),
        "--memory-reservation": str(512 * MIB),
        "--cpus": "1.5",
        "--cpu-shares": "256",
        "--pids-limit": "128",
        "--restart": LIMITS.restart,
    }
    # All but the swap, which docker inspect shows and the kernel enforces.
    assert len(LIMITS.inspected()) == len(options) - 1
    assert LIMITS.inspected()["NanoCpus"] == 1_500_000_000


@pytest.mark.parametrize("cgroup", [V1, V2, {}, {"memory.max": "1744830464"}])
def test_enforced_limits_do_not_differ(cgroup: dict[str, str]) -> None:
    assert LIMITS.differences(LIMITS.inspected(), cgroup) == []


@pytest.mark.parametrize("value", [0, None])
def test_limit_that_the_kernel_lacks_does_not_differ(value: int | None) -> None:
    """Docker drops such a limit, and no deploy can change that."""
    inspected: dict[str, Any] = {**LIMITS.inspected(), "PidsLimit": value}
    assert LIMITS.differences(inspected, {**V2, "pids.max": "max"}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Memory", 5),
        ("MemoryReservation", 5),
        ("NanoCpus", 5),
        ("CpuShares", 2),
        ("PidsLimit", -1),
        ("RestartPolicy", "no"),
    ],
)
def test_each_inspected_limit_is_compared(name: str, value: Any) -> None:
    (difference,) = LIMITS.differences({**LIMITS.inspected(), name: value}, {})
    assert difference.startswith(f"has the limit {name} = {value!r}, the settings say ")


@pytest.mark.parametrize(
    ("cgroup", "limit"),
    [
        ({**V2, "memory.max": "max"}, "memory = no limit"),
        ({**V2, "memory.max": str(1664 * MIB - 64 * 1024)}, "memory = 1744764928"),
        ({**V2, "memory.swap.max": "max"}, "swap = no limit"),
        ({**V2, "memory.swap.max": str(MIB)}, "swap = 1048576"),
        ({**V2, "pids.max": "127"}, "pids = 127"),
        ({**V2, "cpu.max": "max 100000"}, "cpus = no limit"),
        ({**V2, "cpu.max": "100000 100000"}, "cpus = 1,"),
        ({**V1, "cpu.cfs_quota_us": "-1"}, "cpus = no limit"),
        ({**V1, "memory.memsw.limit_in_bytes": str(3 * GIB)}, "swap = 1476395008"),
        ({**V1, "memory.memsw.limit_in_bytes": "9223372036854771712"}, "swap = no limit"),
    ],
)
def test_limit_that_the_kernel_does_not_enforce_differs(cgroup: dict[str, str], limit: str) -> None:
    (difference,) = LIMITS.differences(LIMITS.inspected(), cgroup)
    assert difference.startswith(f"is limited by the kernel to {limit}")


@pytest.mark.parametrize(
    "cgroup",
    [
        # The kernel counts in pages, and systemd in hundredths of a core.
        {**V2, "memory.max": str(1664 * MIB - 4096)},
        {**V2, "memory.swap.max": "4096"},
        {**V2, "cpu.max": "151000 100000"},
    ],
)
def test_rounding_of_the_kernel_does_not_differ(cgroup: dict[str, str]) -> None:
    assert LIMITS.differences(LIMITS.inspected(), cgroup) == []


def test_limit_that_docker_has_wrong_is_reported_once() -> None:
    """The kernel enforces what Docker shows: one reason is enough."""
    inspected = {**LIMITS.inspected(), "Memory": GIB}
    assert len(LIMITS.differences(inspected, {**V2, "memory.max": str(GIB)})) == 1


def test_swap_limit_is_rounded_to_none_by_the_kernel() -> None:
    assert 0 < LIMITS.memory_and_swap - LIMITS.memory < 4096
    assert replace(LIMITS, memory=GIB).memory_and_swap == GIB + 1
