"""What the kernel enforces on a container, from /proc and /sys/fs/cgroup.

The values do not come from Docker. The host runs the shell script once; the functions here parse its output without a
host.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

# Runs on the host. Docker only names the first process.
SCRIPT = r"""
pid=$(docker inspect --format '{{.State.Pid}}' %s) && [ "$pid" -gt 0 ] || exit 1
for id in $pid $(cat /proc/$pid/task/$pid/children); do
    echo "@@process $id"
    cat /proc/$id/status
    echo "Label: $(tr -d '\0' </proc/$id/attr/current 2>/dev/null)"
    echo "Exe: $(readlink /proc/$id/exe)"
    echo "Nofile: $(awk '/^Max open files/ { print $4, $5 }' /proc/$id/limits)"
    echo "Core: $(awk '/^Max core file size/ { print $5, $6 }' /proc/$id/limits)"
    for kind in ipc mnt net pid uts; do
        [ "$(readlink /proc/$id/ns/$kind)" = "$(readlink /proc/1/ns/$kind)" ] && echo "Shared-$kind: yes"
    done
done
echo "@@mounts"
cat /proc/$pid/mountinfo
echo "@@cgroup"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    cd "/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/$pid/cgroup)" || exit 1
    for file in memory.max memory.low memory.swap.max cpu.max cpu.weight pids.max; do
        echo "$file $(cat $file)"
    done
else
    for file in memory.limit_in_bytes memory.soft_limit_in_bytes memory.memsw.limit_in_bytes \
        cpu.cfs_quota_us cpu.cfs_period_us cpu.shares pids.max; do
        kind=${file%%%%.*}
        path=$(sed -n "s/^[0-9]*:\([^:]*,\)\{0,1\}$kind\(,[^:]*\)\{0,1\}://p" /proc/$pid/cgroup)
        echo "$file $(cat /sys/fs/cgroup/$kind$path/$file)"
    done
fi
"""


@dataclass(frozen=True)
class Process:
    """A process of the container.

    ``status`` has the fields of its status file and those that the script adds.
    """

    pid: int
    status: dict[str, str]

    @property
    def name(self) -> str:
        """The kernel's name of the program, such as redis-server."""
        return self.status["Name"]

    @property
    def shared_namespaces(self) -> set[str]:
        """The namespaces that it shares with the host."""
        return {key.removeprefix("Shared-") for key in self.status if key.startswith("Shared-")}


@dataclass(frozen=True)
class Mount:
    """A mount of the container. ``writable`` says whether the mount permits writes."""

    point: str
    filesystem: str
    writable: bool


@dataclass(frozen=True)
class Limits:
    """The cgroup's limits in bytes, cores and processes, for versions 1 and 2."""

    memory: int | None
    reservation: int | None
    swap: int | None
    cpus: float | None
    weight: int
    pids: int | None
    version: int


@dataclass(frozen=True)
class Kernel:
    """The parsed output of the script."""

    processes: tuple[Process, ...]
    mounts: tuple[Mount, ...]
    limits: Limits

    def process(self, name: str) -> Process:
        """Return the only process with this name."""
        (match,) = (process for process in self.processes if process.name == name)
        return match


def parse(lines: Iterable[str]) -> Kernel:
    """Parse the output of the script.

    Raises KeyError or ValueError if a value is missing.
    """
    processes: list[Process] = []
    mounts = []
    cgroup = {}
    section = ""
    for line in lines:
        if line.startswith("@@"):
            section, _, pid = line[2:].partition(" ")
            if section == "process":
                processes.append(Process(int(pid), {}))
        elif section == "process":
            key, _, value = line.partition(":")
            processes[-1].status[key] = value.strip()
        elif section == "mounts":
            mounts.append(_mount(line))
        else:
            key, _, value = line.partition(" ")
            cgroup[key] = value
    return Kernel(tuple(processes), tuple(mounts), _limits(cgroup))


def _mount(line: str) -> Mount:
    """Parse a line of proc_pid_mountinfo(5).

    A mount is writable if it and its file system are.
    """
    mount, _, rest = line.partition(" - ")
    fields = mount.split()
    filesystem, _, super_options = rest.split(" ", 2)
    readonly = "ro" in fields[5].split(",") or "ro" in super_options.split(",")
    return Mount(fields[4], filesystem, not readonly)


def _limits(cgroup: dict[str, str]) -> Limits:
    if "memory.max" in cgroup:
        quota, period = cgroup["cpu.max"].split()
        return Limits(
            memory=_number(cgroup["memory.max"]),
            reservation=_number(cgroup["memory.low"]),
            swap=_number(cgroup["memory.swap.max"]),
            cpus=None if quota == "max" else int(quota) / int(period),
            weight=int(cgroup["cpu.weight"]),
            pids=_number(cgroup["pids.max"]),
            version=2,
        )
    memory, memory_and_swap = int(cgroup["memory.limit_in_bytes"]), int(cgroup["memory.memsw.limit_in_bytes"])
    quota = cgroup["cpu.cfs_quota_us"]
    return Limits(
        memory=memory,
        reservation=int(cgroup["memory.soft_limit_in_bytes"]),
        swap=memory_and_swap - memory,
        cpus=None if int(quota) < 0 else int(quota) / int(cgroup["cpu.cfs_period_us"]),
        weight=int(cgroup["cpu.shares"]),
        pids=_number(cgroup["pids.max"]),
        version=1,
    )


def _number(value: str) -> int | None:
    return None if value == "max" else int(value)


def weights(shares: int, version: int) -> set[int]:
    """Return the weights that CPU shares may have in the kernel.

    cgroup version 2 has another scale. runc mapped shares linearly until 1.3, and since then along a curve that keeps
    the default at the default (opencontainers/cgroups, ConvertCPUSharesToCgroupV2Value).
    """
    if version == 1:
        return {shares}
    linear = 1 + (shares - 2) * 9999 // 262142
    log = math.log2(shares)
    curve = math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))
    return {linear, curve}
