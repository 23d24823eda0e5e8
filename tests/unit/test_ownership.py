"""Files change their owner without root following a link."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redisctl.core.ownership import give_files
from tests.nested_directories import nest_directories

OLD, NEW, OTHER = (999, 999), (2001, 2002), (1234, 999)


def owners(directory: Path) -> dict[str, tuple[int, int]]:
    """Return the owners of everything below a directory, and of links themselves."""
    paths = [directory, *(Path(base) / name for base, inner, names in os.walk(directory) for name in (*inner, *names))]
    return {str(path.relative_to(directory)): (path.lstat().st_uid, path.lstat().st_gid) for path in paths}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a root directory with files of Redis, of root and of another user."""
    root = tmp_path / "root"
    live = root / "data" / "live"
    live.mkdir(parents=True)
    (live / "dump.rdb").touch()
    (root / "data" / "journal.json").touch()
    (root / "foreign").touch()
    os.chown(root / "foreign", *OTHER)
    for path in (live, live / "dump.rdb"):
        os.chown(path, *OLD)
    (tmp_path / "shadow").touch()
    return root


def test_only_files_of_the_old_user_change(root: Path) -> None:
    give_files(root, OLD, NEW)
    assert owners(root) == {
        ".": (0, 0),
        "data": (0, 0),
        "data/journal.json": (0, 0),
        "data/live": NEW,
        "data/live/dump.rdb": NEW,
        "foreign": OTHER,
    }
    give_files(root, NEW, OLD)
    assert owners(root)["data/live/dump.rdb"] == OLD


def test_links_and_fifos_are_not_followed(root: Path, tmp_path: Path) -> None:
    """A link changes itself, and a FIFO without a writer does not block."""
    live = root / "data" / "live"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "key").touch()
    os.chown(outside / "key", *OLD)
    os.mkfifo(live / "fifo")
    (live / "file").symlink_to(outside / "key")
    (live / "directory").symlink_to(outside)
    for name in ("fifo", "file", "directory"):
        os.chown(live / name, *OLD, follow_symlinks=False)
    give_files(root, OLD, NEW)
    assert {owners(live)[name] for name in ("fifo", "file", "directory")} == {NEW}
    assert owners(outside) == {".": (0, 0), "key": OLD}


def test_hard_link_to_a_file_of_root_keeps_its_owner(root: Path, tmp_path: Path) -> None:
    os.link(tmp_path / "shadow", root / "data" / "live" / "core")
    give_files(root, OLD, NEW)
    assert (tmp_path / "shadow").stat().st_uid == 0


def test_deep_directories_end_the_walk(root: Path) -> None:
    """Redis may have made more levels than Python can recurse."""
    nest_directories(root / "data" / "live", 1500, OLD)
    try:
        give_files(root, OLD, NEW)
        assert (root / "data" / "live" / "d").stat().st_uid == NEW[0]
    finally:
        # Python cannot remove them either.
        subprocess.run(["rm", "--recursive", str(root / "data" / "live" / "d")], check=True)


def test_file_of_root_under_an_exchanged_name_keeps_its_owner(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account of the host with the old number may exchange files."""
    file, key = root / "data" / "live" / "dump.rdb", tmp_path / "shadow"
    examined = file.stat()

    def exchange_after(look: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def wrapper(*arguments: Any, **options: Any) -> os.stat_result:
            status = look(*arguments, **options)
            if os.path.samestat(status, examined):
                file.rename(root / "data" / "live" / "moved")
                os.link(key, file)
            return status

        return wrapper

    with monkeypatch.context() as patch:
        for name in ("stat", "fstat"):
            patch.setattr(os, name, exchange_after(getattr(os, name)))
        give_files(root, OLD, NEW)
    assert file.samefile(key)
    assert key.stat().st_uid == 0


def test_interrupted_change_can_be_repeated(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory changes after its contents. The error names the entry."""
    chown, given = os.chown, []

    def fail_at_second(path: str, *arguments: Any, **options: Any) -> None:
        given.append(Path(path).readlink())
        if len(given) == 2:
            raise OSError(5, "Input/output error", path)
        chown(path, *arguments, **options)

    live = root / "data" / "live"
    with monkeypatch.context() as patch:
        patch.setattr(os, "chown", fail_at_second)
        with pytest.raises(OSError, match=f"Input/output error: '{live}'$"):
            give_files(root, OLD, NEW)
    assert given == [live / "dump.rdb", live]
    assert (owners(root)["data/live"], owners(root)["data/live/dump.rdb"]) == (OLD, NEW)
    give_files(root, OLD, NEW)
    assert owners(root)["data/live"] == NEW
