"""The limits of Redis's container.

They are defined once for Compose, ``docker update``, ``docker inspect`` and the kernel.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redoubt.settings.model import Settings
from redoubt.sizes import KIB, format_size

# The largest page of any kernel. The kernel rounds memory limits to whole pages.
_PAGE = 64 * KIB
# cgroup version 1 shows "no limit" as the largest number of pages.
_UNLIMITED = 2**62


@dataclass(frozen=True)
class ContainerLimits:
    """Limits that Docker can change while the container runs.

    Sizes are bytes, CPUs are cores.
    """

    memory: int
    memory_reservation: int
    cpus: float
    cpu_reservation: float
    pids: int
    restart: str

    @classmethod
    def of(cls, settings: Settings) -> "ContainerLimits":
        """Return the limits of the settings."""
        return cls(
            memory=settings.memory_limit,
            memory_reservation=settings.memory_reservation,
            cpus=settings.redis_container_cpus,
            cpu_reservation=settings.redis_container_cpu_reservation,
            pids=settings.redis_container_pids,
            restart=settings.redis_restart,
        )

    @property
    def cpu_shares(self) -> int:
        """Return the CPU weight that stands for the reservation: 1024 is one core.

        Docker has no CPU reservation.
        """
        return int(self.cpu_reservation * 1024)

    @property
    def memory_and_swap(self) -> int:
        """Return the limit of memory and swap together, in bytes.

        It allows one byte of swap, which the kernel rounds to none. A swapping Redis stalls every client. With no swap
        at all, runc leaves the limit out, and systemd lifts it at its next daemon-reload.
        """
        return self.memory + 1

    def compose(self) -> dict[str, Any]:
        """Return the limits as keys of a Compose service."""
        resources = {
            "limits": {"cpus": str(self.cpus), "memory": format_size(self.memory), "pids": self.pids},
            "reservations": {"cpus": str(self.cpu_reservation), "memory": format_size(self.memory_reservation)},
        }
        return {
            "restart": self.restart,
            "cpu_shares": self.cpu_shares,
            "memswap_limit": self.memory_and_swap,
            "deploy": {"resources": resources},
        }

    def update_options(self) -> tuple[str, ...]:
        """Return the limits as options of ``docker update``."""
        return (
            *("--memory", str(self.memory), "--memory-swap", str(self.memory_and_swap)),
            *("--memory-reservation", str(self.memory_reservation)),
            *("--cpus", str(self.cpus), "--cpu-shares", str(self.cpu_shares)),
            *("--pids-limit", str(self.pids), "--restart", self.restart),
        )

    def inspected(self) -> dict[str, int | str]:
        """Return the limits as ``docker inspect`` shows them."""
        return {
            "Memory": self.memory,
            "MemoryReservation": self.memory_reservation,
            "NanoCpus": round(self.cpus * 10**9),
            "CpuShares": self.cpu_shares,
            "PidsLimit": self.pids,
            "RestartPolicy": self.restart,
        }

    def differences(self, inspected: Mapping[str, Any], cgroup: Mapping[str, str]) -> list[str]:
        """Return how a container's limits differ.

        Compares what Docker shows and what the kernel enforces with the settings.
        """
        differing = [
            f"has the limit {name} = {inspected.get(name)!r}, the settings say {desired!r}"
            for name, desired in self.inspected().items()
            # Docker drops a limit that the kernel does not support, and no deploy can change that.
            if inspected.get(name, desired) not in (desired, 0, None)
        ]
        return differing + self._not_enforced(inspected, cgroup)

    def _not_enforced(self, inspected: Mapping[str, Any], cgroup: Mapping[str, str]) -> list[str]:
        """Return limits that the kernel does not enforce although Docker shows them.

        Weights and reservations are left out: the kernel has them on scales of its own, and they limit nothing.
        """
        enforced = _enforced(cgroup)
        desired = self.inspected()
        rules: tuple[tuple[str, str, float, float], ...] = (
            ("memory", "Memory", self.memory, _PAGE),
            ("swap", "Memory", 0, _PAGE),
            # systemd keeps a quota in hundredths of a core.
            ("cpus", "NanoCpus", self.cpus, 0.011),
            ("pids", "PidsLimit", self.pids, 1),
        )
        return [
            f"is limited by the kernel to {name} = "
            f"{'no limit' if math.isinf(enforced[name]) else f'{enforced[name]:.12g}'}, the settings say {limit:.12g}"
            for name, key, limit, tolerance in rules
            if name in enforced and inspected.get(key) == desired[key] and abs(enforced[name] - limit) >= tolerance
        ]


def _enforced(cgroup: Mapping[str, str]) -> dict[str, float]:
    """Return the kernel's limits in bytes, cores and processes.

    No limit is infinity. Unknown limits are left out.
    """
    numbers = {
        name: [math.inf if word in ("max", "-1") or int(word) > _UNLIMITED else int(word) for word in text.split()]
        for name, text in cgroup.items()
    }
    limits: dict[str, float] = {}
    for name, file in (("memory", "memory.max"), ("swap", "memory.swap.max"), ("pids", "pids.max")):
        if file in numbers:
            (limits[name],) = numbers[file]
    # Version 1 counts memory and swap together.
    if "memory.limit_in_bytes" in numbers:
        (limits["memory"],) = numbers["memory.limit_in_bytes"]
        if both := numbers.get("memory.memsw.limit_in_bytes"):
            limits["swap"] = both[0] - limits["memory"]
    quota = numbers.get("cpu.max") or numbers.get("cpu.cfs_quota_us", []) + numbers.get("cpu.cfs_period_us", [])
    if len(quota) == 2:
        limits["cpus"] = quota[0] / quota[1]
    return limits
