"""Full memory under write load and with saves.

Nothing is killed, sessions are evicted, jobs stay. With maxmemory equal to the container's limit, the kernel killed
Redis before the first save.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.deployer import Deployer
from tests.lifecycle.conftest import DISCARD_DATA, assert_no_change

SMALL: dict[str, Any] = {"redis_maxmemory": "64mb", "redis_health_interval": 1, "redis_health_retries": 2}
# A key takes 1 KiB with its overhead, so 64 MiB hold about 60,000.
ROUNDS, KEYS = 6, 25_000
JOBS = 2_000

# Writes keys as admin through redis-cli in the container, as fast as Redis accepts them (redis-cli ends with an ECHO,
# which the user sessions may not run). The password comes on standard input.
FILL = """
import subprocess, sys
pattern, first, last, ttl = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
password = sys.stdin.read().strip()
def command(*words):
    return b"*%d\\r\\n" % len(words) + b"".join(b"$%d\\r\\n%s\\r\\n" % (len(w), w) for w in map(str.encode, words))
pipe = subprocess.Popen(["docker", "exec", "-i", "redis", "redis-cli", "--pipe"], stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
pipe.stdin.write(command("AUTH", "admin", password))
for number in range(first, last):
    pipe.stdin.write(command("SET", pattern % number, "x" * 900, *ttl))
pipe.stdin.close()
print(pipe.stdout.read().decode().splitlines()[-1])
"""


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """The shared host with an empty Redis of 64 MiB; empty again afterwards."""
    host.run(DISCARD_DATA)
    yield deployer.instance(host, **SMALL)
    host.run(DISCARD_DATA)


def fill(redis: Instance, pattern: str, numbers: range, *ttl: str) -> str:
    """Write keys of 900 bytes; return redis-cli's count of replies."""
    arguments = " ".join([f"'{pattern}'", str(numbers.start), str(numbers.stop), *ttl])
    script = FILL.replace("'", '"')
    return redis.host.run(
        f"timeout 120 python3 -c '{script}' {arguments}", input=redis.secrets.passwords["admin"], check=True
    ).stdout.strip()


def info(redis: Instance, section: str) -> dict[str, str]:
    lines = redis.call(f"INFO {section}")
    return dict(line.strip().split(":", 1) for line in lines if ":" in line)


def killed(redis: Instance) -> int:
    """Return how many of the container's processes the kernel killed to free memory."""
    files = "/sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control"
    lines = redis.host.run(f"docker exec redis sh -c 'cat {files} 2>/dev/null'").stdout.splitlines()
    counts = [int(line.split()[1]) for line in lines if line.startswith("oom_kill ")]
    assert len(counts) == 1, "the kernel's count was not found"
    return counts[0]


def assert_not_killed(redis: Instance, before: tuple[str, str]) -> None:
    inspected = redis.inspect()
    assert not inspected["State"]["OOMKilled"]
    assert inspected["RestartCount"] == 0
    assert redis.identity == before
    assert killed(redis) == 0


def test_full_redis_under_load_evicts_only_sessions(redis: Instance, deployer: Deployer) -> None:
    before = redis.identity
    assert fill(redis, "rq:job:%d", range(JOBS)).endswith(f"replies: {JOBS + 1}")

    for number in range(ROUNDS):
        # The child of a save shares memory with Redis until Redis writes, so the load follows at once.
        redis.call("BGSAVE" if number % 2 else "BGREWRITEAOF")
        numbers = range(number * KEYS, (number + 1) * KEYS)
        output = fill(redis, "app:session:%d", numbers, "EX", "3600")
        assert_not_killed(redis, before)
        assert output == f"errors: 0, replies: {KEYS + 1}"

    assert int(info(redis, "stats")["evicted_keys"]) > ROUNDS * KEYS // 3
    keys = int(info(redis, "keyspace")["db0"].split(",")[0].removeprefix("keys="))
    assert JOBS < keys < ROUNDS * KEYS
    with redis.client("admin") as admin:
        assert sum(1 for _ in admin.scan_iter("rq:job:*", count=1000)) == JOBS, "a job was evicted"
    persistence = info(redis, "persistence")
    assert persistence["rdb_last_bgsave_status"] == persistence["aof_last_bgrewrite_status"] == "ok"
    assert int(persistence["rdb_saves"]) > 0
    redis.wait_until_healthy()
    # What Redis evicts and refuses for lack of memory is no reason for a change.
    assert_no_change(deployer, redis.host, **SMALL)


def test_redis_full_of_jobs_refuses_writes(redis: Instance) -> None:
    before = redis.identity
    output = fill(redis, "rq:more:%d", range(80_000))
    errors, replies = (int(part.split(": ")[1]) for part in output.split(", "))
    assert errors > 0, "64 MiB took 80 MB"
    with redis.client("admin") as admin:
        new_jobs = sum(1 for _ in admin.scan_iter("rq:more:*", count=1000))
    assert new_jobs == replies - 1 - errors
    assert_not_killed(redis, before)
