"""Isolation: what a compromised Redis can reach.

test_service.py checks its privileges and limits.
"""

from pathlib import PurePosixPath
from typing import Any

import pytest
from testinfra.host import Host

from redisctl import paths
from redoubt.settings.model import Settings
from tests.host.host_under_test import Target, quoted
from tests.host.proc import Kernel

pytestmark = pytest.mark.security("container isolation")


# What a Redis that was taken over can put in the place of its files. Prints what redisctl reads, as root.
LINK_ATTACKS = """
import os, pathlib, sys
program, directory, uid, gid = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
sys.path.insert(0, program)
from redisctl.core.untrusted_files import UntrustedDirectory

root, live = directory / "root", directory / "live"
root.mkdir()
live.mkdir()
for path in (root / "file", root / "other", live / "plain"):
    path.write_text("x")
    path.chmod(0o600)
os.chown(live / "plain", uid, gid)
(live / "link").symlink_to(root / "file")
(live / "directory").symlink_to(root)
os.link(root / "other", live / "hard link")
os.mkfifo(live / "fifo")
os.mknod(live / "device", 0o600 | 0o020000, os.makedev(1, 5))
for names in (["plain"], ["link"], ["directory", "file"], ["hard link"], ["fifo"], ["device"], ["..", "root", "file"]):
    try:
        with UntrustedDirectory(live, (uid, gid)).open_file(*names) as file:
            file.read(1)
        print("/".join(names))
    except OSError:
        pass
"""
# Below the instance's root: where only root works, on restores, imports, repairs and upgrades.
WORKING_PATHS = (paths.PREVIOUS, paths.STAGING, paths.ROLLBACK_DATA, paths.JOURNAL, paths.ROLLBACK_CONFIG)


def test_only_directories_of_the_instance_are_mounted(settings: Settings, container: dict[str, Any]) -> None:
    """No mount comes from outside the instance's root.

    Redis could read any other directory of the host even if it were mounted read-only.
    """
    foreign = [mount["Source"] for mount in container["Mounts"] if not mount["Source"].startswith(f"{settings.root}/")]
    assert foreign == []


@pytest.mark.parametrize("path", WORKING_PATHS)
def test_no_mount_contains_working_data(settings: Settings, container: dict[str, Any], path: str) -> None:
    """No mount's source is above, at or below a path that only root works with."""
    working = PurePosixPath(settings.root, path)
    sources = {PurePosixPath(mount["Source"]) for mount in container["Mounts"]}
    assert sources
    assert [source for source in sources if working.is_relative_to(source) or source.is_relative_to(working)] == []


def test_kernel_shows_no_working_data_in_the_container(
    host: Host, settings: Settings, container: dict[str, Any], kernel: Kernel
) -> None:
    """No mount point is root's working data or a directory above it.

    The test compares device and inode, as the kernel shows them.
    """
    data = PurePosixPath(settings.root, paths.DATA)
    hidden = [data, *data.parents, *(f"{settings.root}/{path}" for path in WORKING_PATHS)]
    mounted = [f"/proc/{container['State']['Pid']}/root{mount.point}" for mount in kernel.mounts]
    identify = "stat --dereference --format '%d:%i'"
    hidden_identities = host.run(f"{identify} {quoted(*map(str, hidden))}").stdout.split()
    mounted_identities = host.run(f"{identify} {quoted(*mounted)}").stdout.split()
    assert len(hidden_identities) > len(data.parents), "ROOT/data and the directories above it exist"
    assert mounted_identities
    assert set(hidden_identities) & set(mounted_identities) == set()


def test_redisctl_follows_no_link_of_redis(target: Target, settings: Settings) -> None:
    """The installed redisctl opens a file of Redis, and nothing put in its place.

    The files are in a private directory in memory, which is removed.
    """
    program = quoted(f"{settings.root}/{paths.PROGRAM}")
    result = target.run(
        "directory=$(mktemp -d /run/redoubt-audit.XXXXXX) || exit; trap 'rm -rf \"$directory\"' EXIT; "
        f'timeout 20 python3 -I - {program} "$directory" {settings.redis_uid} {settings.redis_gid}',
        stdin=LINK_ATTACKS,
    )
    assert (result.returncode, result.stdout) == (0, "plain\n"), result.stderr


@pytest.mark.parametrize("point", ["/sys", "/proc/sys", "/proc/bus", "/proc/irq"])
def test_the_kernels_settings_are_read_only(kernel: Kernel, point: str) -> None:
    """They are mounted read-only, so not even root in the container can change them."""
    assert [mount.writable for mount in kernel.mounts if mount.point == point] == [False]


@pytest.mark.parametrize("point", ["/proc/keys", "/sys/firmware"])
def test_the_kernels_secrets_are_covered(kernel: Kernel, point: str) -> None:
    """An empty file system covers the kernel's keys and the firmware's tables."""
    assert [mount.filesystem for mount in kernel.mounts if mount.point == point] == ["tmpfs"]


@pytest.mark.parametrize(
    ("option", "safe"),
    [
        # Shared neither with the host nor with another container.
        ("PidMode", ""),
        ("UTSMode", ""),
        ("IpcMode", "private"),
        # Further ways to give a container devices, groups and volumes.
        ("DeviceCgroupRules", None),
        ("DeviceRequests", None),
        ("GroupAdd", None),
        ("VolumesFrom", None),
        # The limits and the mapping of users are those of Docker.
        ("CgroupParent", ""),
        ("UsernsMode", ""),
    ],
)
def test_docker_options_grant_nothing_else(container: dict[str, Any], option: str, safe: str | None) -> None:
    """Besides mounts and capabilities, these options could open a way to the host."""
    assert (container["HostConfig"][option] or None) == (safe or None)


def test_no_filter_is_turned_off(container: dict[str, Any]) -> None:
    """seccomp, AppArmor and SELinux stay in force where the host has them."""
    assert container["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]
    assert container["AppArmorProfile"] != "unconfined"


@pytest.mark.kernel
def test_apparmor_confines_redis(host: Host, kernel: Kernel) -> None:
    """Every process has Docker's profile if the kernel has AppArmor.

    Docker says so even if the host lacks the package apparmor, without which it loads no profile.
    """
    is_enabled = host.run("cat /sys/module/apparmor/parameters/enabled").stdout.strip() == "Y"
    unconfined = [process.name for process in kernel.processes if process.status["Label"] != "docker-default (enforce)"]
    assert not is_enabled or unconfined == [], "install the package apparmor, then restart Redis"


def test_selinux_confines_redis_if_docker_uses_it(host: Host, container: dict[str, Any]) -> None:
    """The container has a label of its own."""
    modules = host.check_output("docker info --format '{{json .SecurityOptions}}'")
    assert bool(container["ProcessLabel"]) == ("name=selinux" in modules)


def test_no_mount_propagates_to_the_host(container: dict[str, Any]) -> None:
    """A mount made in the container does not appear on the host, nor vice versa."""
    mounts = {mount["Destination"]: mount["Propagation"] for mount in container["Mounts"] if mount["Type"] == "bind"}
    assert mounts
    assert {path: mode for path, mode in mounts.items() if mode not in ("rprivate", "private")} == {}
