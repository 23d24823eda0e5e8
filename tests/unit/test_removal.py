"""Removal: what belongs to an instance on its host, and what blocks its removal."""

import os
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from redisctl import paths
from redisctl.core import instance as host_instance
from redisctl.core import mounts, process
from redisctl.core.errors import Failure
from redisctl.deploy import lifecycle
from redisctl.schema import Container, InstanceState, InterruptedTransaction, Network, UnitState
from redoubt import all_files, removal
from redoubt.facts.host import parse_host_facts
from redoubt.filesystem import AbsentPath, DesiredFile
from redoubt.instance import Instance
from redoubt.removal import blockers, removable
from redoubt.secret_store import Secrets
from redoubt.settings.load import load
from tests.unit.good_host import PROBE

SETTINGS = load({})
LOADED = UnitState(present=True, active=True, enabled=True, outdated=False)
FINISHED = UnitState(present=True, active=False, enabled=False, outdated=False)


def container(name: str, status: str) -> Container:
    """Return a container of the project."""
    return Container(name, name, "abc", "sha256:1", status, None, 0.0, frozenset(), {})


PRESENT = InstanceState(
    containers=(container("redis", "running"), container("redis-web-1", "exited")),
    networks={"redis_backend": Network(internal=True, masquerade=False, members=frozenset())},
    units={"redis-backup.timer": LOADED, "redis-backup.service": FINISHED},
    sizes={"/srv/redis/data": 12288, "/srv/redis/compose.yml": 4},
)


def test_running_containers_are_those_that_are_not_stopped() -> None:
    assert removal.running(PRESENT) == ["redis"]
    paused = replace(PRESENT, containers=(container("redis", "paused"), container("web", "created")))
    assert removal.running(paused) == ["redis"]


def test_data_is_removed_only_if_asked() -> None:
    assert removable(SETTINGS, PRESENT, data=False) == [
        "container redis",
        "container redis-web-1",
        "network redis_backend",
        "unit redis-backup.timer",
        "/srv/redis/compose.yml",
    ]
    assert removal.kept(SETTINGS, PRESENT) == ["/srv/redis/data (12.0 MiB)"]
    assert "/srv/redis/data" in removable(SETTINGS, PRESENT, data=True)
    assert removable(SETTINGS, InstanceState(sizes={"/srv/redis/data": 4}), data=False) == []


def test_every_file_of_an_instance_is_removed() -> None:
    """By its own path, or in a directory that is removed."""
    settings = load(
        {
            "redis_name": "queue",
            "redis_backup_restic_repository": "/srv/copies",
            "redis_unix_socket": True,
            "redis_allow_from": ["10.0.0.0/8"],
            "redis_host_tuning": False,
        }
    )
    secrets = Secrets(
        dict.fromkeys(("sessions", "queues", "health", "admin", "default"), "x"), {"CONFIG": "c", "SHUTDOWN": "s"}
    )
    instance = Instance(settings, secrets, parse_host_facts(PROBE.splitlines()), version_checked=True)
    written = {entry.path for entry in all_files.of(instance) if not isinstance(entry, AbsentPath)}
    removed = [str(path) for path in paths.removable("queue", Path(settings.root), data=True)]
    remaining = {path for path in written if not any(path == top or path.startswith(f"{top}/") for top in removed)}
    assert remaining == {settings.root}
    assert len(written) > 20
    without_data = {str(path) for path in paths.removable("queue", Path(settings.root), data=False)}
    assert not {"/srv/queue/data", "/srv/queue/backups"} & without_data
    # By their first line after the interpreter, the next deploy knows the files that have the name of the instance.
    outside = {entry.path: entry for entry in all_files.of(instance) if isinstance(entry, DesiredFile)}
    for path in paths.outside_root("queue"):
        assert "written by Redoubt" in str(outside[path].content).removeprefix("#!/bin/sh\n").partition("\n")[0]


@pytest.mark.parametrize(
    ("confirmation", "changes", "message"),
    [
        ("yes", {}, 'use --data redis_remove_data="delete the data of redis"'),
        ("delete the data of queue", {}, "removes nothing"),
        (
            "",
            {"interrupted": InterruptedTransaction("restore of latest", "stopped")},
            "restore of latest was interrupted: run /usr/local/sbin/redisctl recover",
        ),
    ],
)
def test_blocker_of_a_removal_is_reported(confirmation: str, changes: dict[str, Any], message: str) -> None:
    (blocker,) = blockers(SETTINGS, replace(PRESENT, **changes), confirmation)
    assert message in blocker
    assert blockers(SETTINGS, PRESENT, removal.sentence(SETTINGS)) == blockers(SETTINGS, PRESENT, "") == []


def instance_on_a_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> host_instance.Instance:
    """Return an instance without containers, whose data is on a disk of its own."""
    for name in ("lost+found", "live/appendonlydir"):
        (root / paths.DATA / name).mkdir(parents=True)
    is_mount = os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda path: path == root / paths.DATA or is_mount(path))
    monkeypatch.setattr(process, "run", lambda command, **_: CompletedProcess(command, 0, "", ""))
    return host_instance.Instance("redis", root, "")


def test_removal_empties_a_disk_and_keeps_its_mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lifecycle.remove(instance_on_a_disk(tmp_path, monkeypatch), data=True)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["data", "data/lost+found"]


def test_disk_inside_a_removed_directory_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a network share in the directory of backups."""
    share = tmp_path / "backups/other share"
    (share / "precious").mkdir(parents=True)
    instance = instance_on_a_disk(tmp_path, monkeypatch)
    mounted = [tmp_path / "data", Path("/"), share]
    lines = [f"36 35 0:31 / {str(path).replace(' ', chr(92) + '040')} rw - tmpfs tmpfs rw" for path in mounted]
    monkeypatch.setattr(mounts, "_MOUNTS", tmp_path / "mountinfo")
    (tmp_path / "mountinfo").write_text("\n".join(lines))
    assert mounts.inside([tmp_path / "backups", share]) == [share]
    with pytest.raises(Failure, match=r"nothing was removed: .*/backups/other share is a mount point"):
        lifecycle.remove(instance, data=True)
    assert (tmp_path / "data/live").is_dir()
    assert (share / "precious").is_dir()


@pytest.mark.parametrize("data", [True, False])
def test_removal_during_an_import_is_refused(data: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal during an import is refused and removes nothing.

    The copy and the password of the source would stay, and nothing could remove them after redisctl is gone.
    """
    (tmp_path / paths.IMPORT).mkdir()
    for name in ("run", "check"):
        monkeypatch.setattr(process, name, lambda *command, **_: pytest.fail(f"ran {command}"))
    with pytest.raises(Failure, match="nothing was removed: an import is running: run 'redisctl import finish --yes'"):
        lifecycle.remove(host_instance.Instance("redis", tmp_path, ""), data=data)
    assert (tmp_path / paths.IMPORT).is_dir()
