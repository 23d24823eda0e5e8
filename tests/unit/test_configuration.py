"""The configuration that a deploy saves before it replaces files.

It is put back after an interruption.
"""

import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from redisctl import paths
from redisctl.core import docker, journal, process
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.core.journal import Kind, Stage
from redisctl.deploy import configuration
from redisctl.schema import ReplaceRequest

FILES = {
    "compose.yml": "services: {}\n",
    "config/redis.conf": "maxmemory 1gb\n",
    "config/tls/old.crt": "certificate\n",
    "secrets/sessions": "password\n",
    "network.nft": "table inet redoubt_redis\n",
}
REQUEST = ReplaceRequest("0123")


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    """Return an instance with old files, on a host whose programs do nothing."""
    monkeypatch.setattr(docker, "container", lambda _: {"Image": "sha256:1", "Config": {"Image": "redis:8"}})
    monkeypatch.setattr(process, "run", lambda command, **_: CompletedProcess(command, 0, "", ""))
    (tmp_path / "data").mkdir()
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1e9, 1e9))
    return Instance("redis", tmp_path, "")


def replace_files(instance: Instance) -> None:
    """Do what a deploy does: write other files and new ones, and remove one."""
    for name in ("compose.yml", "config/redis.conf", "config/tls/new.crt", "network.nft", "ca.crt"):
        (instance.root / name).write_text("new\n")
    (instance.root / "config/tls/old.crt").unlink()


def read(instance: Instance) -> dict[str, tuple[str, float]]:
    """Return the contents and the times of all files."""
    paths_ = (path for path in instance.root.rglob("*") if path.is_file())
    return {str(path.relative_to(instance.root)): (path.read_text(), path.stat().st_mtime) for path in paths_}


def test_replaced_files_are_put_back(instance: Instance) -> None:
    before = read(instance)
    configuration.begin_replacing(instance, REQUEST)
    record = configuration.replacing(instance)
    assert record is not None
    assert (record.stage, record.run, configuration.saved_image(instance)) == (
        Stage.REPLACING_FILES,
        "0123",
        ("sha256:1", "redis:8"),
    )
    replace_files(instance)
    assert read(instance) != before
    configuration.put_back(instance)
    assert read(instance) == before
    # A recovery that was interrupted after that does nothing more.
    configuration.put_back(instance)
    assert read(instance) == before


def test_interrupted_put_back_is_repeated(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read(instance)
    configuration.begin_replacing(instance, REQUEST)
    replace_files(instance)
    restore_part: Callable[..., None] = configuration._restore_part

    def fail_at_secrets(source: Path, target: Path) -> None:
        if target.name == paths.SECRETS:
            raise OSError(28, "No space left on device", str(target))
        restore_part(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(configuration, "_restore_part", fail_at_secrets)
        with pytest.raises(Failure, match=r"the previous configuration cannot be put back: .*secrets: No space left"):
            configuration.put_back(instance)
    assert configuration.replacing(instance)
    configuration.put_back(instance)
    assert read(instance) == before


def test_saved_files_of_a_finished_deploy_are_not_used(instance: Instance) -> None:
    """A power cut may leave them after the journal has ended."""
    configuration.begin_replacing(instance, REQUEST)
    journal.end(instance)
    replace_files(instance)
    after = read(instance)["compose.yml"]
    configuration.begin_replacing(instance, REQUEST)
    configuration.put_back(instance)
    assert read(instance)["compose.yml"] == after


def test_interrupted_transaction_is_not_replaced(instance: Instance) -> None:
    journal.begin(instance, "restore of x", Kind.DATA)
    with pytest.raises(Failure, match="restore of x was interrupted"):
        configuration.begin_replacing(instance, REQUEST)
    assert not configuration.is_saved(instance)


def test_full_disk_leaves_nothing_saved(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = read(instance)
    monkeypatch.setattr(configuration, "_copy", full)
    with pytest.raises(Failure, match=r"cannot be saved, and nothing was changed: .*No space left"):
        configuration.begin_replacing(instance, REQUEST)
    assert read(instance) == before
    journal.ensure_none(instance)
