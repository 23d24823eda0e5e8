"""Isolation: what a taken-over Redis has in reach, past what test_service.py says of its privileges and limits."""

from typing import Any

import pytest

from redoubt.settings.model import Settings
from tests.host.proc import Kernel

pytestmark = pytest.mark.security("container isolation")


def test_nothing_of_the_host_is_mounted_but_the_instances_own(settings: Settings, container: dict[str, Any]) -> None:
    """Read-only, a directory of the host would still be read."""
    foreign = [mount["Source"] for mount in container["Mounts"] if not mount["Source"].startswith(f"{settings.root}/")]
    assert foreign == []


@pytest.mark.parametrize("point", ["/sys", "/proc/sys", "/proc/bus", "/proc/irq"])
def test_the_kernels_settings_are_read_only(kernel: Kernel, point: str) -> None:
    """As mounts: root in the container would meet a wall there, too."""
    assert [mount.writable for mount in kernel.mounts if mount.point == point] == [False]


@pytest.mark.parametrize("point", ["/proc/keys", "/sys/firmware"])
def test_the_kernels_secrets_are_covered(kernel: Kernel, point: str) -> None:
    """Something else is mounted over the keys of the kernel and the firmware's tables."""
    assert [mount.filesystem for mount in kernel.mounts if mount.point == point] == ["tmpfs"]


@pytest.mark.parametrize(
    ("option", "safe"),
    [
        # Nobody's: neither the host's nor another container's.
        ("PidMode", ""),
        ("UTSMode", ""),
        ("IpcMode", "private"),
        # Devices, groups and volumes that come by other ways than the usual ones.
        ("DeviceCgroupRules", None),
        ("DeviceRequests", None),
        ("GroupAdd", None),
        ("VolumesFrom", None),
    ],
)
def test_engine_was_given_no_way_around(container: dict[str, Any], option: str, safe: str | None) -> None:
    """Options that would open a door beside the mounts and the capabilities."""
    assert (container["HostConfig"][option] or None) == (safe or None)


def test_no_filter_is_turned_off(container: dict[str, Any]) -> None:
    """Neither seccomp nor AppArmor nor SELinux: where the host has one, it stays in force."""
    assert container["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]
    assert container["AppArmorProfile"] != "unconfined"
