"""Files that Redis can replace are used without following links.

Opening them never waits, and reading them has bounds.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redisctl.core import files
from redisctl.core.errors import Failure
from redisctl.core.files import copy, own, read_small
from redisctl.core.untrusted_files import UntrustedDirectory, disk_usage, remove_tree
from tests.nested_directories import nest_directories


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """Give a directory like data/live, next to a file that only root should read."""
    live = tmp_path / "live"
    (live / "appendonlydir").mkdir(parents=True)
    (live / "appendonlydir" / "incr.aof").write_bytes(b"data")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "incr.aof").write_bytes(b"secret")
    return live


@pytest.fixture
def directory(live: Path) -> UntrustedDirectory:
    return UntrustedDirectory(live, (999, 999))


def test_regular_file_is_opened(directory: UntrustedDirectory) -> None:
    with directory.open_file("appendonlydir", "incr.aof") as file:
        assert file.read() == b"data"
        assert str(file.name).endswith("live/appendonlydir/incr.aof")
    assert directory.file_size("appendonlydir", "incr.aof") == 4


USES: dict[str, Callable[[UntrustedDirectory, tuple[str, ...]], object]] = {
    "open": lambda directory, names: directory.open_file(*names),
    "read": lambda directory, names: directory.read_file(*names, limit=10),
    "read end": lambda directory, names: directory.read_end(names[-1], 0, 10),
    "size": lambda directory, names: directory.file_size(*names),
    "create": lambda directory, names: directory.create_file(*names),
}


@pytest.mark.parametrize("use", USES)
def test_link_to_a_file_is_refused(directory: UntrustedDirectory, live: Path, use: str) -> None:
    (live / "dump.rdb").symlink_to("../outside/incr.aof")
    with pytest.raises(OSError, match=r"symbolic link.*dump\.rdb|File exists.*dump\.rdb"):
        USES[use](directory, ("dump.rdb",))
    assert read_small(live / "dump.rdb", 10) == ""
    assert (live.parent / "outside" / "incr.aof").read_bytes() == b"secret"


@pytest.mark.parametrize("use", [name for name in USES if name != "read end"])
def test_link_to_a_directory_is_refused(directory: UntrustedDirectory, live: Path, use: str) -> None:
    (live / "other").symlink_to("../outside")
    for name in ("incr.aof", "new"):
        with pytest.raises(OSError, match=r"symbolic link.*other"):
            USES[use](directory, ("other", name))
    for method in (directory.status, directory.remove_file, directory.make_directory):
        with pytest.raises(OSError, match=r"symbolic link.*other"):
            method("other", "incr.aof")
    with pytest.raises(OSError, match=r"symbolic link.*other"):
        directory.list_names("other")
    assert os.listdir(live.parent / "outside") == ["incr.aof"]


@pytest.mark.parametrize("use", [name for name in USES if name != "create"])
def test_fifo_and_directory_are_refused(directory: UntrustedDirectory, live: Path, use: str) -> None:
    """Opening a FIFO would wait until something writes to it."""
    os.mkfifo(live / "dump.rdb")
    for name in ("dump.rdb", "appendonlydir"):
        with pytest.raises(OSError, match="not a regular file"):
            USES[use](directory, (name,))
    assert read_small(live / "dump.rdb", 10) == ""
    with pytest.raises(OSError, match="neither a file nor a directory"):
        own(live / "dump.rdb", (999, 999))


def test_hard_link_of_another_owner_is_refused(directory: UntrustedDirectory, live: Path) -> None:
    """A hard link could be one to a file that only root may read."""
    os.link(live.parent / "outside" / "incr.aof", live / "dump.rdb")
    with pytest.raises(OSError, match="hard link to a file of uid 0"):
        directory.open_file("dump.rdb")
    # Redis's own file has a second name while an upgrade keeps it.
    os.chown(live / "dump.rdb", 999, 999)
    with directory.open_file("dump.rdb") as file:
        assert file.read() == b"secret"


def test_large_file_is_refused(directory: UntrustedDirectory) -> None:
    assert directory.read_file("appendonlydir", "incr.aof", limit=4) == b"data"
    with pytest.raises(OSError, match="larger than 3 bytes"):
        directory.read_file("appendonlydir", "incr.aof", limit=3)


def test_sparse_file_is_not_copied(directory: UntrustedDirectory, live: Path) -> None:
    """A sparse file takes no room until it is copied."""
    with (live / "dump.rdb").open("wb") as file:
        file.truncate(10 * 1024**4)
    with (
        directory.open_file("dump.rdb") as source,
        pytest.raises(Failure, match=r"free, and a copy takes up to 10\.0 TiB"),
    ):
        copy(source, None, live.parent / "copy")
    assert (live.parent / "copy").stat().st_blocks == 0
    with directory.open_file("dump.rdb") as source, pytest.raises(Failure, match="free some space"):
        directory.copy_file(source, "copy")


class Growing:
    """An open file that gets longer whenever it is read."""

    def __init__(self, path: Path) -> None:
        self.name, self._path, self._file = str(path), path, path.open("rb")

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self, length: int) -> bytes:
        with self._path.open("ab") as file:
            file.write(b"more")
        return self._file.read(length)


def test_growing_file_is_copied_up_to_its_size(live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that appends all the time must not fill the disk with the copy."""
    monkeypatch.setattr(files, "CHUNK", 2)
    source: Any = Growing(live / "appendonlydir" / "incr.aof")
    assert copy(source, None, live.parent / "copy")["size"] == 4
    assert (live.parent / "copy").read_bytes() == b"data"


def test_many_names_are_refused(directory: UntrustedDirectory, live: Path) -> None:
    for number in range(20):
        (live / f"{number}").touch()
    assert len(directory.list_names(limit=21)) == 21
    with pytest.raises(OSError, match="more than 20 files"):
        directory.list_names(limit=20)
    assert directory.list_names("none") == []


def test_missing_file_is_named(directory: UntrustedDirectory) -> None:
    with pytest.raises(FileNotFoundError, match="appendonlydir/none"):
        directory.open_file("appendonlydir", "none")
    directory.remove_file("appendonlydir", "none")


@pytest.mark.parametrize("name", ["../outside/incr.aof", "..", ".", "", "appendonlydir/incr.aof", "incr.aof\0"])
def test_name_that_leaves_its_directory_is_refused(directory: UntrustedDirectory, name: str) -> None:
    """A name that leads out of its directory is refused.

    Redis answers with the names of its files. They must not lead to a file of root.
    """
    for names in ((name,), (name, "incr.aof"), ("appendonlydir", name)):
        for method in (directory.open_file, directory.remove_file, directory.create_file, directory.status):
            with pytest.raises(OSError, match="is not the name of a file") as error:
                method(*names)
            assert error.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="is not the name of a file"):
        directory.list_names(name)


def test_written_file_replaces_a_link(directory: UntrustedDirectory, live: Path) -> None:
    (live / "manifest").symlink_to("../outside/incr.aof")
    directory.write_file("manifest", text="new")
    status = (live / "manifest").lstat()
    assert (live / "manifest").read_text() == "new"
    assert (status.st_uid, status.st_mode & 0o7777, status.st_nlink) == (999, 0o600, 1)
    directory.write_file("manifest", text="private", mode=0o400)
    assert (live / "manifest").lstat().st_mode & 0o7777 == 0o400
    assert (live.parent / "outside" / "incr.aof").read_bytes() == b"secret"


def test_link_is_made_of_the_open_file(directory: UntrustedDirectory, live: Path) -> None:
    """The name of an open file may lead somewhere else by the time that it is linked."""
    (live / "dump.rdb").write_bytes(b"data")
    inode = (live / "dump.rdb").stat().st_ino
    with directory.open_file("dump.rdb") as file:
        (live / "dump.rdb").rename(live / "moved")
        (live / "dump.rdb").symlink_to("../outside/incr.aof")
        directory.link_file(file, "kept")
    assert (live / "kept").lstat().st_ino == inode


def test_end_of_a_file_is_read(directory: UntrustedDirectory, live: Path) -> None:
    (live / "redis.log").write_text("0123456789")
    assert directory.read_end("redis.log", 0, 4) == "6789"
    assert directory.read_end("redis.log", 8, 4) == "89"
    # It was rotated.
    assert directory.read_end("redis.log", 11, 100) == "0123456789"


def test_removal_follows_no_link_and_has_no_depth(live: Path) -> None:
    """Redis can nest directories deeper than Python's functions go."""
    (live / "outside").symlink_to("../outside")
    nest_directories(live, 3000)
    assert disk_usage(live) >= 0
    remove_tree(live / "outside")
    remove_tree(live)
    remove_tree(live)
    assert os.listdir(live.parent) == ["outside"]
    assert os.listdir(live.parent / "outside") == ["incr.aof"]


def test_removal_that_fails_is_reported(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    with pytest.raises(Failure, match="refusing to remove"):
        remove_tree(tmp_path / "inner" / "..")
    remove_tree(tmp_path / "inner" / "..", ignore_errors=True)


def test_disk_usage_follows_no_link(live: Path) -> None:
    before = disk_usage(live)
    assert before >= disk_usage(live / "appendonlydir") > 0
    (live.parent / "outside" / "large").write_bytes(b"x" * 1024**2)
    (live / "other").symlink_to("../outside")
    assert disk_usage(live) < before + 1024**2
    assert (disk_usage(live / "other") < 1024**2, disk_usage(live / "none")) == (True, 0)
