"""Data files of other servers: what arrives, and what is left out or refused.

A real server writes them, loads them and reads the result. Nothing of an instance is replaced here; see
tests/lifecycle/test_foreign_data.py.
"""

import gzip
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from redisctl.core import trial
from redisctl.core.instance import Instance
from redisctl.core.scratch_redis import running_redis, scratch_directory, scratch_name
from redisctl.core.trial import Source, loaded_redis
from redisctl.data import layout
from redisctl.data.restore import Candidate, Prepared, find_candidate, prepared
from tests.redisctl.foreign_files import KEYS, LIBRARY, Edit, command, flipped, write_aof, write_rdb
from tests.redisctl.local_containers import LocalContainers, local_containers
from tests.redisctl.local_redis import LocalRedis, load_local_instance

SELECT, SET = command("SELECT", "0"), command("SET", "new", "1")
TRANSACTION = command("MULTI") + command("SET", "in", "1") + command("SET", "in", "2") + command("EXEC")


@dataclass
class Foreign:
    """An instance, and files of another server.

    ``rdb`` is an RDB snapshot of that server.
    """

    redis: LocalRedis
    instance: Instance
    directory: Path
    rdb: bytes

    def write(self, name: str, data: bytes) -> Path:
        """Write a file."""
        path = self.directory / name
        path.write_bytes(data)
        return path

    def dry_run(self, path: Path, options: str = "") -> dict[str, Any]:
        """Return what a restore without --yes reports."""
        return self.redis.report(f"restore {path} {options}")

    def refusal(self, path: Path) -> str:
        """Return the message of a restore that must be refused."""
        return self.redis.refusal(f"restore {path} --yes")


@pytest.fixture(scope="module")
def containers(image_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalContainers]:
    with local_containers(image_root, tmp_path_factory.mktemp("logs")) as running:
        yield running


@pytest.fixture(scope="module")
def snapshot(redis: LocalRedis, containers: LocalContainers, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_rdb(load_local_instance(redis.root), tmp_path_factory.mktemp("plain") / "data")


@pytest.fixture
def foreign(redis: LocalRedis, snapshot: bytes, tmp_path: Path) -> Foreign:
    return Foreign(redis, load_local_instance(redis.root), tmp_path, snapshot)


def staged(instance: Instance, data: Prepared) -> Source:
    """Return the data that an instance would get."""
    rdb = layout.staged_rdb(instance, data.directory)
    assert {path.name for path in data.directory.rglob("*") if path.is_file()} <= {
        rdb.name,
        "appendonly.aof.manifest",
    }, "the instance gets nothing but an RDB snapshot"
    return Source(rdb)


def values(redis: Redis) -> dict[str, Any]:
    """Return what a test wants to know of a server."""
    info = redis.info("keyspace")
    return {
        "keys": sum(database["keys"] for database in info.values()),
        "databases": sorted(info),
        "functions": len(redis.execute_command("FUNCTION", "LIST")),
        "users": len(redis.execute_command("ACL", "LIST")),
        "fields": redis.hlen(b"\xff\x00hash"),
    }


@pytest.mark.parametrize("with_functions", [False, True])
def test_snapshot_arrives_and_functions_need_a_flag(foreign: Foreign, *, with_functions: bool) -> None:
    path = foreign.write("dump.rdb", foreign.rdb)
    report = foreign.dry_run(path, "--with-functions" if with_functions else "")
    assert (report["keys"], report["functions"], report["warnings"]) == (KEYS, {"lib": ["f"]}, [])
    text = foreign.redis.redisctl(f"restore {path} {'--with-functions' if with_functions else ''}").stdout
    assert ("lib (f) are restored" if with_functions else "--with-functions is given: lib (f)") in text
    candidate = Candidate(path)
    with prepared(foreign.instance, candidate, with_functions=with_functions) as data:
        source = staged(foreign.instance, data)
        with loaded_redis(foreign.instance, source) as loaded:
            found = values(loaded)
    expected = {"keys": KEYS, "databases": ["db0", "db5"], "functions": int(with_functions), "users": 1, "fields": 20}
    assert found == expected


def test_backup_of_another_host_is_foreign(foreign: Foreign) -> None:
    """Its place among the backups does not make it this instance's own."""
    own = Path(foreign.redis.report("backup --no-verify")["path"])
    values_ = json.loads((own / "backup.json").read_text())
    at = values_["taken_at"]
    # Another one, older and without the AOF, but with a function.
    copy = own.with_name("20260101T000000Z")
    copy.mkdir()
    (copy / "dump.rdb").write_bytes(foreign.rdb)
    (copy / "samples.json").write_text("[]")
    files = {"dump.rdb": {"size": len(foreign.rdb), "sha256": hashlib.sha256(foreign.rdb).hexdigest()}}
    databases = {"db0": {"keys": KEYS - 1, "expires": (KEYS - 3) // 2}, "db5": {"keys": 1, "expires": 0}}
    copied = {**values_, "id": copy.name, "files": files, "databases": databases}
    try:
        for changes in ({}, {"host": "redis-9"}, {"instance": "queue"}):
            (copy / "backup.json").write_text(json.dumps(copied | changes))
            (own / "backup.json").write_text(json.dumps(values_ | changes))
            text = foreign.redis.redisctl(f"restore {copy.name}").stdout
            name, host = ({"instance": foreign.instance.name, "host": socket.gethostname()} | changes).values()
            origin = f"backup {copy.name} is from the instance {name} on the host {host}, not from"
            assert (origin in text) == bool(changes), text
            assert ("left out, unless --with-functions is given: lib (f)" in text) == bool(changes), text
            assert ("with a TTL, functions of lib, " in text) != bool(changes), text
            with prepared(foreign.instance, find_candidate(foreign.instance, copy.name, None)) as data:
                assert data.is_foreign == bool(changes)
            # A point in time is that of this instance's data.
            candidate = find_candidate(foreign.instance, "", at)
            assert candidate.created_now == bool(changes)
            if candidate.created_now:
                shutil.rmtree(candidate.path)
    finally:
        shutil.rmtree(own)
        shutil.rmtree(copy)


FORGED_REPORT = b"x'\n--- RDB ERROR DETECTED ---\n[offset 4]"
FORGED_FIELD = b"\xfa\x01a" + bytes([len(FORGED_REPORT)]) + FORGED_REPORT
UNUSABLE: dict[str, tuple[Edit, str]] = {
    "truncated": (lambda data: data[:300], "it is truncated"),
    "flipped": (flipped(200), "RDB CRC error"),
    "forged": (lambda data: data[:9] + FORGED_FIELD + data[9:], "imitates the report of redis-check-rdb"),
    "future": (lambda data: b"REDIS0099" + data[9:], "in RDB format 99, and Redis "),
    "valkey 9": (lambda data: b"VALKEY080" + data[9:], "deploy Valkey 9 or newer"),
    "gzip": (gzip.compress, "unpack it first (gunzip)"),
    "text": (lambda _: b"Hello\n", "neither an RDB snapshot nor an AOF"),
    "binary after a hash sign": (lambda _: b"#\xff\x00garbage", "neither an RDB snapshot nor an AOF"),
    "binary after a star": (lambda _: b"*7\x00\x01", "neither an RDB snapshot nor an AOF"),
    "empty": (lambda _: b"", "neither an RDB snapshot nor an AOF"),
    "middle": (lambda _: SELECT + SET + b"garbage\n" + SET, "is damaged at byte"),
    "number": (lambda _: SELECT + SET.replace(b"$1\r\n", b"$9999\r\n") + SET + TRANSACTION, "is damaged at byte"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_file_is_refused_with_advice(foreign: Foreign, case: str) -> None:
    edit, message = UNUSABLE[case]
    refusal = foreign.refusal(foreign.write("dump.rdb", edit(foreign.rdb)))
    assert message in refusal, refusal
    assert "restore latest" not in refusal


def test_keys_beyond_redis_databases_are_refused(foreign: Foreign) -> None:
    rdb = write_rdb(foreign.instance, foreign.directory / "data", database=20)
    refusal = foreign.refusal(foreign.write("dump.rdb", rdb))
    assert "has keys in db20, and redis_databases is 16: set redis_databases = 21" in refusal
    aof = foreign.write("appendonly.aof", SELECT + SET + command("SELECT", "20") + SET)
    assert "uses databases beyond db15: set redis_databases" in foreign.refusal(aof)


def test_no_error_hides_that_keys_get_into_another_database(foreign: Foreign) -> None:
    """Redis runs what follows a SELECT that fails in the database before."""
    others = [("LPUSH", "new", "1"), ("HSET", "new", "a", "1"), ("SADD", "new", "1"), ("ZADD", "new", "1", "a")]
    others += [("INCR", "text"), ("XADD", "new", "*", "a", "b"), ("SETRANGE", "list", "1", "x")]
    text = SELECT + SET + command("SET", "text", "a") + command("RPUSH", "list", "1")
    wrong = command("SELECT", "20") + command("SET", "key", "20") + SELECT
    rest = b"".join(command(*words) for words in others) * 3
    assert "uses databases beyond db15" in foreign.refusal(foreign.write("data.aof", text + wrong + rest))
    (*_, rest_of_errors) = foreign.dry_run(foreign.write("data.aof", text + rest))["warnings"]
    assert rest_of_errors == "6 more commands of the AOF failed, for other reasons"


def test_log_without_its_beginning_is_refused(foreign: Foreign, containers: LocalContainers) -> None:
    """Docker keeps some MiB of it, and the first errors may be gone."""
    path = foreign.write("data.aof", SELECT + SET)
    containers.log_start = 3
    try:
        assert "more commands of the AOF fail than the log" in foreign.refusal(path)
    finally:
        containers.log_start = 0
    assert foreign.dry_run(path)["keys"] == 1


def test_damaged_value_without_checksum_is_refused(foreign: Foreign) -> None:
    """A plain server loads it, and crashes when a client reads the value."""
    rdb = write_rdb(foreign.instance, foreign.directory / "data", checksum=False)
    at = rdb.index(b"field7") - 1
    refusal = foreign.refusal(foreign.write("dump.rdb", flipped(at)(rdb)))
    assert "integrity check failed" in refusal, refusal
    # An AOF loads values, too.
    refusal = foreign.refusal(write_aof(foreign.directory / "aof", flipped(at)(rdb), SELECT + SET))
    assert "integrity check failed" in refusal, refusal


ACCEPTED: dict[str, tuple[Edit, int, str]] = {
    # The keys of the snapshot and those after it, and what is left out.
    "bytes after the end": (lambda data: data + b"\x00\xff" * 50, KEYS, "100 bytes follow"),
    "a newline after the end": (lambda data: data + b"\n", KEYS, "1 bytes follow"),
    "a hash sign after the end": (lambda data: data + b"#\xff\x00garbage", KEYS, "10 bytes follow"),
    "an AOF with garbage after it": (lambda _: SELECT + SET + bytes(50), 1, "ends with bytes that are no command"),
    "an AOF that ends after a star": (lambda data: data + SELECT + SET + b"*", KEYS + 1, "ends inside a command"),
    "an AOF with an RDB preamble": (lambda data: data + SELECT + SET + TRANSACTION, KEYS + 2, ""),
    "a torn AOF with an RDB preamble": (lambda data: data + SELECT + SET + TRANSACTION[:40], KEYS + 1, "1 MULTI"),
    "an AOF": (lambda _: SELECT + SET + TRANSACTION, 2, ""),
    "an AOF with times": (lambda _: b"#TS:1700000000\r\n" + SELECT + SET, 1, ""),
    "a torn AOF": (lambda _: SELECT + SET + SET[:-4], 1, "ends inside a command"),
    "a torn transaction": (lambda _: SELECT + SET + TRANSACTION[:-14], 1, "2 SET, 1 MULTI"),
    "FLUSHALL in it": (lambda data: data + SELECT + command("FLUSHALL") + SET, 1, ""),
    "a script in it": (lambda _: command("EVAL", "redis.call('SET', 'a', '1')", "0"), 1, ""),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_file_that_redis_loads_arrives_completely(foreign: Foreign, case: str) -> None:
    edit, count, warning = ACCEPTED[case]
    path = foreign.write("data", edit(foreign.rdb))
    report = foreign.dry_run(path)
    assert report["keys"] == count
    assert [warning in text for text in report["warnings"]] == ([True] if warning else []), report
    assert path.read_bytes() == edit(foreign.rdb), "the file of the operator is only read"
    # A person reads the loss before anything is replaced.
    assert warning in foreign.redis.redisctl(f"restore {path}").stdout


@pytest.mark.parametrize("name", ["appendonly.aof", "redis.aof", "my log"])
def test_aof_directory_arrives_whatever_its_names(foreign: Foreign, name: str) -> None:
    aof = write_aof(foreign.directory / "aof", foreign.rdb, SELECT + SET + TRANSACTION[:-4], name)
    report = foreign.dry_run(aof)
    assert (report["keys"], report["functions"]) == (KEYS + 1, {"lib": ["f"]})
    assert "2 SET, 1 MULTI" in report["warnings"][0]
    with prepared(foreign.instance, Candidate(aof)) as data:
        source = staged(foreign.instance, data)
        with loaded_redis(foreign.instance, source) as loaded:
            assert values(loaded)["functions"] == 0


def test_aof_that_leads_elsewhere_is_refused(foreign: Foreign) -> None:
    aof = write_aof(foreign.directory / "aof", foreign.rdb, SELECT + SET)
    manifest, base = aof / "appendonly.aof.manifest", aof / "appendonly.aof.1.base.rdb"
    text = manifest.read_text()
    for name in ("../away.rdb", "/etc/passwd", '"../away.rdb"', '"..\\x2faway.rdb"'):
        manifest.write_text(text.replace(base.name, name))
        assert "a part of an AOF lies in the AOF's directory" in foreign.refusal(aof)
    manifest.write_text(text)
    (foreign.directory / "away.rdb").write_bytes(foreign.rdb)
    base.unlink()
    base.symlink_to("../away.rdb")
    assert "a symbolic link" in foreign.refusal(aof)
    base.unlink()
    os.mkfifo(base)
    assert "not a regular file" in foreign.refusal(aof)
    (aof / "b.manifest").write_text(text)
    assert "has several manifests" in foreign.refusal(aof)
    os.mkfifo(foreign.directory / "fifo")
    assert "not a regular file" in foreign.refusal(foreign.directory / "fifo")


def test_damage_before_the_last_part_is_refused(foreign: Foreign) -> None:
    """Later commands may have another meaning without those that are missing."""
    aof = write_aof(foreign.directory / "aof", foreign.rdb + SELECT + SET[:-4], SELECT + SET)
    assert "base.rdb is damaged at byte" in foreign.refusal(aof)
    # These bytes are no command, and nothing is missing without them.
    aof = write_aof(foreign.directory / "other", foreign.rdb + b"garbage", SELECT + SET)
    report = foreign.dry_run(aof)
    assert (report["keys"], "7 bytes follow" in report["warnings"][0]) == (KEYS + 1, True)


@pytest.mark.parametrize(
    "words",
    [
        ("ACL", "SETUSER", "backdoor", "on", "nopass", "~*", "+@all"),
        ("CONFIG", "SET", "dir", "/source"),
        ("MIGRATE", "10.0.0.1", "6379", "new", "0", "1000"),
    ],
    ids=lambda words: words[0],
)
def test_aof_that_changes_the_server_is_refused(foreign: Foreign, words: tuple[str, ...]) -> None:
    hostile = command("MULTI") + SET + command(*words) + command("EXEC")
    aof = write_aof(foreign.directory / "aof", foreign.rdb, SELECT + SET + hostile)
    assert f"the AOF contains the command {words[0]}, which changes the server" in foreign.refusal(aof)


def test_trial_knows_no_command_that_changes_the_server(foreign: Foreign) -> None:
    """And it still knows every command that writes data."""
    with (
        scratch_directory(foreign.instance) as directory,
        running_redis(foreign.instance, scratch_name(foreign.instance), directory, {}, 0) as redis,
    ):
        unknown = set(trial.administrative(redis))
        writes = {name.decode() for name in redis.execute_command("ACL", "CAT", "write")}
    assert unknown >= {
        *("acl", "config", "replicaof", "slaveof", "module", "migrate", "debug", "shutdown", "cluster", "failover"),
        *("bgrewriteaof", "bgsave", "save", "sync", "psync", "replconf", "client", "latency", "slowlog", "monitor"),
    }
    assert writes & unknown <= {"migrate", "pfdebug"}


def test_script_in_an_aof_cannot_change_the_server(foreign: Foreign) -> None:
    script = "redis.call('SET', 'a', '1'); redis.pcall('ACL', 'SETUSER', 'backdoor', 'on', 'nopass', '~*', '+@all')"
    path = foreign.write("data.aof", SELECT + command("EVAL", script, "0") + command("FUNCTION", "LOAD", LIBRARY))
    report = foreign.dry_run(path)
    assert (report["keys"], report["functions"]) == (1, {"lib": ["f"]})
    with (
        prepared(foreign.instance, Candidate(path)) as data,
        loaded_redis(foreign.instance, staged(foreign.instance, data)) as loaded,
    ):
        assert (values(loaded)["users"], values(loaded)["functions"]) == (1, 0)


def test_commands_that_fail_are_reported(foreign: Foreign) -> None:
    """Any server that loads the AOF ignores them."""
    path = foreign.write("data.aof", SELECT + SET + command("LPUSH", "new", "1") * 2)
    report = foreign.dry_run(path)
    assert report["keys"] == 1
    assert "2 commands of the AOF failed, as in any server that loads it: LPUSH: -WRONGTYPE" in report["warnings"][0]


def test_file_that_crashes_a_server_is_refused(foreign: Foreign) -> None:
    """An unknown command in a script crashes Redis 8.0 while it loads an AOF."""
    path = foreign.write("data.aof", SELECT + command("EVAL", "redis.call('NOSUCH')", "0"))
    assert "Redis crashes when it loads the data" in foreign.refusal(path)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("ACL", "SETUSER", "backdoor", "on", "nopass", "~*", "+@all"), "users"),
        (("CONFIG", "SET", "maxmemory-policy", "allkeys-random"), "configuration"),
        (("REPLICAOF", "127.0.0.1", "2"), "role, configuration"),
    ],
)
def test_changed_server_is_noticed_even_if_commands_work(
    foreign: Foreign, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], what: str
) -> None:
    """The second line of defence, for a way that the first one does not know."""
    monkeypatch.setattr(trial, "administrative", lambda _: [])
    # The instance has renamed CONFIG, and a foreign AOF does not know that.
    path = foreign.write("data.aof", SELECT + SET + command(*words))
    assert f"the AOF changes the server, not only the data ({what})" in foreign.refusal(path)


def test_trial_is_configured_like_the_instance(foreign: Foreign, containers: LocalContainers) -> None:
    conf = foreign.redis.root / "config/redis.conf"
    text = conf.read_text()
    path = foreign.write("dump.rdb", foreign.rdb)
    try:
        conf.write_text(text.replace("databases 16", "databases 5"))
        assert "has keys in db5, and redis_databases is 5" in foreign.refusal(path)
        larger = write_rdb(foreign.instance, foreign.directory / "data", database=20)
        conf.write_text(text.replace("databases 16", "databases 21"))
        assert foreign.dry_run(foreign.write("larger.rdb", larger))["databases"]["db20"]["keys"] == 1
        conf.write_text(f"{text}\nloadmodule /no/such/module.so\n")
        assert "/no/such/module.so" in foreign.refusal(path)
        conf.write_text(f"{text}\nlist-compress-depth 1\nmaxmemory-policy allkeys-lfu\n")
        with (
            prepared(foreign.instance, Candidate(path)) as data,
            loaded_redis(foreign.instance, staged(foreign.instance, data)) as loaded,
        ):
            config = loaded.execute_command("CONFIG", "GET", "list-compress-depth", "maxmemory-policy", "sanitize*")
            assert {b"1", b"allkeys-lfu", b"yes"} <= set(config)
    finally:
        conf.write_text(text)
    networks = {words[words.index("--network") + 1] for words in containers.runs}
    assert networks == {"none"}
