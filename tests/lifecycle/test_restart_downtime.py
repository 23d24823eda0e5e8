"""Deploys that restart Redis, and how long clients wait.

No acknowledged write is lost, and nothing is killed.

``RESTART_SESSIONS=0,100000,1000000 pytest tests/lifecycle/test_restart_downtime.py -rP`` prints the times, for
docs/changes.md.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sandbox.hosts import Host
from tests.deployed_redis import Instance, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import empty_instance

SETTINGS: dict[str, Any] = {"redis_maxmemory": "2gb"}
# Redis restarts with each of these numbers of sessions, and with the last one also without the AOF.
SESSIONS = [int(number) for number in os.environ.get("RESTART_SESSIONS", "100000").split(",")]

# For one changed setting that Redis reads when it starts. 15 were measured, with three inspections of the instance.
MAX_SSH_COMMANDS = 16

# Writes sessions of a few hundred bytes as inline commands. {first} is included, {last} is not.
FILL = (
    '{{ printf "AUTH admin %s\\n" "$(cat /srv/redis/secrets/admin)"; '
    'awk \'BEGIN {{ v = sprintf("%0400d", 0); for (i = {first}; i < {last}; i++) '
    'printf "SET app:session:%032d %s EX 7200\\r\\n", i, v }}\'; }} '
    "| timeout 300 docker exec -i redis redis-cli --pipe"
)

# Runs on the host: a client of the published port that writes number after number, each until it is acknowledged, while
# /run/write exists, at most five minutes. Prints the longest wait between two writes, and how many there were.
WRITE = """
import json, os, sys, time
sys.path.insert(0, "/srv/redis/redisctl")
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
password = open("/srv/redis/secrets/sessions").read().strip()
redis = Redis(port=6379, username="sessions", password=password, socket_timeout=2, retry=Retry(NoBackoff(), 0))
number, longest, errors, start = 0, 0.0, 0, time.perf_counter()
last = start
while os.path.exists("/run/write") and time.perf_counter() < start + 300:
    try:
        redis.set(f"app:session:written:{number}", number, ex=7200)
    except (RedisError, OSError):
        errors += 1
        time.sleep(0.005)
        continue
    now = time.perf_counter()
    longest, last, number = max(longest, now - last), now, number + 1
    time.sleep(0.001)
print(json.dumps({"written": number, "longest": longest, "errors": errors}))
"""


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    with empty_instance(host, deployer, **SETTINGS) as instance:
        yield instance


@contextmanager
def writing(redis: Instance) -> Iterator[dict[str, Any]]:
    """Write with a client while the block runs.

    Afterwards the dictionary has what the client measured.
    """
    measured: dict[str, Any] = {}
    unit = "systemd-run --quiet --unit=lifecycle-writes --property=StandardOutput=file:/run/written"
    redis.host.run("touch /run/write; rm -f /run/written; cat >/run/write.py", input=WRITE, check=True)
    redis.host.run(f"{unit} python3 /run/write.py", check=True)
    try:
        wait_until(lambda: redis.call("EXISTS app:session:written:100") == ["1"], "a client writes", 20)
        yield measured
    finally:
        redis.host.run("rm -f /run/write")
        wait_until(lambda: redis.host.run("test -s /run/written").returncode == 0, "the client has ended", 60)
    measured.update(json.loads(redis.host.run("cat /run/written; rm /run/written /run/write.py", check=True).stdout))


def test_restart_loses_no_write_and_kills_nothing(redis: Instance, deployer: Deployer) -> None:
    """With the AOF and without it."""
    present = writes = 0
    for number, (keys, aof) in enumerate([*((keys, True) for keys in SESSIONS), (SESSIONS[-1], False)]):
        if keys > present:
            filled = redis.host.run(FILL.format(first=present, last=keys), check=True).stdout
            assert filled.endswith(f"errors: 0, replies: {keys - present + 1}\n"), filled
        present = keys
        redis.call("DEL " + " ".join(["none", *(f"app:session:written:{number}" for number in range(writes))]))
        memory = dict(line.split(":") for line in redis.call("INFO memory") if ":" in line)
        before = redis.identity
        redis.host.run(": >/srv/redis/logs/redis.log", check=True)
        with writing(redis) as measured:
            persistence: dict[str, Any] = {"redis_appendonly": aof, "redis_allow_data_loss": "persistence"}
            result = deployer.deploy(redis.host, **SETTINGS, **persistence, redis_tcp_backlog=600 + number)
        assert result.returncode == 0, result.stderr
        assert result.ssh_commands <= MAX_SSH_COMMANDS or not aof, result.stderr
        assert redis.identity != before
        assert "ready to exit, bye bye" in redis.host.run("cat /srv/redis/logs/redis.log").stdout
        assert measured["errors"] > 0, "the client saw no restart"
        exists = [f"EXISTS app:session:written:{number}" for number in range(measured["written"])]
        assert redis.call(*exists) == ["1"] * measured["written"]
        writes = measured["written"]
        assert int(redis.call("DBSIZE")[0]) >= keys + measured["written"]
        print(
            f"{keys} sessions, {int(memory['used_memory']) / 1024**2:.0f} MiB, {'AOF' if aof else 'RDB snapshot'}: "
            f"the longest wait of a client was {measured['longest']:.1f} s"
        )
