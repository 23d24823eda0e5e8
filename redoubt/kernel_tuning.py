"""Host tuning: the kernel settings that Redis needs, now and after the next boot.

They apply to the whole host, so all instances on a host use the same values.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from redoubt.filesystem import DesiredFile

THP = "/sys/kernel/mm/transparent_hugepage/enabled"


@dataclass(frozen=True)
class KernelSetting:
    """A kernel setting: its file, its desired value, and the reason.

    The kernel setting is read and set through the file ``path``.
    """

    path: str
    value: str
    why: str

    @property
    def sysctl(self) -> str:
        """The name in sysctl.d."""
        return self.path.removeprefix("/proc/sys/").replace("/", ".")


SYSCTLS = (
    KernelSetting(
        "/proc/sys/vm/overcommit_memory",
        "1",
        "Redis forks to save, and in theory the child may copy all of its memory. With 0 the kernel may refuse the\n"
        "fork if more than half of the memory is used, and saves fail. Redis warns about it at startup.",
    ),
    KernelSetting(
        "/proc/sys/vm/swappiness",
        "1",
        "The least swapping with swap on. Redis's container has no swap at all, but the kernel should not swap out\n"
        "other programs to cache files that a backup reads once. The default is 60.",
    ),
    KernelSetting(
        "/proc/sys/net/core/somaxconn",
        "65535",
        "The kernel limits the backlog of every listener to this value. It costs nothing by itself, so it is the\n"
        "maximum of redis_tcp_backlog. Compose sets the same value in Redis's own network if the backlog needs it.",
    ),
)

# Redis recommends this value at startup. With huge pages, a write after a fork copies 2 MiB instead of 4 KiB.
HUGE_PAGES = KernelSetting(
    THP, "madvise", "With transparent huge pages a save copies far more memory, and clients wait for it."
)

KERNEL_SETTINGS = (*SYSCTLS, HUGE_PAGES)

SYSCTL_FILE = "/etc/sysctl.d/99-redoubt.conf"
# Named to sort early: systemd-tmpfiles uses the first of several lines for a path, sysctl.d the last.
TMPFILES_FILE = "/etc/tmpfiles.d/00-redoubt.conf"

# Default of a new network namespace (kernel 5.4 and later). Redis listens in one.
DEFAULT_SOMAXCONN = 4096

_HEADER = "# Kernel settings for Redis, written by Redoubt. A deploy overwrites changes in this file.\n"


def files() -> list[DesiredFile]:
    """Return the files from which systemd sets these values at boot.

    One is in sysctl.d, one in tmpfiles.d.
    """
    sysctls = "".join(f"\n{_comment(setting)}{setting.sysctl} = {setting.value}\n" for setting in SYSCTLS)
    pages = f"\n{_comment(HUGE_PAGES)}w {HUGE_PAGES.path} - - - - {HUGE_PAGES.value}\n"
    return [
        DesiredFile(SYSCTL_FILE, _HEADER + sysctls, mode=0o644, uid=0, gid=0),
        DesiredFile(TMPFILES_FILE, _HEADER + pages, mode=0o644, uid=0, gid=0),
    ]


def differences(kernel: Mapping[str, str]) -> list[tuple[KernelSetting, str]]:
    """Return the settings that differ, with their current value.

    ``kernel`` maps paths to the text of the file. Settings that the kernel does not have are skipped: one without huge
    pages needs none.
    """
    current = [(setting, selected(kernel[setting.path])) for setting in KERNEL_SETTINGS if setting.path in kernel]
    return [(setting, value) for setting, value in current if value != setting.value]


def selected(text: str) -> str:
    """Return the value in the text of a kernel file.

    Of a list of choices, it is the one in brackets.
    """
    _, bracket, rest = text.partition("[")
    return rest.partition("]")[0] if bracket else text.strip()


def _comment(setting: KernelSetting) -> str:
    return "".join(f"# {line}\n" for line in setting.why.splitlines())
