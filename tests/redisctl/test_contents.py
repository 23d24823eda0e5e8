"""Reports count live keys, keys with a TTL and functions.

Redis keeps expired keys for a while, and a scratch Redis keeps all of them.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from redisctl.core.contents import Contents, from_dict
from redisctl.core.counting import count_contents
from redisctl.migrate.blockers import count_keys
from tests.redisctl.foreign_files import command, write_rdb
from tests.redisctl.local_containers import LocalContainers, local_containers
from tests.redisctl.local_redis import LocalRedis, load_local_instance, local_redis

LASTING, TTLS, EXPIRED, ELSEWHERE = 10, 30, 2000, 5
LIVE = {"db0": {"keys": LASTING + TTLS, "expires": TTLS}, "db3": {"keys": ELSEWHERE, "expires": 0}}
TEXT = f"{LASTING + TTLS + ELSEWHERE} keys (db0: {LASTING + TTLS}, db3: {ELSEWHERE}), {TTLS} with a TTL"


@pytest.fixture(scope="module", autouse=True)
def containers(image_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalContainers]:
    with local_containers(image_root, tmp_path_factory.mktemp("logs")) as running:
        yield running


@pytest.fixture
def server(image_root: Path, tmp_path: Path) -> Iterator[LocalRedis]:
    """Give a server with live keys and many expired ones.

    While its writes are paused, Redis deletes no expired key.
    """
    with local_redis(image_root, tmp_path, "contents", redis_maxmemory="64mb") as server:
        with server.client() as client, client.pipeline(transaction=False) as pipe:
            for number in range(LASTING):
                pipe.set(f"lasting:{number}", "x")
            for number in range(TTLS):
                pipe.set(f"app:session:{number}", "x", ex=72000)
            pipe.execute_command("SELECT", 3)
            for number in range(ELSEWHERE):
                pipe.set(f"rq:job:{number}", "x")
            for database in (0, 4):
                pipe.execute_command("SELECT", database)
                for number in range(EXPIRED):
                    pipe.set(f"app:session:expired:{number}", "x", px=400)
            pipe.execute_command("SELECT", 0)
            pipe.execute_command("CLIENT", "PAUSE", 600_000, "WRITE")
            pipe.execute()
        time.sleep(0.5)
        yield server


def test_reports_of_a_backup_leave_out_expired_keys(server: LocalRedis) -> None:
    """The backup contains them, because Redis has not deleted them."""
    report = server.report("backup --no-verify")
    assert report["stored"]["db4"] == {"keys": EXPIRED, "expires": EXPIRED}
    # Nothing has counted what is alive.
    assert (report["keys"], report["databases"]) == (None, None)
    assert f"up to {LASTING + TTLS + ELSEWHERE + 2 * EXPIRED} keys" in server.redisctl("backup list").stdout

    report = server.report("backup verify")
    assert (report["keys"], report["databases"]) == (LASTING + TTLS + ELSEWHERE, LIVE)
    assert (report["verified"]["sessions"], report["verified"]["jobs"]) == (TTLS, ELSEWHERE)
    assert f"{TEXT}, compared in" in server.redisctl("backup verify").stdout
    assert f" {TEXT}\n" in server.redisctl("backup list").stdout

    report = server.report("restore latest")
    assert (report["keys"], report["databases"]) == (LASTING + TTLS + ELSEWHERE, LIVE)
    assert f"was test loaded: {TEXT}, " in server.redisctl("restore latest").stdout


def test_repair_leaves_out_expired_keys(server: LocalRedis) -> None:
    with server.client() as client:
        client.execute_command("SAVE")
    assert server.process
    server.process.kill()
    server.process.wait()
    output = server.redisctl("repair --source aof --json")
    assert output.returncode == 1, output
    report = json.loads(output.stdout)
    assert (report["loaded"]["keys"], report["loaded"]["databases"]) == (LASTING + TTLS + ELSEWHERE, LIVE)
    assert (report["loaded"]["sessions"], report["loaded"]["jobs"]) == (TTLS, ELSEWHERE)
    assert report["snapshot"]["keys"] == LASTING + TTLS + ELSEWHERE
    assert f"the AOF: {TEXT}; among them {TTLS} sessions, {ELSEWHERE} jobs" in server.redisctl("repair").stdout
    server.start()


def test_foreign_file_counts_functions_and_live_keys(redis: LocalRedis, tmp_path: Path) -> None:
    """An AOF that sets keys which have expired, after a snapshot of two databases."""
    expired = b"".join(command("SET", f"old:{number}", "x", "PXAT", "1700000000000") for number in range(EXPIRED))
    path = tmp_path / "appendonly.aof"
    path.write_bytes(write_rdb(load_local_instance(redis.root), tmp_path / "data") + command("SELECT", "0") + expired)
    report = redis.report(f"restore {path}")
    assert report["databases"] == {"db0": {"keys": 39, "expires": 18}, "db5": {"keys": 1, "expires": 0}}
    assert report["functions"] == {"lib": ["f"]}
    counts = "was test loaded: 40 keys (db0: 39, db5: 1), 18 with a TTL"
    assert f"{counts}, functions of lib, " in redis.redisctl(f"restore {path} --with-functions").stdout
    # They would not arrive.
    assert f"{counts}, 1" in redis.redisctl(f"restore {path}").stdout


def test_blocker_of_an_import_counts_live_keys(server: LocalRedis) -> None:
    """Expired keys are nothing that an import would replace.

    Redis must not delete them here: SCAN returns some keys twice while a table shrinks.
    """
    instance = load_local_instance(server.root)
    with instance.connect(decode_responses=False) as client:
        assert client.info("keyspace")["db0"]["keys"] == LASTING + TTLS + EXPIRED
        assert count_keys(client) == LASTING + TTLS + ELSEWHERE
        assert count_contents(client).databases == LIVE


def test_blocker_of_an_import_leaves_out_health_keys(redis: LocalRedis) -> None:
    with load_local_instance(redis.root).connect(decode_responses=False) as client:
        before, stored = count_keys(client), count_contents(client).keys
        client.set("redoubt:health:1", "x")
        assert (count_keys(client), count_contents(client).keys) == (before, stored + 1)
        client.delete("redoubt:health:1")


@pytest.mark.parametrize("values", [{}, {"databases": []}, {"databases": {"db0": 1}, "functions": {}}])
def test_result_of_an_older_verification_counts_nothing(values: dict[str, object]) -> None:
    assert from_dict(values) is None


def test_contents_survive_json() -> None:
    contents = Contents(LIVE, {"lib": ["f"]})
    assert from_dict(contents.as_dict()) == contents
