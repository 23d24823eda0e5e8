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
from redoubt import all_files, network_filter
from redoubt import instance as redoubt_instance
from redoubt.facts.host import parse_host_facts
from redoubt.secret_store import Secrets
from redoubt.settings.load import load
from tests.unit.good_host import PROBE

FILES = {
    "compose.yml": "services: {}\n",
    "config/redis.conf": "maxmemory 1gb\n",
    "config/tls/old.crt": "certificate\n",
    "secrets/sessions": "password\n",
    "network.nft": "table inet redoubt_redis\n",
    "network-watch.sh": "#!/bin/sh\n",
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
    for name in ("compose.yml", "config/redis.conf", "config/tls/new.crt", "network.nft", "network-watch.sh", "ca.crt"):
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


def test_file_that_replaced_a_directory_stays(instance: Instance) -> None:
    """A directory was in the way of a file, and a person has put the file back."""
    secret = instance.root / "secrets/admin"
    secret.unlink(missing_ok=True)
    secret.mkdir(parents=True)
    configuration.begin_replacing(instance, REQUEST)
    secret.rmdir()
    secret.write_text("password\n")
    configuration.put_back(instance)
    assert secret.read_text() == "password\n"
    assert not configuration.is_saved(instance)


def test_every_file_that_a_deploy_replaces_is_saved() -> None:
    """Files from two deploys do not fit together.

    An example is the script that watches a table of nftables.
    """
    settings = load({})
    secrets = Secrets(dict.fromkeys(("sessions", "queues", "health", "admin"), "x"), {"CONFIG": "c", "SHUTDOWN": "s"})
    deployed = redoubt_instance.Instance(settings, secrets, parse_host_facts(PROBE.splitlines()), version_checked=True)
    written = [Path(entry.path) for entry in all_files.of(deployed)]
    below = [path.relative_to(settings.root).parts for path in written if path.is_relative_to(settings.root)]
    names = {parts[0] for parts in below if parts}
    # What tasks write before tasks/rollback.py, and after Redis has started.
    before = {paths.MARKER, paths.PROGRAM, paths.DATA, paths.BACKUPS, paths.LOGS}
    after = {paths.PROGRAM_CONFIG, paths.DEPLOYED_SETTINGS}
    assert names - before - after == {*configuration._PARTS} - {"ca.crt"}


def test_units_of_the_network_fit_the_saved_files() -> None:
    """They are not put back, so they must not depend on what a deploy changes."""
    changes = {"redis_bind": ["10.0.0.5"], "redis_allow_from": ["10.0.0.0/8"], "redis_port": 7000, "redis_tls": "both"}
    old, new = ({file.path: file.content for file in network_filter.files(load(data))} for data in ({}, changes))
    assert {Path(path).name for path in old if old[path] != new[path]} <= {*configuration._PARTS}


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
