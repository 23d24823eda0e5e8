"""Kernel tuning: reported differences, and matching files for the next boot.

The differences are those of the running kernel.
"""

from redoubt import kernel_tuning
from redoubt.settings.model import Settings

KERNEL = {
    "/proc/sys/vm/overcommit_memory": "1",
    "/proc/sys/vm/swappiness": "1",
    "/proc/sys/net/core/somaxconn": "65535",
    kernel_tuning.THP: "always [madvise] never",
}


def test_tuned_kernel_has_no_differences() -> None:
    assert kernel_tuning.differences(KERNEL) == []


def test_each_different_value_is_reported() -> None:
    fresh = dict(zip(KERNEL, ("0", "60", "4096", "[always] madvise never"), strict=True))
    assert [(setting.path, now, setting.value) for setting, now in kernel_tuning.differences(fresh)] == [
        ("/proc/sys/vm/overcommit_memory", "0", "1"),
        ("/proc/sys/vm/swappiness", "60", "1"),
        ("/proc/sys/net/core/somaxconn", "4096", "65535"),
        (kernel_tuning.THP, "always", "madvise"),
    ]


def test_kernel_without_huge_pages_needs_none() -> None:
    assert kernel_tuning.differences({path: value for path, value in KERNEL.items() if path != kernel_tuning.THP}) == []


def test_boot_files_have_the_same_values() -> None:
    sysctls, pages = (file.content.splitlines() for file in kernel_tuning.files())
    assert [line for line in sysctls if line and not line.startswith("#")] == [
        "vm.overcommit_memory = 1",
        "vm.swappiness = 1",
        "net.core.somaxconn = 65535",
    ]
    assert [line for line in pages if line and not line.startswith("#")] == [f"w {kernel_tuning.THP} - - - - madvise"]


def test_somaxconn_allows_every_backlog() -> None:
    (maximum,) = [bound.le for bound in Settings.model_fields["redis_tcp_backlog"].metadata if hasattr(bound, "le")]
    assert [int(setting.value) for setting in kernel_tuning.SYSCTLS if setting.sysctl == "net.core.somaxconn"] == [
        maximum
    ]
