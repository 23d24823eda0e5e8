"""The journal of a transaction: written whole and read back.

It is never trusted as more than a regular file.
"""

import json
import os
from pathlib import Path

import pytest

from redisctl import paths
from redisctl.core import journal
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.core.journal import Journal, Kind, Stage


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    """Return an instance with its directory of data."""
    (tmp_path / paths.DATA).mkdir()
    return Instance(name="redis", root=tmp_path, session_keys="")


def test_journal_is_read_as_it_was_written(instance: Instance) -> None:
    assert journal.read(instance) is None
    record = journal.begin(instance, "restore of x", Kind.DATA, restart_policy="always", staged="data/staging/new")
    assert record.stage is Stage.PREPARED
    assert journal.read(instance) == record


@pytest.mark.parametrize("stage", Stage)
def test_journal_records_every_stage(instance: Instance, stage: Stage) -> None:
    record = journal.begin(instance, "upgrade", Kind.SERVICE, request={"image": "redis:8", "recreate": ["web"]})
    advanced = journal.advance(instance, record, stage, previous="data/previous/x")
    assert journal.read(instance) == advanced
    assert (advanced.stage, advanced.previous, advanced.request) == (stage, "data/previous/x", record.request)


def test_journal_is_for_root_alone(instance: Instance) -> None:
    journal.begin(instance, "restore", Kind.DATA)
    status = (instance.root / paths.JOURNAL).stat()
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o400, os.geteuid(), os.getegid())


def test_second_transaction_is_refused(instance: Instance) -> None:
    record = journal.begin(instance, "restore of x", Kind.DATA)
    journal.advance(instance, record, Stage.STASHING)
    with pytest.raises(
        Failure, match="restore of x was interrupted while stashing the old data: run 'redisctl recover'"
    ):
        journal.begin(instance, "repair", Kind.DATA)
    stored = journal.read(instance)
    assert stored is not None
    assert stored.operation == "restore of x"


def test_journal_is_on_disk_before_the_next_step(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is synced before it gets its name, and its directory after.

    A power cut leaves the old or the new journal.
    """
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        names = sorted(path.name for path in instance.data.iterdir())
        synced.append(f"{Path(os.readlink(f'/proc/self/fd/{descriptor}')).name} with {names}")

    monkeypatch.setattr(os, "fsync", fsync)
    record = journal.begin(instance, "restore", Kind.DATA)
    partial = ".journal.json.new with ['.journal.json.new', 'journal.json']"
    assert synced == [partial.replace(", 'journal.json'", ""), "data with ['journal.json']"]
    synced.clear()
    journal.advance(instance, record, Stage.STASHING)
    assert synced == [partial, "data with ['journal.json']"]
    synced.clear()
    journal.end(instance)
    assert synced == ["data with []"]


def test_finished_transaction_leaves_no_journal(instance: Instance) -> None:
    journal.begin(instance, "restore", Kind.DATA)
    journal.end(instance)
    assert list(instance.data.iterdir()) == []
    journal.ensure_none(instance)
    # A recovery that was interrupted after that ends it again.
    journal.end(instance)


def test_host_without_the_instance_has_no_journal(tmp_path: Path) -> None:
    assert journal.read(Instance("redis", tmp_path / "missing", "")) is None
    (tmp_path / "data").write_text("")
    assert journal.read(Instance("redis", tmp_path, "")) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"operation": "x", "kind": "data", "stage": "unknown", "started": 1.0}',
        '{"operation": "x", "kind": "other", "stage": "starting", "started": 1.0}',
        '{"operation": "x", "kind": "data", "stage": ["starting"], "started": 1.0}',
        '{"operation": "x", "kind": "data", "stage": "starting", "started": "today"}',
        "[" * 100_000,
        "\xff",
    ],
)
def test_damaged_journal_is_a_failure(instance: Instance, text: str) -> None:
    """Nothing may start Redis on files that a transaction left in an unknown state."""
    (instance.root / paths.JOURNAL).write_bytes(text.encode("latin-1"))
    with pytest.raises(Failure, match=r"journal\.json cannot be read: .*\. If another release wrote it, deploy with"):
        journal.read(instance)
    with pytest.raises(Failure, match=r"journal\.json cannot be read: "):
        journal.begin(instance, "repair", Kind.DATA)


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_journal_that_is_no_regular_file_is_a_failure(instance: Instance, tmp_path: Path, kind: str) -> None:
    path = instance.root / paths.JOURNAL
    target = tmp_path / "target"
    target.write_text(json.dumps({"operation": "x", "kind": "data", "stage": "starting", "started": 1.0}))
    match kind:
        case "link":
            path.symlink_to(target)
        case "fifo":
            os.mkfifo(path)
        case _:
            path.mkdir()
    with pytest.raises(Failure, match=r"journal\.json cannot be read: "):
        journal.read(instance)


def test_journal_of_another_release_is_read(instance: Instance) -> None:
    values = {"schema": 2, "operation": "x", "kind": "data", "stage": "starting", "started": 1, "new": {"a": [1]}}
    (instance.root / paths.JOURNAL).write_text(json.dumps(values))
    assert journal.read(instance) == Journal("x", Kind.DATA, Stage.STARTING, 1.0)


def test_full_disk_is_a_failure(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "write_json", write)
    with pytest.raises(Failure, match=r"journal\.json cannot be written: No space left on device"):
        journal.begin(instance, "restore", Kind.DATA)
