"""Upgrades between real versions with the same data.

They go from Redis 7.0 to 8.0 and 8.6, and from Redis 7.0 to Valkey 8.1 and 9. After each of them a second deploy
changes nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rq import Queue
from rq.job import Job

from redoubt.settings.load import load
from sandbox.hosts import Host
from tests import command_tables
from tests.deployed_redis import Instance, redisctl
from tests.deployer import Deployer, DeployResult
from tests.lifecycle.conftest import remove_instance, settings_for
from tests.lifecycle.test_idempotence import Fingerprint, assert_nothing_changes


@pytest.fixture(scope="module")
def own_host(start_host: Callable[..., Host]) -> Iterator[Host]:
    """A separate host, for data of many versions."""
    host = start_host("lifecycle-upgrades")
    yield host
    host.down()


USERS: dict[str, Any] = {"shop": {"role": "session", "keys": ["shop:*"]}, "exporter": {"role": "metrics"}}


def version(build: str) -> dict[str, Any]:
    """Return settings that deploy a build, with users.

    Each version writes the rules of a user in its own way.
    """
    return {**settings_for(build), "redis_allow_vulnerable_version": True, "redis_users": USERS}


def assert_runs(server: Instance, number: str) -> None:
    """Check the version that runs by its first digits, and that it is healthy.

    Each user may call exactly the commands that were reviewed for this version.
    """
    lines = [line.strip() for line in server.call("INFO server")]
    numbers = [line.split(":") for line in lines if line.startswith(("redis_version:", "valkey_version:"))]
    assert any(version.startswith(number) for _, version in numbers), numbers
    # Valkey reports a version of Redis as well, and its own last.
    engine, running = numbers[-1][0].removesuffix("_version"), numbers[-1][1]
    image = {"redis_engine": engine, "redis_image": f"{engine}:{running}"}
    with server.client("admin", protocol=2, decode_responses=True) as admin:
        command_tables.check_server(admin, load({**image, "redis_users": USERS}))
    # Docker runs the health check of a Redis that a restore started only after an interval.
    server.wait_until_healthy()


def assert_refused(deployer: Deployer, server: Instance, build: str, *, reason: str, **settings: Any) -> None:
    """Deploy a build that is refused, with the reason, while Redis runs undisturbed."""
    before = server.identity
    result: DeployResult = deployer.deploy(server.host, **version(build), **settings)
    assert result.returncode == 1
    assert reason in result.stderr, result.stderr
    assert server.identity == before
    assert server.health == "healthy"


JOBS = [f"job {number}" for number in range(20)]


def write(server: Instance) -> None:
    """Write a session with a TTL, queued jobs, and other types.

    The encodings of these types differ between versions.
    """
    assert server.call("SET app:session:1 kept EX 7200", user="sessions") == ["OK"]
    with server.client("queues") as client:
        queue = Queue("default", connection=client)
        for name in JOBS:
            queue.enqueue(print, name, job_id=name.replace(" ", "-"))
    types = ("HSET t:hash a 1 b 2", "ZADD t:scores 1 one 2 two", "SADD t:set 1 2 3", "XADD t:stream 1-1 field value")
    answers = server.call(*types)
    assert not [line for line in answers if "ERR" in line or "NOPERM" in line], answers


def assert_data_is_complete(server: Instance) -> None:
    """Check everything that write() wrote."""
    value, ttl = server.call("GET app:session:1", "TTL app:session:1", user="sessions")
    assert (value, 0 < int(ttl) <= 7200) == ("kept", True)
    with server.client("queues") as client:
        ids = Queue("default", connection=client).get_job_ids()
        assert [Job.fetch(job_id, connection=client).args for job_id in ids] == [(name,) for name in JOBS]
    answers = server.call("HGET t:hash b", "ZSCORE t:scores two", "SCARD t:set", "XLEN t:stream")
    assert answers == ["2", "2", "3", "1"]


def upgrade(
    host: Host, deployer: Deployer, fingerprint: Fingerprint, *steps: tuple[str, str]
) -> tuple[Instance, list[dict[str, Any]]]:
    """Deploy Redis 7.0 with data, then each step.

    Returns the instance and the backup before each step, newest first.
    """
    for build, number in (("redis-oldstable", "7.0"), *steps):
        result = deployer.deploy(host, **version(build))
        assert result.returncode == 0, result.stderr
        server = Instance(host, deployer.secrets(host))
        assert_runs(server, number)
        if build == "redis-oldstable":
            write(server)
        assert_data_is_complete(server)
        assert_nothing_changes(deployer, host, fingerprint, **version(build))
    backups: list[dict[str, Any]] = redisctl(server, "backup list")["backups"]
    assert [backup["verified"]["verdict"] for backup in backups] == ["ok" for _ in steps]
    return server, backups


def test_redis_upgrades_to_8_6_and_downgrades_by_a_backup(
    own_host: Host, deployer: Deployer, fingerprint: Fingerprint
) -> None:
    server, backups = upgrade(own_host, deployer, fingerprint, ("redis", "8.0"), ("redis-experimental", "8.6"))
    assert [backup["version"][:3] for backup in backups] == ["8.0", "7.0"]

    # 8.0 cannot read what 8.6 wrote: a downgrade needs the backup that the upgrade took.
    assert_refused(deployer, server, "redis", reason="does not read backup")
    stopped = deployer.deploy(own_host, job="day2/stop.py", **version("redis-experimental"))
    assert stopped.returncode == 0, stopped.stderr
    own_host.run("mv /srv/redis/data/live /srv/redis/data/live.newer", check=True)
    back = deployer.deploy(own_host, **version("redis"), redis_allow_data_loss="empty")
    assert back.returncode == 0, back.stderr
    own_host.run(f"redisctl restore {backups[0]['id']} --yes", check=True)
    server = Instance(own_host, deployer.secrets(own_host))
    assert_runs(server, "8.0")
    assert_data_is_complete(server)
    assert_nothing_changes(deployer, own_host, fingerprint, **version("redis"))

    assert_refused(deployer, server, "valkey", reason="Redis 7.4 or newer")
    # The new version loads the backup with the modules of its own configuration.
    module = {"redis_extra_config": {"loadmodule": "/no/such/module.so"}}
    assert_refused(deployer, server, "redis-experimental", reason="does not read backup", **module)
    assert_data_is_complete(server)
    own_host.run("rm -r /srv/redis/data/live.newer", check=True)


def test_redis_7_0_upgrades_to_valkey_8_1_and_9(own_host: Host, deployer: Deployer, fingerprint: Fingerprint) -> None:
    remove_instance(own_host)
    upgrade(own_host, deployer, fingerprint, ("valkey", "8.1"), ("valkey-testing", "9."))
