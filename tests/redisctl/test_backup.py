"""Creation of backups: files, metadata, and untrusted paths of Redis.

Redis is not trusted with paths. Needs no Docker.
"""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from redisctl.backup import catalog, create
from redisctl.backup.catalog import BackupSet
from redisctl.backup.create import create_backup
from redisctl.backup.verify import verify_backup
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from tests.redisctl.local_containers import local_containers
from tests.redisctl.local_redis import LocalRedis, load_local_instance

KEYS = 50


@pytest.fixture
def instance(redis: LocalRedis) -> Iterator[Instance]:
    """Give the instance with some sessions."""
    with redis.client() as client:
        for number in range(KEYS):
            client.set(f"app:session:{number}", "x", ex=7200)
        yield load_local_instance(redis.root)
        client.unlink(*(f"app:session:{number}" for number in range(KEYS)))


def modes(backup: BackupSet) -> set[tuple[str, int, int]]:
    status = [path.stat() for path in (backup.path, *backup.path.rglob("*"))]
    return {(oct(entry.st_mode), entry.st_uid, entry.st_gid) for entry in status}


def test_backup_is_complete_and_private(redis: LocalRedis, instance: Instance) -> None:
    backup = create_backup(instance)
    assert modes(backup) == {("0o40700", 999, 999), ("0o100400", 999, 999)}
    assert catalog.find_damage(backup) == []
    metadata = json.loads((backup.path / "backup.json").read_text())
    with redis.client(decode_responses=True) as client:
        assert metadata["version"] == client.info("server")["redis_version"]
    assert metadata["databases"]["db0"] == {"keys": KEYS, "expires": KEYS}
    assert (metadata["instance"], metadata["host"]) == (instance.name, socket.gethostname())
    assert backup.metadata.has_aof
    assert 0 < metadata["write_pause"] < 1
    assert "app:session" not in redis.redisctl("backup list").stdout


def test_large_keys_of_applications_spoil_no_backup(
    redis: LocalRedis, instance: Instance, image_root: Path, tmp_path: Path
) -> None:
    """A name of 5 MiB, SCAN steps above 16 MiB, streams of 3 million values.

    Applications may write all of this.
    """
    fields = {f"f{number}": "" for number in range(15)}
    strings = [f"app:session:{name}" for name in ("x" * 5 * 1024**2, *(f"{n}{'y' * 40_000}" for n in range(500)))]
    streams = [f"stream:{number}" for number in range(100)]
    with redis.client() as client:
        try:
            client.mset(dict.fromkeys(strings, ""))
            pipeline = client.pipeline(transaction=False)
            for number in range(1000):
                pipeline.xadd(streams[0], fields, f"1-{number}")
            pipeline.execute()
            for name in streams[1:]:
                client.copy(streams[0], name)
            backup = create_backup(instance)
            with local_containers(image_root, tmp_path):
                backup = verify_backup(instance, backup)
            assert backup.is_verified
            assert backup.metadata.stored_keys == KEYS + len(strings) + len(streams)
            samples = catalog.read_json(backup.path, catalog.SAMPLES)
            assert all(sample["digest"] for sample in samples if sample["type"] == "stream")
        finally:
            client.unlink(*strings, *streams)


def test_two_backups_in_one_second_have_two_names(instance: Instance) -> None:
    assert create_backup(instance).id != create_backup(instance).id


@pytest.mark.parametrize("name", ["appendonlydir/appendonly.aof.manifest", "appendonlydir"])
def test_backup_follows_no_link_of_redis(name: str, instance: Instance, tmp_path: Path) -> None:
    """A backup fails if a link replaces a file or a directory of Redis.

    Someone with Redis's uid could let the link point to something that only root can read.
    """
    path = instance.live / name
    real = path.with_name(f"{path.name}.real")
    path.rename(real)
    path.symlink_to(real)
    before = os.listdir(instance.backups)
    try:
        with pytest.raises(Failure, match=r"symbolic link|Not a directory"):
            create_backup(instance)
        assert os.listdir(instance.backups) == before
    finally:
        path.unlink()
        real.rename(path)


@pytest.mark.parametrize(
    "names",
    [
        {"appendonly": "no", "dbfilename": "../../secrets/admin"},
        {"appendonly": "yes", "appenddirname": "..", "appendfilename": "appendonly.aof"},
        {"appendonly": "yes", "appenddirname": "appendonlydir", "appendfilename": "../../../config/redis"},
    ],
)
def test_backup_copies_no_file_outside_of_data_live(
    names: dict[str, str], instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis cannot get a file of root through the names of its files.

    Redis answers with these names, and can read its backups.
    """
    monkeypatch.setattr(create, "_config", lambda *_: names)
    before = os.listdir(instance.backups)
    with pytest.raises(Failure, match="is not the name of a file"):
        create_backup(instance)
    assert os.listdir(instance.backups) == before
