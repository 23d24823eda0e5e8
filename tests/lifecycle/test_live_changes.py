"""Changes of a running Redis while clients use it.

The plan names the settings that need a restart.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError, RedisError

from redoubt.settings.load import load
from sandbox.hosts import Host
from tests.deployed_redis import Instance, wait_until
from tests.deployer import Deployer, DeployResult
from tests.lifecycle.conftest import assert_no_change, remove_instance

CHANGE = "Service | Change the running Redis"
WRITE = "Service | Write the Compose project"
START = "Service | Start Redis and wait until it is healthy"

# Why a change that loses data is refused.
EVICTION = "it would evict keys by volatile-lru until they fit"
POLICY = "evicts any key, also queues and jobs"
PERSISTENCE = "a crash loses all changes since the last one"

# Something of everything that can change live, with more memory than before.
LIVE: dict[str, Any] = {
    "redis_maxmemory": "1200mb",
    "redis_maxmemory_policy": "volatile-ttl",
    "redis_maxmemory_samples": 5,
    "redis_hash_max_listpack_entries": 512,
    "redis_list_max_listpack_size": -2,
    "redis_lazyfree": False,
    "redis_save": "900 1",
    "redis_appendfsync": "always",
    "redis_aof_timestamps": False,
    "redis_timeout": 0,
    "redis_tcp_keepalive": 30,
    "redis_notify_keyspace_events": "KEA",
    "redis_container_cpus": 1.5,
    "redis_container_cpu_reservation": 0.25,
    "redis_container_pids": 200,
    "redis_container_memory_reservation": "256M",
    "redis_restart": "always",
    "redis_loglevel": "verbose",
    "redis_slowlog_log_slower_than": 500,
    "redis_slowlog_max_len": 100,
    "redis_latency_monitor_threshold": 50,
    "redis_users": {"shop": {"role": "session", "keys": ["shop:session:*"]}},
}


@dataclass
class Load:
    """Counts of clients that never reconnect: answers and errors.

    ``longest`` is the longest wait in seconds.
    """

    answers: int = 0
    errors: list[str] = field(default_factory=list)
    longest: float = 0.0


@contextmanager
def clients(redis: Instance) -> Iterator[Load]:
    """Run three clients: a writer of sessions, a worker and a subscriber.

    The worker serves a queue, and the subscriber gets expired keys.
    """
    load, stop = Load(), threading.Event()

    def repeat(client: Redis, request: Any) -> None:
        with client.client() as connection:
            while not stop.is_set():
                start = time.monotonic()
                try:
                    request(connection)
                except RedisError as error:
                    load.errors.append(repr(error))
                    return
                load.longest = max(load.longest, time.monotonic() - start)
                load.answers += 1

    def work(connection: Any) -> None:
        connection.rpush("rq:queue:live", "job")
        assert connection.blpop(["rq:queue:live"], timeout=5) is not None

    with redis.client("sessions") as sessions, redis.client("queues") as queues:
        subscriber = sessions.pubsub()
        subscriber.subscribe("__keyevent@0__:expired")
        threads = [
            threading.Thread(target=repeat, args=arguments)
            for arguments in (
                (sessions, lambda connection: connection.set("app:session:live", "x", ex=7200)),
                (queues, work),
            )
        ]
        for thread in threads:
            thread.start()
        try:
            yield load
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)
        with redis.client("sessions") as other:
            other.set("app:session:gone", "x", px=1)

        def is_received() -> bool:
            message = subscriber.get_message(timeout=1)
            return message is not None and message["data"] == b"app:session:gone"

        wait_until(is_received, "the subscriber receives the event", 10, pause=0)
        subscriber.close()


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    remove_instance(host)
    assert deployer.deploy(host).returncode == 0
    yield Instance(host, deployer.secrets(host))
    remove_instance(host)


def running_values(redis: Instance) -> dict[str, Any]:
    """Return the container's limits from Docker, and directives from Redis."""
    limits = redis.inspect()["HostConfig"]
    names = ("Memory", "MemorySwap", "NanoCpus", "CpuShares", "PidsLimit", "RestartPolicy")
    return {name: limits[name] for name in names} | {
        name: redis.config(name) for name in ("maxmemory", "maxmemory-policy", "slowlog-max-len", "save")
    }


def assert_changed_live(result: DeployResult) -> None:
    assert result.returncode == 0, result.stderr
    assert CHANGE in result.changed
    assert START not in result.changed


def test_clients_do_not_notice_a_live_change(redis: Instance, deployer: Deployer) -> None:
    """There, and back to less memory."""
    identity, before = redis.identity, running_values(redis)
    planned = deployer.deploy(redis.host, arguments=("--dry",), **LIVE)
    assert "redis_maxmemory: 1gb becomes 1200mb" in planned.reasons
    assert not [reason for reason in planned.reasons if "restarts because of" in reason]
    assert running_values(redis) == before

    with clients(redis) as load_:
        result = deployer.deploy(redis.host, **LIVE)
    assert_changed_live(result)
    assert (load_.errors, redis.identity) == ([], identity)
    assert load_.answers > 1000
    settings = load(LIVE)
    assert running_values(redis) == {
        "Memory": settings.memory_limit,
        "MemorySwap": settings.memory_limit + 1,
        "NanoCpus": 1_500_000_000,
        "CpuShares": 256,
        "PidsLimit": 200,
        "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
        "maxmemory": str(settings.redis_maxmemory),
        "maxmemory-policy": "volatile-ttl",
        "slowlog-max-len": "100",
        "save": "900 1",
    }

    with clients(redis) as load_:
        result = deployer.deploy(redis.host)
    assert_changed_live(result)
    assert (load_.errors, redis.identity, running_values(redis)) == ([], identity, before)


def test_clients_do_not_notice_repaired_drift(redis: Instance, deployer: Deployer) -> None:
    identity, before = redis.identity, running_values(redis)
    redis.host.run("docker update --memory 2g --memory-swap 2g --cpus 0.7 --restart no redis", check=True)
    name = redis.secrets.renamed_command("CONFIG")
    redis.call(f"{name} SET maxmemory 2gb maxmemory-policy noeviction timeout 0", "ACL SETUSER queues +@all")
    with clients(redis) as load_:
        result = deployer.deploy(redis.host)
    assert_changed_live(result)
    assert (load_.errors, redis.identity, running_values(redis)) == ([], identity, before)
    assert "+@all" not in "".join(redis.call("ACL LIST")).split("user queues")[1].split("user ")[0]


@pytest.mark.parametrize("operation", [CHANGE, WRITE, START])
def test_a_killed_live_change_is_finished_without_a_restart(
    operation: str, redis: Instance, deployer: Deployer
) -> None:
    identity = redis.identity
    settings: dict[str, Any] = {"redis_maxmemory": f"{[CHANGE, WRITE, START].index(operation) + 2}gb"}
    running = deployer.start(redis.host, **settings)
    running.wait_for(f"Starting operation: {operation}")
    running.signal(signal.SIGKILL)
    assert running.wait().returncode == -signal.SIGKILL
    result = deployer.deploy(redis.host, **settings)
    assert result.returncode == 0, result.stderr
    assert redis.identity == identity
    assert redis.config("maxmemory") == str(load(settings).redis_maxmemory)
    assert redis.inspect()["HostConfig"]["Memory"] == load(settings).memory_limit


@pytest.mark.core
def test_the_plan_names_the_settings_that_need_a_restart(redis: Instance, deployer: Deployer) -> None:
    identity = redis.identity
    redis.call("SET rq:restart kept", user="queues")
    settings: dict[str, Any] = {"redis_tcp_backlog": 600, "redis_health_interval": 5, "redis_slowlog_max_len": 200}
    planned = deployer.deploy(redis.host, arguments=("--dry",), **settings)
    assert planned.returncode == 0, planned.stderr
    reasons = [reason for reason in planned.reasons if "restarts because of" in reason]
    assert reasons == [
        "redis restarts because of redis_tcp_backlog: 511 becomes 600",
        "redis restarts because of redis_health_interval: 30 becomes 5",
    ]
    assert redis.identity == identity
    result = deployer.deploy(redis.host, **settings)
    assert result.returncode == 0, result.stderr
    assert set(reasons) <= set(result.reasons)
    assert redis.identity != identity
    assert (redis.config("tcp-backlog"), redis.config("slowlog-max-len")) == ("600", "200")
    assert redis.call("GET rq:restart", user="queues") == ["kept"]


def test_an_app_service_does_not_recreate_a_changed_redis(redis: Instance, deployer: Deployer) -> None:
    """A deploy of an application service keeps a Redis that was changed live.

    Compose would recreate it, because the limits of the container differ from those it was created with.
    """
    assert deployer.deploy(redis.host).returncode == 0
    assert_changed_live(deployer.deploy(redis.host, redis_maxmemory="900mb"))
    identity = redis.identity
    web = {"image": redis.inspect()["Config"]["Image"], "entrypoint": ["sleep", "600"], "stop_signal": "SIGKILL"}
    for services, containers in (({"web": web}, ["redis", "redis-web-1"]), ({}, ["redis"])):
        settings: dict[str, Any] = {"redis_maxmemory": "900mb", "redis_app_services": services}
        result = deployer.deploy(redis.host, **settings)
        assert result.returncode == 0, result.stderr
        assert sorted(redis.host.run("docker ps --format '{{.Names}}'").stdout.split()) == containers
        assert redis.identity == identity


def test_a_change_that_loses_data_needs_permission(redis: Instance, deployer: Deployer) -> None:
    assert deployer.deploy(redis.host).returncode == 0
    with redis.client("sessions") as sessions, redis.client("queues") as queues:
        for number in range(24):
            sessions.set(f"app:session:{number}", "x" * 1024 * 1024, ex=7200)
        queues.set("rq:job:kept", "x")
        identity = redis.identity
        blockers: dict[str, tuple[dict[str, Any], str]] = {
            "eviction": ({"redis_maxmemory": "20mb"}, EVICTION),
            "policy": ({"redis_maxmemory_policy": "allkeys-lru"}, POLICY),
            "persistence": ({"redis_appendonly": False}, PERSISTENCE),
        }
        for loss, (settings, message) in blockers.items():
            refused = deployer.deploy(redis.host, **settings)
            assert refused.returncode == 1
            assert message in refused.stderr
            assert f"--data redis_allow_data_loss={loss}" in refused.stderr
        assert (redis.config("maxmemory"), redis.config("appendonly")) == (str(1024**3), "yes")
        assert all(sessions.exists(f"app:session:{number}") for number in range(24))

        # Permitted, it evicts sessions, and neither queues nor connections are affected.
        smaller: dict[str, Any] = {"redis_maxmemory": "20mb", "redis_appendonly": False}
        permitted = deployer.deploy(
            redis.host, arguments=("-y", "--json", "--data", "redis_allow_data_loss=eviction,persistence"), **smaller
        )
        assert_changed_live(permitted)
        remaining = sum(sessions.exists(f"app:session:{number}") for number in range(24))
        assert 0 < remaining < 24
        assert queues.get("rq:job:kept") == b"x"
    assert redis.identity == identity
    # The permission was for one deploy, and the next one, without it, has nothing to change.
    assert_no_change(deployer, redis.host, **smaller)

    # A Redis that uses more than its maxmemory can be deployed like any other.
    full = {**smaller, "redis_maxmemory_policy": "noeviction"}
    assert_changed_live(deployer.deploy(redis.host, redis_allow_data_loss="persistence", **full))
    # Redis checks its memory before a command, not while the command adds to it.
    assert redis.call("SETRANGE app:session:large 3999999 x") == ["4000000"]
    with redis.client("sessions") as sessions, pytest.raises(OutOfMemoryError):
        sessions.set("app:session:more", "x", ex=7200)
    memory = dict(line.split(":") for line in redis.call("INFO memory") if ":" in line)
    assert int(memory["used_memory"]) - int(memory["mem_not_counted_for_evict"]) > int(memory["maxmemory"])
    assert_no_change(deployer, redis.host, **full)

    # A full Redis without eviction has no room for the key of the health check, so it is unhealthy.
    assert_changed_live(deployer.deploy(redis.host, redis_allow_data_loss="policy", **smaller))

    # Before it turned the AOF off, the live change wrote the data as an RDB snapshot.
    redis.host.run("docker kill redis && docker start redis", check=True)
    redis.wait_until_healthy()
    assert redis.call("EXISTS rq:job:kept", user="queues") == ["1"]


@pytest.mark.core
def test_a_live_change_reaches_redis_and_its_file(deployed: Host, deployer: Deployer) -> None:
    redis = Instance(deployed, deployer.secrets(deployed))
    identity = redis.identity
    assert_changed_live(deployer.deploy(deployed, redis_maxmemory_samples=7))
    assert redis.identity == identity
    assert redis.config("maxmemory-samples") == "7"
    assert "maxmemory-samples 7\n" in deployed.run("docker exec redis cat /etc/redis/redis.conf", check=True).stdout
