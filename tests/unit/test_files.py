"""Files that Redis's uid can replace are opened without following links.

Opening them never waits.
"""

import os
from pathlib import Path

import pytest

from redisctl.core.files import disk_usage, list_inside, open_inside, read_end, read_small


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """Give a directory like data/live, next to a file that only root should read."""
    live = tmp_path / "live"
    (live / "appendonlydir").mkdir(parents=True)
    (live / "appendonlydir" / "incr.aof").write_bytes(b"data")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "incr.aof").write_bytes(b"secret")
    return live


def test_regular_file_is_opened(live: Path) -> None:
    with open_inside(live, "appendonlydir", "incr.aof") as file:
        assert file.read() == b"data"


def test_link_to_a_file_is_refused(live: Path) -> None:
    (live / "dump.rdb").symlink_to("../outside/incr.aof")
    with pytest.raises(OSError, match=r"symbolic link.*dump\.rdb"):
        open_inside(live, "dump.rdb")
    assert (read_small(live / "dump.rdb", 10), read_end(live / "dump.rdb", 0, 10)) == ("", "")


def test_link_to_a_directory_is_refused(live: Path) -> None:
    (live / "other").symlink_to("../outside")
    with pytest.raises(OSError, match="other"):
        open_inside(live, "other", "incr.aof")


def test_fifo_and_directory_are_refused(live: Path) -> None:
    """Opening a FIFO would wait until something writes to it."""
    os.mkfifo(live / "dump.rdb")
    for names in (("dump.rdb",), ("appendonlydir",)):
        with pytest.raises(OSError, match="not a regular file"):
            open_inside(live, *names)
    assert read_small(live / "dump.rdb", 10) == ""


def test_missing_file_is_named(live: Path) -> None:
    with pytest.raises(FileNotFoundError, match="appendonlydir/none"):
        open_inside(live, "appendonlydir", "none")


@pytest.mark.parametrize("name", ["../outside/incr.aof", "..", ".", "", "appendonlydir/incr.aof", "incr.aof\0"])
def test_name_that_leaves_its_directory_is_refused(live: Path, name: str) -> None:
    """A name that leads out of its directory is refused.

    Redis answers with the names of its files. They must not lead to a file of root.
    """
    for names in ((name,), (name, "incr.aof"), ("appendonlydir", name)):
        with pytest.raises(OSError, match="is not the name of a file"):
            open_inside(live, *names)
    with pytest.raises(OSError, match="is not the name of a file"):
        list_inside(live, name)


def test_linked_directory_is_not_listed(live: Path) -> None:
    assert list_inside(live, "appendonlydir") == ["incr.aof"]
    assert list_inside(live, "none") == []
    (live / "other").symlink_to("../outside")
    with pytest.raises(OSError, match="other"):
        list_inside(live, "other")


def test_disk_usage_follows_no_link(live: Path) -> None:
    before = disk_usage(live)
    assert before >= disk_usage(live / "appendonlydir") > 0
    (live.parent / "outside" / "large").write_bytes(b"x" * 1024**2)
    (live / "other").symlink_to("../outside")
    assert disk_usage(live) < before + 1024**2
    assert (disk_usage(live / "other") < 1024**2, disk_usage(live / "none")) == (True, 0)
