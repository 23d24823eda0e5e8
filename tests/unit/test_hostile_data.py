"""Data from elsewhere and scratch servers cannot lead root to other files.

A scratch Redis and the checkers of its image load data that is not trusted, and can write in the staged directory.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from redisctl import paths
from redisctl.backup import catalog
from redisctl.core import aof_manifest
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.core.trial import Source
from redisctl.data import file_check, layout, point_in_time, repair, restore
from redisctl.deploy import upgrade

SECRET = b"root only"
MANIFEST = "file appendonly.aof.1.base.rdb seq 1 type b\nfile appendonly.aof.1.incr.aof seq 1 type i\n"
PARTS = aof_manifest.parse(MANIFEST)


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """Fail if something waited, as opening a FIFO would."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 20


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """Give a file that only root may read, and that must not change."""
    path = tmp_path / "shadow"
    path.write_bytes(SECRET)
    yield path
    assert path.read_bytes() == SECRET
    assert path.stat().st_uid == 0


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    """Give an instance with the AOF on and some data."""
    instance = Instance("redis", tmp_path / "root", "")
    for name in (paths.CONFIG, paths.BACKUPS, f"{paths.LIVE}/appendonlydir"):
        (instance.root / name).mkdir(parents=True)
    (instance.root / "config/redis.conf").write_text("appendonly yes\n")
    write_aof(instance.live)
    (instance.live / "dump.rdb").write_bytes(b"REDIS0012")
    return instance


def write_aof(directory: Path) -> Path:
    aof = directory / "appendonlydir"
    aof.mkdir(exist_ok=True)
    (aof / "appendonly.aof.manifest").write_text(MANIFEST)
    for part in PARTS:
        (aof / part.name).write_bytes(b"#TS:1700000000\r\n")
    return aof


REPLACEMENTS: dict[str, Callable[[Path, Path], object]] = {
    "link": lambda path, secret: path.symlink_to(secret),
    "FIFO": lambda path, _: os.mkfifo(path),
    "directory": lambda path, _: path.mkdir(),
}


@pytest.mark.parametrize("attack", REPLACEMENTS)
@pytest.mark.parametrize("name", ["appendonly.aof.manifest", "appendonly.aof.1.incr.aof"])
def test_foreign_aof_is_refused(instance: Instance, tmp_path: Path, secret: Path, name: str, attack: str) -> None:
    aof = write_aof(tmp_path)
    (aof / name).unlink()
    REPLACEMENTS[attack](aof / name, secret)
    candidate = restore.find_candidate(instance, str(aof), None)
    with pytest.raises(Failure, match=r"symbolic link|not a regular file"), restore.prepared(instance, candidate):
        pass
    assert not any(path.is_symlink() or path.is_file() for path in (instance.root / paths.STAGING).rglob("*"))


@pytest.mark.parametrize("attack", ["FIFO", "device"])
def test_special_file_is_no_snapshot(instance: Instance, tmp_path: Path, attack: str) -> None:
    path = Path("/dev/zero") if attack == "device" else tmp_path / "dump.rdb"
    if attack == "FIFO":
        os.mkfifo(path)
    with pytest.raises(Failure, match="not a regular file"):
        restore.find_candidate(instance, str(path), None)


@pytest.mark.parametrize("name", ["", "appendonlydir", "dump.rdb", "inner/dump.rdb"])
def test_link_in_previous_data_is_not_followed(instance: Instance, tmp_path: Path, name: str) -> None:
    """A link of Redis to the data of another instance would give that to this Redis."""
    other = tmp_path / "other"
    other.mkdir()
    write_aof(other)
    (other / "dump.rdb").write_bytes(b"REDIS0012")
    previous = instance.previous / "20261124T120000Z"
    previous.mkdir(parents=True)
    for link, target in {"appendonlydir": "appendonlydir", "dump.rdb": "dump.rdb", "inner": "."}.items():
        (previous / link).symlink_to(other / target)
    (tmp_path / "of-a-person").symlink_to(previous)
    for path in (previous / name, tmp_path / "of-a-person" / name):
        with pytest.raises(Failure, match="a symbolic link, which is not followed"):
            restore.find_candidate(instance, str(path), None)


@pytest.mark.parametrize("name", ["", "appendonlydir", "dump.rdb"])
def test_link_of_a_person_is_followed(instance: Instance, tmp_path: Path, name: str) -> None:
    (tmp_path / "newest").symlink_to(instance.live / name)
    candidate = restore.find_candidate(instance, str(tmp_path / "newest"), None)
    assert candidate.path == instance.live / (name or "appendonlydir")


def test_directory_that_became_a_link_is_not_copied(
    instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner can replace it after every check."""
    aof = write_aof(tmp_path)
    candidate = restore.find_candidate(instance, str(aof), None)

    def attack(*_: object, **__: object) -> None:
        aof.rename(tmp_path / "moved")
        aof.symlink_to(tmp_path / "moved")

    monkeypatch.setattr(restore, "ensure_disk_space", attack)
    with pytest.raises(Failure, match=r"symbolic link|Not a directory"), restore.prepared(instance, candidate):
        pass


@pytest.mark.parametrize("name", ["latest", "20261124T030000Z"])
def test_file_in_the_current_directory_is_no_backup(
    instance: Instance, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a word with a slash is a path."""
    path = instance.backups / "20261124T030000Z"
    partial = instance.backups / ".partial"
    partial.mkdir()
    catalog.finish(partial, catalog.Metadata(path.name, "redis", "h", 1.0, "redis", "8.0", "", {}, 0, 0.0), (0, 0))
    (tmp_path / name).write_bytes(b"REDIS0012")
    monkeypatch.chdir(tmp_path)
    assert restore.find_candidate(instance, name, None).path == path
    monkeypatch.chdir(instance.backups)
    with pytest.raises(Failure, match=r"there are 20261124T030000Z\. A path has a slash: \./dump\.rdb"):
        restore.find_candidate(instance, "dump.rdb", None)
    # Its own backup, also by a relative path.
    assert restore.find_candidate(instance, f"./{path.name}", None).path == path


@pytest.mark.parametrize("attack", REPLACEMENTS)
@pytest.mark.parametrize("name", [catalog.METADATA, catalog.VERIFIED, "dump.rdb"])
def test_foreign_backup_is_refused(instance: Instance, secret: Path, name: str, attack: str) -> None:
    """A backup may come from a repository, or from another host."""
    path = instance.backups / "20261124T030000Z"
    metadata = catalog.Metadata(path.name, "redis", "h", 1.0, "redis", "8.0", "", {}, 0, 0.0)
    metadata.files["dump.rdb"] = {"size": len(SECRET), "sha256": "0"}
    partial = instance.backups / ".partial"
    partial.mkdir()
    catalog.finish(partial, metadata, (999, 999))
    (path / name).unlink(missing_ok=True)
    REPLACEMENTS[attack](path / name, secret)
    if name == catalog.METADATA:
        with pytest.raises(Failure, match=r"cannot be read|symbolic link|not a regular file"):
            catalog.open_backup(path)
        return
    backup = catalog.open_backup(path)
    assert backup.verified == {}
    assert any("dump.rdb" in problem for problem in catalog.find_damage(backup))


def test_checker_cannot_lead_the_manifest_elsewhere(
    instance: Instance, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-check-aof runs as Redis before root writes there again."""
    (tmp_path / "staged").mkdir()
    aof = write_aof(tmp_path / "staged")
    (aof / PARTS[0].name).write_bytes(b"REDIS0012\xfa\x05ctime\xc2" + (1).to_bytes(4, "little"))

    def hostile_checker(*_: object) -> tuple[int, str]:
        (aof / "appendonly.aof.manifest").unlink(missing_ok=True)
        (aof / "appendonly.aof.manifest").symlink_to(secret)
        (aof / PARTS[1].name).unlink()
        (aof / PARTS[1].name).symlink_to(secret)
        return 1, "nothing before timestamp"

    monkeypatch.setattr(point_in_time, "run_checker", hostile_checker)
    point_in_time.truncate_aof(instance, aof, 1_700_000_000)
    assert (aof / "appendonly.aof.manifest").read_text() == f"{PARTS[0]}\n"
    assert not (aof / "appendonly.aof.manifest").is_symlink()


def test_checker_cannot_replace_a_checked_file(
    instance: Instance, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aof = write_aof(instance.live)

    def hostile_checker(*_: object) -> tuple[int, str]:
        (aof / PARTS[1].name).unlink()
        (aof / PARTS[1].name).symlink_to(secret)
        return 0, ""

    monkeypatch.setattr(file_check, "run_checker", hostile_checker)
    with pytest.raises(OSError, match="symbolic link"):
        repair._check_part(instance, aof, PARTS[1])


def test_scratch_server_cannot_get_another_directory(instance: Instance, secret: Path) -> None:
    """The directory of the data is mounted into a scratch server. A link is none."""
    (instance.root / "staged").symlink_to(secret.parent)
    assert not Source(instance.root / "staged", 1).is_aof


@pytest.mark.parametrize("attack", REPLACEMENTS)
def test_snapshot_of_an_import_is_a_file(instance: Instance, tmp_path: Path, secret: Path, attack: str) -> None:
    """The copy of an import is a server that loads what another Redis sends."""
    (tmp_path / "staged").mkdir()
    REPLACEMENTS[attack](tmp_path / "copy.rdb", secret)
    with pytest.raises(Failure, match=r"symbolic link|not a regular file"):
        layout.stage_rdb(instance, tmp_path / "copy.rdb", tmp_path / "staged")


@pytest.mark.parametrize(
    ("name", "attack"),
    [
        *(("dump.rdb", attack) for attack in REPLACEMENTS),
        *(("appendonlydir/appendonly.aof.1.incr.aof", attack) for attack in REPLACEMENTS),
        *(("appendonlydir", attack) for attack in ("link", "FIFO")),
    ],
)
def test_upgrade_keeps_only_files(
    instance: Instance, secret: Path, name: str, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data that is kept becomes the live data again."""
    monkeypatch.setattr(upgrade, "sync", lambda _: None)
    path = instance.live / name
    path.rename(instance.live / "moved")
    REPLACEMENTS[attack](path, secret)
    with pytest.raises(OSError, match=r"symbolic link|not a regular file|Not a directory"):
        upgrade._link_data(instance)
    assert not (instance.root / paths.ROLLBACK_DATA).exists()


def test_upgrade_keeps_what_redis_reads(instance: Instance, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other names in the data are not kept, whatever they are."""
    monkeypatch.setattr(upgrade, "sync", lambda _: None)
    os.mkfifo(instance.live / "fifo")
    (instance.live / "link.incr.aof").symlink_to(secret)
    with (instance.live / "huge.incr.aof").open("wb") as file:
        file.truncate(8 * 1024**4)
    upgrade._link_data(instance)
    kept = instance.root / paths.ROLLBACK_DATA
    files = sorted(str(path.relative_to(kept)) for path in kept.rglob("*"))
    aof = [f"appendonlydir/{name}" for name in sorted(["appendonly.aof.manifest", *(part.name for part in PARTS)])]
    assert files == ["appendonlydir", *aof, "dump.rdb"]
    assert os.path.samefile(kept / "dump.rdb", instance.live / "dump.rdb")
    increment = f"appendonlydir/{PARTS[1].name}"
    assert not os.path.samefile(kept / increment, instance.live / increment)
    assert (kept / increment).read_bytes() == (instance.live / increment).read_bytes()


def test_huge_increment_is_not_copied(instance: Instance) -> None:
    with (instance.live / "appendonlydir" / PARTS[1].name).open("wb") as file:
        file.truncate(8 * 1024**4)
    with pytest.raises(Failure, match="free some space"):
        upgrade._link_data(instance)
    for part in (upgrade._ensure_room, lambda it: restore.ensure_disk_space(it, it.live / "appendonlydir")):
        with pytest.raises(Failure, match="free"):
            part(instance)
