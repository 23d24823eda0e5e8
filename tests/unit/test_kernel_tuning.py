"""Host tuning: what differs in the kernel is told, and what is right is left alone."""

from redoubt import kernel_tuning
from redoubt.settings.model import Settings

KERNEL = {
    "/proc/sys/vm/overcommit_memory": "1",
    "/proc/sys/vm/swappiness": "1",
    "/proc/sys/net/core/somaxconn": "65535",
    kernel_tuning.THP: "always [madvise] never",
}


def test_a_kernel_as_wanted_is_left_alone() -> None:
    assert kernel_tuning.differences(KERNEL) == []


def test_every_value_that_stands_otherwise_is_told_with_what_it_is() -> None:
    fresh = dict(zip(KERNEL, ("0", "60", "4096", "[always] madvise never"), strict=True))
    assert [(setting.path, now, setting.value) for setting, now in kernel_tuning.differences(fresh)] == [
        ("/proc/sys/vm/overcommit_memory", "0", "1"),
        ("/proc/sys/vm/swappiness", "60", "1"),
        ("/proc/sys/net/core/somaxconn", "4096", "65535"),
        (kernel_tuning.THP, "always", "madvise"),
    ]


def test_a_kernel_without_huge_pages_needs_none() -> None:
    assert kernel_tuning.differences({path: value for path, value in KERNEL.items() if path != kernel_tuning.THP}) == []


def test_the_files_for_the_next_boot_say_the_same() -> None:
    sysctls, pages = (file.content.splitlines() for file in kernel_tuning.files())
    assert [line for line in sysctls if line and not line.startswith("#")] == [
        "vm.overcommit_memory = 1",
        "vm.swappiness = 1",
        "net.core.somaxconn = 65535",
    ]
    assert [line for line in pages if line and not line.startswith("#")] == [f"w {kernel_tuning.THP} - - - - madvise"]


def test_the_ceiling_of_backlogs_is_above_every_backlog_that_can_be_set() -> None:
    (most,) = [bound.le for bound in Settings.model_fields["redis_tcp_backlog"].metadata if hasattr(bound, "le")]
    assert [int(setting.value) for setting in kernel_tuning.SYSCTLS if setting.sysctl == "net.core.somaxconn"] == [most]
