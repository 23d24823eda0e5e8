"""Attacks by the files of a Redis that was taken over: links, FIFOs, huge files.

Redis owns data/live and logs/. What it puts there must not lead root to other files, block it, or fill the disk.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from redisctl.backup import create
from redisctl.backup.create import create_backup
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.core.untrusted_files import remove_tree
from redisctl.deploy import state
from tests.nested_directories import nest_directories
from tests.redisctl.local_redis import LocalRedis, load_local_instance

SECRET = "root only"
Attack = Callable[[Path, Path], None]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Give a file that only root may read."""
    path = tmp_path / "shadow"
    path.write_text(SECRET)
    path.chmod(0o600)
    return path


@pytest.fixture
def instance(redis: LocalRedis) -> Iterator[Instance]:
    """Give the instance. It must have as many backups afterwards as before."""
    instance = load_local_instance(redis.root)
    before = sorted(os.listdir(instance.backups))
    yield instance
    assert sorted(os.listdir(instance.backups)) == before


def sparse(path: Path, size: int) -> None:
    """Make a file of Redis that takes no room."""
    with path.open("wb") as file:
        file.truncate(size)
    os.chown(path, 999, 999)


REPLACEMENTS: dict[str, Attack] = {
    "link": lambda path, secret: path.symlink_to(secret),
    "hard link": lambda path, secret: os.link(secret, path),
    "FIFO": lambda path, _: os.mkfifo(path),
    "directory": lambda path, _: path.mkdir(),
}


@pytest.fixture
def log(redis: LocalRedis) -> Iterator[Path]:
    """Give the path of redis.log, and bring the log back afterwards."""
    path = redis.root / "logs" / "redis.log"
    path.rename(path.with_name("kept"))
    yield path
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.with_name("kept").rename(path)


@pytest.mark.parametrize("attack", REPLACEMENTS)
def test_replaced_log_is_not_read(redis: LocalRedis, log: Path, secret: Path, attack: str) -> None:
    REPLACEMENTS[attack](log, secret)
    assert redis.redisctl("log").returncode == 3
    health = redis.redisctl("health")
    assert "redis.log" in health.stdout
    for output in (redis.redisctl("log"), health, redis.redisctl("health --json"), redis.redisctl("stats")):
        assert SECRET not in output.stdout + output.stderr


def test_log_cannot_control_the_terminal(redis: LocalRedis, log: Path) -> None:
    log.write_text("1:M 24 Nov 2026 03:00:00.000 * \x1b]0;owned\x07 \x9b2J [red]x[/x] \u202e\n# \x1b[31mBad\n")
    for command in ("log", "health", "log --json"):
        output = redis.redisctl(command)
        assert not set(output.stdout + output.stderr) & set("\x1b\x07\x9b\u202e"), command
    assert "[red]x[/x]" in redis.redisctl("log").stdout


def test_end_of_a_huge_log_is_read(redis: LocalRedis, log: Path) -> None:
    sparse(log, 8 * 1024**4)
    began = time.monotonic()
    assert redis.redisctl("log --last 5").returncode == 0
    assert redis.redisctl("health --json").returncode in (0, 1)
    assert time.monotonic() - began < 10


def evil_part(name: str, attack: Attack) -> Attack:
    """Have the manifest name another part."""

    def make(aof: Path, secret: Path) -> None:
        with (aof / "appendonly.aof.manifest").open("a") as file:
            file.write(f"file {name} seq 99 type i\n")
        attack(aof / name, secret)

    return make


def large_manifest(aof: Path, _: Path) -> None:
    with (aof / "appendonly.aof.manifest").open("a") as file:
        file.write("# comment\n" * 200_000)


def many_parts(aof: Path, _: Path) -> None:
    with (aof / "appendonly.aof.manifest").open("a") as file:
        file.writelines(f"file {number}.incr.aof seq {number} type i\n" for number in range(2, 600))


BACKUP_ATTACKS: dict[str, tuple[Attack, str]] = {
    "part is a link": (evil_part("evil.incr.aof", REPLACEMENTS["link"]), "symbolic link"),
    "part is a hard link": (evil_part("evil.incr.aof", REPLACEMENTS["hard link"]), "hard link to a file of uid 0"),
    "part is a FIFO": (evil_part("evil.incr.aof", REPLACEMENTS["FIFO"]), "not a regular file"),
    "part is huge": (evil_part("evil.incr.aof", lambda path, _: sparse(path, 4 * 1024**4)), "free some space"),
    "part is in another directory": (evil_part("..", lambda *_: None), "lies in the AOF's directory"),
    "manifest is large": (large_manifest, "larger than 1048576 bytes"),
    "manifest names many files": (many_parts, "500 are the most"),
}


@pytest.fixture
def aof(redis: LocalRedis) -> Iterator[Path]:
    """Give the directory of the AOF, and bring its files back afterwards."""
    path = redis.root / "data/live/appendonlydir"
    manifest = (path / "appendonly.aof.manifest").read_text()
    before = set(path.iterdir())
    yield path
    for extra in set(path.iterdir()) - before:
        extra.unlink()
    remove_tree(path.with_name("deep"))
    (path / "appendonly.aof.manifest").write_text(manifest)


@pytest.mark.parametrize("attack", BACKUP_ATTACKS)
def test_backup_copies_only_files_of_redis(instance: Instance, aof: Path, secret: Path, attack: str) -> None:
    """A backup is readable for Redis, so it must not get a file of root.

    An incomplete backup is removed.
    """
    make, error = BACKUP_ATTACKS[attack]
    make(aof, secret)
    with pytest.raises(Failure, match=error):
        create_backup(instance)


@pytest.mark.parametrize("attack", [*REPLACEMENTS, "sparse"])
def test_backup_copies_no_other_snapshot(
    instance: Instance, secret: Path, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis answers with the name of its RDB snapshot."""
    real = create._config

    def hostile(instance: Instance, redis: Redis, pattern: str) -> dict[str, str]:
        return {**real(instance, redis, pattern), "dbfilename": "evil.rdb"}

    monkeypatch.setattr(create, "_config", hostile)
    path = instance.live / "evil.rdb"
    if attack == "sparse":
        sparse(path, 8 * 1024**4)
    else:
        REPLACEMENTS[attack](path, secret)
    try:
        with pytest.raises(Failure, match=r"link|not a regular file|free some space"):
            create_backup(instance)
    finally:
        path.rmdir() if attack == "directory" else path.unlink()


def test_many_and_deep_names_do_not_stop_redisctl(redis: LocalRedis, instance: Instance, aof: Path) -> None:
    """A directory with 20,000 names, and directories nested 2000 deep."""
    descriptor = os.open(aof, os.O_RDONLY)
    for number in range(20_000):
        os.close(os.open(f"{number}.base.rdb", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    deep = redis.root / "data/live/deep"
    deep.mkdir()
    nest_directories(deep, 2000)
    began = time.monotonic()
    health = redis.redisctl("health --json")
    assert "it has more than 10000 files" in health.stdout
    assert health.stderr == ""
    assert state._stored(instance).size > 0
    assert time.monotonic() - began < 20


def test_names_of_files_cannot_control_the_terminal(redis: LocalRedis, aof: Path) -> None:
    """Names of files reach the terminal in health."""
    (aof / "appendonly.aof.manifest").write_text("file '\x1b]0;owned\x07' seq 1 type i\n")
    (aof / "x\n\x1b[2J.1.incr.aof").touch()
    output = redis.redisctl("health")
    assert "owned" in output.stdout
    assert not set(output.stdout + output.stderr) & set("\x1b\x07")
