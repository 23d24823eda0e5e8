"""Host tuning: what Redis asks of the kernel, now and at the next boot.

The kernel is the host's, and so are these values: all instances on a host want the same ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from redoubt.filesystem import DesiredFile

THP = "/sys/kernel/mm/transparent_hugepage/enabled"


@dataclass(frozen=True)
class KernelSetting:
    """A value of the kernel: the file that shows and takes it, what it should be, and why."""

    path: str
    value: str
    why: str

    @property
    def sysctl(self) -> str:
        """The name by which sysctl.d knows it."""
        return self.path.removeprefix("/proc/sys/").replace("/", ".")


SYSCTLS = (
    KernelSetting(
        "/proc/sys/vm/overcommit_memory",
        "1",
        "A save forks Redis, and the child could in theory copy all of its memory. With 0 the kernel may refuse the\n"
        "fork on a host that is more than half full, and then nothing is saved any more. Redis warns of it at start.",
    ),
    KernelSetting(
        "/proc/sys/vm/swappiness",
        "1",
        "As little swapping as there can be with swap on. Redis's container has no swap at all, but the rest of the\n"
        "host should not be swapped out either for the sake of files that a backup reads once. The default is 60.",
    ),
    KernelSetting(
        "/proc/sys/net/core/somaxconn",
        "65535",
        "The most that any listener gets of the backlog that it asks for. A ceiling costs nothing by itself, so it is\n"
        "that of redis_tcp_backlog. Compose sets the same in Redis's own network where the backlog needs it.",
    ),
)

# Redis at start: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled". With huge pages a write after a fork
# copies 2 MiB instead of 4 KiB.
HUGE_PAGES = KernelSetting(
    THP, "madvise", "Transparent huge pages make a save copy far more memory, and clients wait for it."
)

KERNEL_SETTINGS = (*SYSCTLS, HUGE_PAGES)

SYSCTL_FILE = "/etc/sysctl.d/99-redoubt.conf"
# Early by its name: of several lines for one path systemd-tmpfiles keeps the first; of sysctl.d the last one wins.
TMPFILES_FILE = "/etc/tmpfiles.d/00-redoubt.conf"

# What a new network namespace starts with (kernel 5.4 and later): Redis's own listens in one.
DEFAULT_SOMAXCONN = 4096

_HEADER = "# What Redis asks of the kernel, written by Redoubt. A deploy overwrites changes made here.\n"


def files() -> list[DesiredFile]:
    """The files by which systemd sets the kernel up at boot: one of sysctl.d, one of tmpfiles.d."""
    sysctls = "".join(f"\n{_comment(setting)}{setting.sysctl} = {setting.value}\n" for setting in SYSCTLS)
    pages = f"\n{_comment(HUGE_PAGES)}w {HUGE_PAGES.path} - - - - {HUGE_PAGES.value}\n"
    return [
        DesiredFile(SYSCTL_FILE, _HEADER + sysctls, mode=0o644, uid=0, gid=0),
        DesiredFile(TMPFILES_FILE, _HEADER + pages, mode=0o644, uid=0, gid=0),
    ]


def differences(kernel: Mapping[str, str]) -> list[tuple[KernelSetting, str]]:
    """The settings that stand otherwise, with what they say; ``kernel`` maps paths to what is read there.

    What the kernel does not have is left out: one built without huge pages needs nothing.
    """
    found = [(setting, chosen(kernel[setting.path])) for setting in KERNEL_SETTINGS if setting.path in kernel]
    return [(setting, now) for setting, now in found if now != setting.value]


def chosen(text: str) -> str:
    """A value as the kernel shows it: of a list, the one in brackets."""
    _, opened, rest = text.partition("[")
    return rest.partition("]")[0] if opened else text.strip()


def _comment(setting: KernelSetting) -> str:
    return "".join(f"# {line}\n" for line in setting.why.splitlines())
