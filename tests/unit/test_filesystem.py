"""The steps for directories and files: one with a reason for each difference.

There is no step if all is right.
"""

import stat
import subprocess
from pathlib import Path

import pytest

from redoubt.filesystem import AbsentPath, DesiredDirectory, DesiredFile, PathConflict, PathState, plan

DIRECTORY = DesiredDirectory("/srv/redis/data", mode=0o750, uid=999, gid=999)
FILE = DesiredFile("/srv/redis/config/redis.conf", "port 6379\n", mode=0o640, uid=999, gid=999)
RIGHT = {
    DIRECTORY.path: PathState(stat.S_IFDIR | 0o750, 999, 999),
    FILE.path: PathState(stat.S_IFREG | 0o640, 999, 999, FILE.digest),
}


def test_right_paths_need_no_step() -> None:
    assert plan([DIRECTORY, FILE], RIGHT) == []


def test_paths_are_private_to_root_by_default() -> None:
    entries = (DesiredDirectory("/srv/new"), DesiredFile("/srv/new/file", "text\n"))
    assert [(entry.mode, entry.uid, entry.gid) for entry in entries] == [(0o700, 0, 0), (0o600, 0, 0)]


def test_absent_path_is_removed_by_its_name() -> None:
    path = AbsentPath("/srv/redis/secrets/default")
    (step,) = plan([path], {path.path: PathState(stat.S_IFREG | 0o400, 999, 999)})
    assert (step.why, step.command) == ("no longer needed", "rm -f /srv/redis/secrets/default")
    assert plan([path], {}) == []


def test_missing_paths_are_created() -> None:
    steps = plan([DIRECTORY, FILE], {})
    assert [(step.path, step.why) for step in steps] == [(DIRECTORY.path, "missing"), (FILE.path, "missing")]


@pytest.mark.parametrize(
    ("state", "why", "command"),
    [
        (PathState(stat.S_IFDIR | 0o755, 999, 999), "mode 0755, should be 0750", "chmod 0750 /srv/redis/data"),
        (PathState(stat.S_IFDIR | 0o750, 0, 999), "owner 0:999, should be 999:999", "chown 999:999 /srv/redis/data"),
        (PathState(stat.S_IFDIR | 0o750, 999, 0), "owner 999:0, should be 999:999", "chown 999:999 /srv/redis/data"),
        (PathState(stat.S_IFDIR | 0o4750, 999, 999), "mode 4750, should be 0750", "chmod 0750 /srv/redis/data"),
    ],
)
def test_owner_and_mode_are_repaired_by_number(state: PathState, why: str, command: str) -> None:
    (step,) = plan([DIRECTORY], {DIRECTORY.path: state})
    assert (step.why, step.command) == (why, command)


def test_different_contents_are_replaced_whole() -> None:
    (step,) = plan([FILE], {FILE.path: PathState(stat.S_IFREG | 0o640, 999, 999, "0" * 64)})
    assert step.why == "content differs"
    assert step.stdin == FILE.content


def test_secret_that_does_not_match_is_written() -> None:
    secret = DesiredFile("/srv/redis/secrets/admin", "hunter2-hunter2\n", mode=0o400, secret=True)
    state = PathState(stat.S_IFREG | 0o400, 0, 0, matches=True)
    assert plan([secret], {secret.path: state}) == []
    (step,) = plan([secret], {secret.path: PathState(stat.S_IFREG | 0o400, 0, 0)})
    assert step.why == "content differs"


def test_contents_are_in_no_command_line_and_no_repr() -> None:
    secret = DesiredFile("/srv/redis/secrets/admin", "hunter2-hunter2\n", secret=True)
    (step,) = plan([secret], {})
    assert "hunter2" not in step.command
    assert "hunter2" not in repr(step) + repr(secret)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFREG, stat.S_IFSOCK])
def test_path_that_must_be_a_directory_is_not_removed(kind: int) -> None:
    with pytest.raises(PathConflict, match="move it away"):
        plan([DIRECTORY], {DIRECTORY.path: PathState(kind | 0o644, 0, 0)})


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO])
def test_path_that_must_be_a_file_is_not_removed(kind: int) -> None:
    with pytest.raises(PathConflict, match="move it away"):
        plan([FILE], {FILE.path: PathState(kind | 0o644, 0, 0)})


def _write(tmp_path: Path, received: str) -> tuple[int, Path]:
    target = tmp_path / "a file"
    owner = tmp_path.stat()
    target.write_text("old\n")
    (step,) = plan(
        [DesiredFile(str(target), "new contents\n", mode=0o400, uid=owner.st_uid, gid=owner.st_gid)],
        {str(target): PathState(stat.S_IFREG | 0o400, owner.st_uid, owner.st_gid, "")},
    )
    result = subprocess.run(["sh", "-c", step.command], input=received, text=True, check=False)
    return result.returncode, target


def test_file_is_written_with_its_mode(tmp_path: Path) -> None:
    status, target = _write(tmp_path, "new contents\n")
    assert (status, target.read_text(), stat.S_IMODE(target.stat().st_mode)) == (0, "new contents\n", 0o400)
    assert list(tmp_path.iterdir()) == [target]


def test_lost_connection_keeps_the_old_file(tmp_path: Path) -> None:
    """An incomplete file does not replace the old one.

    A lost connection ends standard input early.
    """
    status, target = _write(tmp_path, "new con")
    assert status != 0
    assert target.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [target]
