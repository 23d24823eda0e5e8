"""Tuning: the host's kernel does what Redis asks for, now and after the next boot."""

import re

import pytest
from testinfra.host import Host

from redoubt.settings.model import Settings
from tests.host import sysctl
from tests.host.host_under_test import quoted, until
from tests.host.proc import Kernel

# Written out by hand: what Redis's own documents ask for (administration, "Linux"; latency, "huge pages").
SYSCTLS = {"vm.overcommit_memory": "1", "vm.swappiness": "1", "net.core.somaxconn": "65535"}
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"


@pytest.mark.kernel
@pytest.mark.parametrize("name", SYSCTLS)
def test_kernel_is_set_up_for_redis(host: Host, name: str) -> None:
    """The running kernel's own answer."""
    assert host.file(f"/proc/sys/{name.replace('.', '/')}").content_string.strip() == SYSCTLS[name]


@pytest.mark.kernel
def test_huge_pages_are_given_only_to_who_asks(host: Host) -> None:
    """The kernel marks the choice by brackets."""
    assert "[madvise]" in host.file(HUGE_PAGES).content_string


@pytest.mark.kernel
@pytest.mark.parametrize("name", SYSCTLS)
def test_next_boot_sets_the_kernel_up_alike(host: Host, name: str) -> None:
    """As systemd would read all files of sysctl.d, whoever wrote them."""
    files = host.check_output("/usr/lib/systemd/systemd-sysctl --cat-config")
    assert sysctl.at_boot(files, name) == SYSCTLS[name]


@pytest.mark.kernel
def test_next_boot_sets_huge_pages_alike(host: Host) -> None:
    """By systemd-tmpfiles, which keeps the first line that it reads for a path: they are no sysctl."""
    files = host.check_output("systemd-tmpfiles --cat-config")
    named = re.findall(rf"^w\S*\s+{HUGE_PAGES}\s.*\s(\S+)$", files, re.MULTILINE)
    assert named[:1] == ["madvise"]


def test_backlog_is_the_one_of_the_settings(host: Host, settings: Settings, kernel: Kernel) -> None:
    """As the kernel has it for the listening socket: it cuts what is asked for to a ceiling, and says nothing."""
    pid = kernel.processes[-1].pid
    listing = host.check_output(f"nsenter --target {pid} --net ss --no-header --listening --tcp --numeric")
    backlogs = {fields[3]: int(fields[2]) for fields in map(str.split, listing.splitlines())}
    ports = {str(port.inside) for port in settings.ports}
    redis = {(port, backlog) for address, backlog in backlogs.items() if (port := address.rpartition(":")[2]) in ports}
    assert redis == {(port, settings.redis_tcp_backlog) for port in ports}


@pytest.mark.kernel
@pytest.mark.parametrize("unit", ["systemd-sysctl.service", "systemd-tmpfiles-setup.service"])
def test_next_boot_reads_these_files(host: Host, unit: str) -> None:
    """Neither masked nor taken out of the boot."""
    assert host.check_output(f"systemctl show --value --property LoadState {unit}") == "loaded"
    assert unit in host.check_output("systemctl show --value --property Wants sysinit.target").split()


def test_published_addresses_have_the_backlog_as_well(host: Host, settings: Settings) -> None:
    """The engine listens there in Redis's place, with the ceiling that it found when the container started."""
    ceiling = int(host.file("/proc/sys/net/core/somaxconn").content_string)
    wanted = settings.redis_tcp_backlog if settings.redis_host_tuning else min(settings.redis_tcp_backlog, ceiling)
    listing = host.check_output("ss --no-header --listening --tcp --numeric")
    queues = {
        fields[3].replace("[", "").replace("]", ""): int(fields[2]) for fields in map(str.split, listing.splitlines())
    }
    for port in settings.ports:
        for address in settings.redis_bind:
            assert queues[f"{address}:{port.published}"] >= wanted


def test_half_open_connections_have_room_as_well(host: Host, settings: Settings, kernel: Kernel) -> None:
    """On the host and in Redis's own network, by SYN cookies or else by three quarters of tcp_max_syn_backlog.

    With cookies the kernel does not look at that value (measured, docs/operations.md).
    """
    ask = "cat /proc/sys/net/ipv4/tcp_syncookies /proc/sys/net/ipv4/tcp_max_syn_backlog"
    for where in ("", f"nsenter --target {kernel.processes[-1].pid} --net "):
        cookies, most = map(int, host.check_output(where + ask).split())
        assert cookies or most * 3 // 4 >= settings.redis_tcp_backlog, (where, cookies, most)


@pytest.mark.kernel
@pytest.mark.disrupts
@pytest.mark.usefixtures("back_healthy")
def test_redis_finds_nothing_to_complain_of(host: Host, settings: Settings) -> None:
    """It looks at the kernel when it starts, and warns in its log of what it misses."""
    file = host.file(f"{settings.root}/logs/redis.log")
    before = len(file.content_string)
    host.check_output(f"docker restart {quoted(settings.redis_name)}")
    said = until(lambda: (text := file.content_string[before:]) and "Ready to accept connections" in text and text)
    assert re.findall(r"WARNING.*", said) == []
