"""Mount points of an instance without a disk, as systemd reports them."""

from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from redisctl.core import mounts, process
from redisctl.core.errors import Failure

# By path: what ``systemctl show`` prints of its mount unit, in either order.
UNITS = {
    # Unknown, or unmounted by hand.
    "/srv": "FragmentPath=\nActiveState=inactive",
    "/srv/redis": "ActiveState=active\nFragmentPath=/run/systemd/generator/x.mount",
    "/srv/redis/data": "FragmentPath=/run/systemd/generator/x.mount\nActiveState=failed",
    "/srv/redis/backups": "FragmentPath=/run/systemd/generator/x.mount\nActiveState=inactive",
}


def systemctl(command: list[str], **_: Any) -> CompletedProcess[str]:
    blocks = (UNITS.get(word, UNITS["/srv"]) for word in command if word.startswith("/"))
    return CompletedProcess(command, 0, "\n\n".join(blocks) + "\n", "")


def test_mount_points_without_a_disk_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "run", systemctl)
    assert mounts.unmounted(Path("/srv/redis")) == ("/srv/redis/data", "/srv/redis/backups")
    assert mounts.unmounted(Path("/opt/cache")) == ()
    with pytest.raises(Failure, match="run 'mount /srv/redis/data' on the host"):
        mounts.ensure_mounted(Path("/srv/redis"))
    mounts.ensure_mounted(Path("/opt/cache"))


def test_host_without_systemd_has_no_mount_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "run", lambda command: CompletedProcess(command, 1, "", "not booted with systemd"))
    assert mounts.unmounted(Path("/srv/redis")) == ()
