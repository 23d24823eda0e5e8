"""Data of other servers on a deployed host: it arrives, and nothing else does.

tests/redisctl/test_foreign_data.py has every kind of file. Here the AOF is off, and Redis has never saved.
"""

import base64
import json
from collections.abc import Iterator

import pytest

from redisctl.core.journal import Stage
from sandbox.hosts import Host
from tests.deployed_redis import Instance, redisctl, refused
from tests.deployer import Deployer
from tests.lifecycle.conftest import empty_instance
from tests.lifecycle.interruption import Step, interrupt
from tests.lifecycle.test_unclean_stop import RDB_ONLY
from tests.redisctl.foreign_files import LIBRARY, command

ROOT = "/srv/redis"
LIVE = f"{ROOT}/data/live"
FILES = "/root/foreign"
SELECT = command("SELECT", "0")
KEYS = 50
WRONG_HEADER = r"""
import sys
data = open(sys.argv[1], "rb").read()
at = data.index(b"used-mem\xc2") + 9
open(sys.argv[1], "wb").write(data[:at] + (1024**2).to_bytes(4, "little") + data[at + 4 : -8] + bytes(8))
"""


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """Give an instance without AOF that has never saved."""
    with empty_instance(host, deployer, FILES, redis_maxmemory="500mb", **RDB_ONLY) as instance:
        yield instance


def write(redis: Instance, name: str, data: bytes, before: str = "true") -> str:
    """Write a file of another server on the host, after the output of a command."""
    path = f"{FILES}/{name}"
    script = f"mkdir -p {FILES} && {{ {before}; base64 -d; }} >{path}"
    redis.host.run(script, input=base64.b64encode(data).decode(), check=True)
    return path


def test_present_data_survives_a_first_restore(redis: Instance) -> None:
    """Redis has no file at all when the restore begins.

    The present keys become the previous data, and come back by an undo and after a restore that fails.
    """
    assert redis.host.run(f"ls -A {LIVE}").stdout == ""
    redis.call(*(f"SET app:session:{number} {number} EX 72000" for number in range(KEYS)))
    aof = write(redis, "single.aof", SELECT + command("SET", "app:session:foreign", "1"))
    # Redis does not start with the new data.
    interrupt(redis.host, Step(Stage.STARTING, f"echo damaged >{LIVE}/dump.rdb"))
    assert "The old data is back and Redis serves it" in refused(redis, f"restore {aof} --yes")
    assert (redis.keys, redis.call("GET app:session:7")) == (KEYS, ["7"])
    redis.host.run(f"rm {LIVE}/dump.rdb", check=True)
    redis.call("SET app:session:new 1 EX 72000")
    result = redisctl(redis, f"restore {aof} --yes")
    assert (result["warning"], redis.keys, redis.call("GET app:session:foreign")) == ("", 1, ["1"])
    redisctl(redis, "restore --undo --yes")
    assert (redis.keys, redis.call("GET app:session:new")) == (KEYS + 1, ["1"])
    redisctl(redis, "restore --discard-previous --yes")


def test_undo_without_a_file_keeps_the_restored_data(redis: Instance) -> None:
    """An undo saves what it replaces, too, while a BGSAVE runs."""
    aof = write(redis, "single.aof", SELECT + command("SET", "app:session:foreign", "1"))
    before = redis.keys
    redisctl(redis, f"restore {aof} --yes")
    redis.host.run(f"rm {LIVE}/dump.rdb", check=True)
    delay = f"{redis.secrets.renamed_command('CONFIG')} SET rdb-key-save-delay"
    redis.call("SET app:session:late 1 EX 72000", f"{delay} 500000", "BGSAVE", f"{delay} 0")
    assert "rdb_bgsave_in_progress:1" in redis.call("INFO persistence")
    assert redisctl(redis, "restore --undo --yes")["warning"] == ""
    assert redis.keys == before
    redisctl(redis, "restore --undo --yes")
    assert redis.call("MGET app:session:foreign app:session:late") == ["1", "1"]
    redisctl(redis, "restore --discard-previous --yes")


def test_aof_with_a_preamble_arrives_without_its_users(redis: Instance) -> None:
    """Everything after the RDB snapshot arrives, and survives a restart.

    Functions need a flag, and a command that creates a user is refused before Redis stops.
    """
    redis.call("SET app:session:base 1 EX 72000", "SAVE")
    tail = SELECT + command("SET", "app:session:tail", "1", "EX", "72000") + command("FUNCTION", "LOAD", LIBRARY)
    backdoor = command("ACL", "SETUSER", "backdoor", "on", "nopass", "~*", "+@all")
    before = redis.identity
    hostile = write(redis, "hostile.aof", tail + backdoor, f"cat {LIVE}/dump.rdb")
    assert "the AOF contains the command ACL, which changes the server" in refused(redis, f"restore {hostile} --yes")
    assert redis.identity == before

    aof = write(redis, "preamble.aof", tail + command("SET", "x", "1")[:-3], f"cat {LIVE}/dump.rdb")
    keys = redis.keys
    for options, libraries in (("", 0), ("--with-functions", 1)):
        result = redisctl(redis, f"restore {aof} --yes {options}")
        assert (result["functions"], "1 SET" in result["warnings"][0]) == ({"lib": ["f"]}, False)
        redis.host.run("docker restart redis", check=True)
        redis.wait_until_healthy()
        assert (redis.keys, redis.call("GET app:session:tail")) == (keys + 1, ["1"])
        assert f"number_of_libraries:{libraries}" in redis.call("INFO memory")
        assert not [line for line in redis.call("ACL LIST") if "backdoor" in line]
    redisctl(redis, "restore --discard-previous --yes")


def test_compressible_data_needs_no_guess(redis: Instance) -> None:
    """A snapshot takes many times its size in memory, and its header may be wrong.

    The kernel ends the first trial, and the next one gets more memory. A repair grows in the same way.
    """
    with redis.client("queues") as client:
        for number in range(150):
            client.set(f"rq:large:{number}", b"x" * 1024**2)
    assert redis.call("SAVE") == ["OK"]
    rdb = f"{FILES}/large.rdb"
    redis.host.run(f"cp {LIVE}/dump.rdb {rdb}", check=True)
    assert int(redis.host.run(f"stat -c %s {rdb}").stdout) < 5 * 1024**2
    assert redisctl(redis, f"restore {rdb}")["memory"] > 150 * 1024**2
    # The header says 1 MiB. A checksum of zero is not checked.
    redis.host.run(f"python3 - {rdb}", input=WRONG_HEADER, check=True)
    assert redisctl(redis, f"restore {rdb}")["memory"] > 150 * 1024**2
    redis.host.run(f"docker stop redis && cat {rdb} >{LIVE}/dump.rdb", check=True)
    report = json.loads(redis.host.run("redisctl repair --json").stdout)
    assert (report["intact"], report["load_error"], report["loaded"]["keys"] >= 150) == (True, "", True)
    redis.host.run("docker start redis", check=True)
