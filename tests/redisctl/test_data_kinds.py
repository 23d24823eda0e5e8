"""Kinds of data files through repair, and through restore with the AOF off.

Repair never says that data is intact which Redis would drop, and its advice leads to the data.
tests/redisctl/test_foreign_data.py has the kinds, and restore with the AOF on.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from redisctl import paths
from redisctl.core.aof_manifest import BASE, INCREMENT, Part, to_text
from tests.redisctl.foreign_files import KEYS, command, flipped, write_rdb
from tests.redisctl.local_docker import LocalDocker, local_docker
from tests.redisctl.local_redis import LocalRedis, Output, load_local_instance, local_redis
from tests.redisctl.test_foreign_data import ACCEPTED, SELECT, SET, TRANSACTION, UNUSABLE
from tests.redisctl.test_previous_data import WITHOUT_FILES

BASE_FILE, INCREMENT_FILE, MANIFEST = (
    "appendonly.aof.2.base.rdb",
    "appendonly.aof.2.incr.aof",
    "appendonly.aof.manifest",
)


@dataclass
class Server:
    """A server whose files a test replaces while it is down."""

    redis: LocalRedis
    docker: LocalDocker

    @property
    def live(self) -> Path:
        return self.redis.root / paths.LIVE

    def place(self, files: dict[str, bytes]) -> None:
        """Make these the only files of a Redis that is down."""
        self.redis.stop()
        for path in self.live.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(self.redis.root / paths.PREVIOUS, ignore_errors=True)
        for name, data in files.items():
            path = self.live / name
            if not path.parent.exists():
                path.parent.mkdir(mode=0o700)
                os.chown(path.parent, 999, 999)
            path.write_bytes(data)
            path.chmod(0o600)
            os.chown(path, 999, 999)

    def examine(self) -> tuple[dict[str, Any], str]:
        """Return what repair reports: as JSON, and for people."""
        output = self.redis.redisctl("repair --json")
        report: dict[str, Any] = json.loads(output.stdout)
        assert output.returncode == (0 if report["intact"] else 1), output
        return report, self.redis.redisctl("repair").stdout

    def keys(self) -> int:
        with self.redis.client() as client:
            return sum(database["keys"] for database in client.info("keyspace").values())

    def succeed(self, line: str) -> Output:
        output = self.redis.redisctl(line)
        assert output.returncode == 0, output
        return output


@contextmanager
def running(image_root: Path, directory: Path, **settings: Any) -> Iterator[Server]:
    (directory / "logs").mkdir()
    with ExitStack() as stack:
        redis = stack.enter_context(local_redis(image_root, directory, "kinds", **settings))
        yield Server(redis, stack.enter_context(local_docker(redis, directory / "logs")))


@pytest.fixture(scope="module")
def without_aof(image_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(image_root, tmp_path_factory.mktemp("off"), **WITHOUT_FILES) as server:
        yield server


@pytest.fixture(scope="module")
def with_aof(image_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(image_root, tmp_path_factory.mktemp("on")) as server:
        yield server


@pytest.fixture(scope="module")
def snapshot(without_aof: Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_rdb(load_local_instance(without_aof.redis.root), tmp_path_factory.mktemp("plain") / "data")


@pytest.fixture(scope="module")
def without_checksum(without_aof: Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("unchecked") / "data"
    return write_rdb(load_local_instance(without_aof.redis.root), directory, database=20, checksum=False)


# -- Restore with the AOF off


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted_file_becomes_the_dump_of_a_redis_without_aof(
    without_aof: Server, snapshot: bytes, tmp_path: Path, case: str
) -> None:
    edit, count, _ = ACCEPTED[case]
    without_aof.place({})
    without_aof.redis.start()
    path = tmp_path / "data"
    path.write_bytes(edit(snapshot))
    without_aof.succeed(f"restore {path} --yes --with-functions")
    assert without_aof.keys() == count
    assert os.listdir(without_aof.live) == ["dump.rdb"]


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_file_leaves_a_redis_without_aof_alone(
    without_aof: Server, snapshot: bytes, tmp_path: Path, case: str
) -> None:
    edit, message = UNUSABLE[case]
    if without_aof.redis.process and without_aof.redis.process.poll() is not None:
        without_aof.place({})
        without_aof.redis.start()
    pid = without_aof.redis.pid
    path = tmp_path / "data"
    path.write_bytes(edit(snapshot))
    assert message in without_aof.redis.refusal(f"restore {path} --yes")
    assert without_aof.redis.pid == pid


# -- Repair with the AOF off: dump.rdb is all that Redis reads


@pytest.mark.parametrize(
    ("edit", "intact", "text"),
    [
        (lambda data: data, True, "nothing is damaged: redisctl start"),
        (lambda data: data + b"\x00\xff" * 50, True, "100 bytes follow, which Redis ignores"),
        (lambda data: data[:300], False, "it is truncated"),
        (flipped(200), False, "RDB CRC error"),
        (lambda data: b"REDIS0099" + data[9:], False, "in RDB format 99"),
        (lambda data: b"VALKEY080" + data[9:], False, "deploy Valkey 9 or newer"),
    ],
    ids=["good", "bytes after the end", "truncated", "flipped", "future", "valkey 9"],
)
def test_snapshot_is_judged_without_aof(
    without_aof: Server, snapshot: bytes, edit: Callable[[bytes], bytes], *, intact: bool, text: str
) -> None:
    data = edit(snapshot)
    without_aof.place({"dump.rdb": data})
    report, printed = without_aof.examine()
    assert (report["intact"], text in printed) == (intact, True), printed
    assert (report["loaded"] or {}).get("keys") == (KEYS if intact else None)
    # No advice leads back here, or to a backup that does not exist.
    assert "--source rdb" not in printed
    assert "restore latest" not in printed
    assert "with the AOF on" not in printed
    without_aof.redis.redisctl("repair --yes")
    assert (without_aof.live / "dump.rdb").read_bytes() == data


def test_snapshot_for_more_databases_is_not_damaged(without_aof: Server, without_checksum: bytes) -> None:
    without_aof.place({"dump.rdb": without_checksum})
    report, printed = without_aof.examine()
    assert (report["damaged"], "more than 16 databases" in report["load_error"]) == ([], True)
    assert "--source rdb" not in printed


def test_damaged_value_without_checksum_is_found_by_repair(without_aof: Server, without_checksum: bytes) -> None:
    """Redis loads it, and crashes when a client reads the value."""
    at = without_checksum.index(b"field7") - 1
    without_aof.place({"dump.rdb": flipped(at)(without_checksum)})
    report, _ = without_aof.examine()
    assert "integrity check failed" in report["damaged"][0]["problem"]


@pytest.mark.parametrize(
    ("edit", "problem", "count"),
    [
        (lambda data: data + SELECT + SET + TRANSACTION, "bytes of an AOF follow, which Redis ignores", KEYS + 2),
        (lambda _: SELECT + SET + TRANSACTION, "it is an AOF and no RDB snapshot", 2),
    ],
    ids=["a tail", "no snapshot"],
)
def test_aof_in_place_of_the_snapshot_is_found_and_not_lost(
    without_aof: Server, snapshot: bytes, edit: Callable[[bytes], bytes], problem: str, count: int
) -> None:
    """Redis loads the snapshot and drops the rest without an error.

    The advice of repair brings all of it.
    """
    data = edit(snapshot)
    without_aof.place({"dump.rdb": data})
    report, printed = without_aof.examine()
    assert (report["intact"], problem in report["damaged"][0]["problem"]) == (False, True), report
    assert f"redisctl restore {without_aof.live}/dump.rdb loads all of it" in printed
    assert without_aof.redis.redisctl("repair --yes").returncode == 1
    assert (without_aof.live / "dump.rdb").read_bytes() == data
    without_aof.succeed(f"restore {without_aof.live}/dump.rdb --yes")
    assert without_aof.keys() == count
    (previous,) = (without_aof.redis.root / paths.PREVIOUS).iterdir()
    assert (previous / "dump.rdb").read_bytes() == data


# -- Repair with the AOF on


def aof(base: bytes, increment: bytes, name: str = BASE_FILE, manifest: str = MANIFEST) -> dict[str, bytes]:
    parts = [Part(name, 2, BASE), Part(name.replace("base.rdb", "incr.aof"), 2, INCREMENT)]
    files = {parts[0].name: base, parts[1].name: increment, manifest: to_text(parts).encode()}
    return {f"appendonlydir/{name}": data for name, data in files.items()}


REPAIRED: dict[str, tuple[Callable[[bytes], dict[str, bytes]], int, str]] = {
    # The keys afterwards, and what repair says is damaged.
    "torn": (lambda base: aof(base, SELECT + SET + SET[:-4]), KEYS + 1, "Expected"),
    "torn transaction": (lambda base: aof(base, SELECT + SET + TRANSACTION[:-14]), KEYS + 1, "EXEC"),
    "another name": (
        lambda base: aof(base, SELECT + SET, "redis.aof.2.base.rdb", "redis.aof.manifest"),
        KEYS + 1,
        "the manifest of redis.aof.2.base.rdb, redis.aof.2.incr.aof is missing",
    ),
    "a way out": (
        lambda base: {
            **aof(base, SELECT + SET),
            f"appendonlydir/{MANIFEST}": b"file ../away.rdb seq 2 type b\nfile %s seq 2 type i\n"
            % INCREMENT_FILE.encode(),
        },
        KEYS + 1,
        "the manifest names '../away.rdb'",
    ),
    "bytes after the base": (lambda base: aof(base + b"garbage", SELECT + SET), KEYS + 1, "7 bytes follow"),
    "one file, torn": (lambda base: {"appendonly.aof": base + SELECT + SET + SET[:-4]}, KEYS + 1, "Expected"),
}


@pytest.mark.parametrize("case", REPAIRED)
def test_aof_is_repaired(with_aof: Server, snapshot: bytes, case: str) -> None:
    files, count, problem = REPAIRED[case]
    with_aof.place(files(snapshot))
    report, printed = with_aof.examine()
    assert (report["source"], report["loaded"]["keys"]) == ("aof", count), printed
    assert problem in report["damaged"][0]["problem"], report
    assert ("torn" in case) == (report["lost"]["size"] > 0), "the loss is shown first"
    with_aof.succeed("repair --yes")
    with with_aof.redis.client() as client:
        assert (with_aof.keys(), client.info("memory")["number_of_libraries"]) == (count, 1)


@pytest.mark.parametrize("tail", [b"", SELECT + SET], ids=["snapshot", "with commands"])
def test_aof_in_one_file_is_intact_and_loads(with_aof: Server, snapshot: bytes, tail: bytes) -> None:
    """Redis moves it into its directory when it starts."""
    count = KEYS + bool(tail)
    with_aof.place({"appendonly.aof": snapshot + tail})
    report, printed = with_aof.examine()
    assert (report["intact"], report["loaded"]["keys"]) == (True, count), printed
    assert "appendonly.aof is an AOF in one file: Redis moves it" in printed
    assert "starts empty" not in printed
    with_aof.redis.start()
    assert with_aof.keys() == count


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda data: data[:300], "it is truncated"),
        (flipped(200), "RDB CRC error"),
        (lambda data: b"REDIS0099" + data[9:], "in RDB format 99"),
        (lambda data: b"VALKEY080" + data[9:], "deploy Valkey 9 or newer"),
    ],
    ids=["truncated", "flipped", "future", "valkey 9"],
)
def test_unusable_base_is_left_alone(
    with_aof: Server, snapshot: bytes, edit: Callable[[bytes], bytes], text: str
) -> None:
    files = aof(edit(snapshot), SELECT + SET)
    with_aof.place(files)
    report, printed = with_aof.examine()
    assert (report["intact"], report["loaded"], text in printed) == (False, None, True), printed
    assert "restore latest" not in printed
    assert with_aof.redis.redisctl("repair --yes").returncode == 1
    assert {name: (with_aof.live / name).read_bytes() for name in files} == files


def test_unreadable_snapshot_next_to_an_aof_is_no_damage(with_aof: Server, snapshot: bytes) -> None:
    """With the AOF on, Redis does not read it."""
    with_aof.place({**aof(snapshot, SELECT + SET), "dump.rdb": b"REDIS0099" + snapshot[9:]})
    report, printed = with_aof.examine()
    assert (report["intact"], report["damaged"]) == (True, []), printed
    assert "in RDB format 99" in printed
    assert "damaged, too" not in printed


def test_disabled_command_in_the_aof_has_a_way_in(with_aof: Server, snapshot: bytes) -> None:
    """The instance has disabled FLUSHALL since it wrote the AOF.

    The advice of repair brings the data.
    """
    with_aof.place(aof(snapshot, SELECT + command("FLUSHALL") + SET))
    report, printed = with_aof.examine()
    assert "the command FLUSHALL, which this instance has disabled" in report["load_error"]
    assert f"redisctl restore {with_aof.live}/appendonlydir loads the AOF" in printed
    with_aof.succeed(f"restore {with_aof.live}/appendonlydir --yes")
    assert with_aof.keys() == 1
