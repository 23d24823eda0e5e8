"""Tuning: the kernel settings that Redis needs, now and after the next boot."""

import re

import pytest
from testinfra.host import Host

from redoubt.settings.model import Settings
from tests.host import sysctl
from tests.host.host_under_test import by_redis, quoted, until
from tests.host.proc import Kernel

# From Redis's documentation (administration, "Linux"; latency, "huge pages"), and not from redoubt's code.
SYSCTLS = {"vm.overcommit_memory": "1", "vm.swappiness": "1", "net.core.somaxconn": "65535"}
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"


@pytest.mark.kernel
@pytest.mark.parametrize("name", SYSCTLS)
def test_kernel_has_the_setting(host: Host, name: str) -> None:
    """The running kernel has the value."""
    assert host.file(f"/proc/sys/{name.replace('.', '/')}").content_string.strip() == SYSCTLS[name]


@pytest.mark.kernel
def test_huge_pages_are_only_used_on_request(host: Host) -> None:
    """The kernel marks the active mode with brackets."""
    assert "[madvise]" in host.file(HUGE_PAGES).content_string


@pytest.mark.kernel
@pytest.mark.parametrize("name", SYSCTLS)
def test_next_boot_applies_the_setting(host: Host, name: str) -> None:
    """All files of sysctl.d together, as systemd reads them, result in the value."""
    files = host.check_output("/usr/lib/systemd/systemd-sysctl --cat-config")
    assert sysctl.at_boot(files, name) == SYSCTLS[name]


@pytest.mark.kernel
def test_next_boot_applies_the_huge_pages_mode(host: Host) -> None:
    """systemd-tmpfiles writes the mode, which is no sysctl.

    It uses the first line that it reads for a path.
    """
    files = host.check_output("systemd-tmpfiles --cat-config")
    modes = re.findall(rf"^w\S*\s+{HUGE_PAGES}\s.*\s(\S+)$", files, re.MULTILINE)
    assert modes[:1] == ["madvise"]


def test_redis_has_the_configured_backlog(host: Host, settings: Settings, kernel: Kernel) -> None:
    """Redis's own sockets have the backlog of the settings.

    The kernel silently limits the backlog of a socket to a ceiling, so the test reads the socket's own value.
    """
    pid = kernel.processes[-1].pid
    listing = host.check_output(f"nsenter --target {pid} --net ss --no-header --listening --tcp --numeric")
    backlogs = {fields[3]: int(fields[2]) for fields in map(str.split, listing.splitlines())}
    ports = {str(port.inside) for port in settings.ports}
    redis = {(port, backlog) for address, backlog in backlogs.items() if (port := address.rpartition(":")[2]) in ports}
    assert redis == {(port, settings.redis_tcp_backlog) for port in ports}


@pytest.mark.kernel
@pytest.mark.parametrize("unit", ["systemd-sysctl.service", "systemd-tmpfiles-setup.service"])
def test_next_boot_runs_the_unit(host: Host, unit: str) -> None:
    """The unit that reads these files is neither masked nor removed from the boot."""
    assert host.check_output(f"systemctl show --value --property LoadState {unit}") == "loaded"
    assert unit in host.check_output("systemctl show --value --property Wants sysinit.target").split()


def test_published_ports_have_the_configured_backlog(host: Host, settings: Settings) -> None:
    """The published ports have at least the backlog of the settings.

    Docker listens there in Redis's place, with the ceiling of the time when the container started.
    """
    ceiling = int(host.file("/proc/sys/net/core/somaxconn").content_string)
    expected = settings.redis_tcp_backlog if settings.redis_host_tuning else min(settings.redis_tcp_backlog, ceiling)
    listing = host.check_output("ss --no-header --listening --tcp --numeric")
    queues = {
        fields[3].replace("[", "").replace("]", ""): int(fields[2]) for fields in map(str.split, listing.splitlines())
    }
    for port in settings.ports:
        for address in settings.redis_bind:
            assert queues[f"{address}:{port.published}"] >= expected


def test_half_open_connections_fit_the_backlog(host: Host, settings: Settings, kernel: Kernel) -> None:
    """SYN cookies or tcp_max_syn_backlog leave enough room for the backlog.

    Three quarters of tcp_max_syn_backlog count, on the host and in Redis's network. With SYN cookies the kernel ignores
    tcp_max_syn_backlog (measured, docs/operations.md).
    """
    read = "cat /proc/sys/net/ipv4/tcp_syncookies /proc/sys/net/ipv4/tcp_max_syn_backlog"
    for prefix in ("", f"nsenter --target {kernel.processes[-1].pid} --net "):
        cookies, limit = map(int, host.check_output(prefix + read).split())
        assert cookies or limit * 3 // 4 >= settings.redis_tcp_backlog, (prefix, cookies, limit)


@pytest.mark.kernel
@pytest.mark.disrupts
@pytest.mark.usefixtures("back_healthy")
def test_redis_logs_no_kernel_warning(host: Host, settings: Settings) -> None:
    """Redis logs no warning when it starts.

    It checks the kernel then, and warns about each missing setting.
    """
    size = int(host.check_output(f"stat -c %s {quoted(settings.root)}/logs/redis.log"))
    read = by_redis(settings, f"tail -c +{size + 1} logs/redis.log | head -c 1048576")
    host.check_output(f"docker restart {quoted(settings.redis_name)}")
    log = until(lambda: (text := host.check_output(read)) and "Ready to accept connections" in text and text)
    assert re.findall(r"WARNING.*", log) == []
