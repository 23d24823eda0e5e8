"""A deploy changes a running Redis under its clients: no connection drops, no request fails, and what would is said."""

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
from tests.lifecycle.conftest import Deployer, DeployResult, remove_instance
from tests.lifecycle.deployed_redis import Instance, wait_until

CHANGE = "Service | Change the running Redis"
WRITE = "Service | Write the Compose project"
START = "Service | Start Redis and wait until it is healthy"
# Of everything that a running Redis and its engine take, and more memory than before.
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
    """What clients that never connect twice met while something was done: requests answered, errors, longest wait."""

    answered: int = 0
    errors: list[str] = field(default_factory=list)
    longest: float = 0.0


@contextmanager
def clients(redis: Instance) -> Iterator[Load]:
    """A client that writes sessions, one that works off a queue, and one that listens to expiries, all the time."""
    met, ended = Load(), threading.Event()

    def until_the_end(client: Redis, request: Any) -> None:
        with client.client() as connection:
            while not ended.is_set():
                began = time.monotonic()
                try:
                    request(connection)
                except RedisError as error:
                    met.errors.append(repr(error))
                    return
                met.longest = max(met.longest, time.monotonic() - began)
                met.answered += 1

    def work(connection: Any) -> None:
        connection.rpush("rq:queue:live", "job")
        assert connection.blpop(["rq:queue:live"], timeout=5) is not None

    with redis.client("sessions") as sessions, redis.client("queues") as queues:
        listener = sessions.pubsub()
        listener.subscribe("__keyevent@0__:expired")
        threads = [
            threading.Thread(target=until_the_end, args=arguments)
            for arguments in (
                (sessions, lambda connection: connection.set("app:session:live", "x", ex=7200)),
                (queues, work),
            )
        ]
        for thread in threads:
            thread.start()
        try:
            yield met
        finally:
            ended.set()
            for thread in threads:
                thread.join(30)
        with redis.client("sessions") as other:
            other.set("app:session:gone", "x", px=1)
        seen = [listener.get_message(timeout=1) for _ in range(10)]
        assert b"app:session:gone" in [message["data"] for message in seen if message], "the subscriber hears no more"
        listener.close()


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    remove_instance(host, image=False)
    assert deployer.deploy(host).returncode == 0
    yield Instance(host, deployer.secrets(host))
    remove_instance(host, image=False)


def runs(redis: Instance) -> dict[str, Any]:
    """The limits that hold Redis, by the engine's word, and its configuration by its own."""
    limits = redis.inspect()["HostConfig"]
    names = ("Memory", "MemorySwap", "NanoCpus", "CpuShares", "PidsLimit", "RestartPolicy")
    return {name: limits[name] for name in names} | {
        name: redis.config(name) for name in ("maxmemory", "maxmemory-policy", "slowlog-max-len", "save")
    }


def assert_changed_live(result: DeployResult) -> None:
    assert result.returncode == 0, result.stderr
    assert CHANGE in result.changed
    assert START not in result.changed


def test_clients_notice_nothing_of_a_change_that_redis_takes(redis: Instance, deployer: Deployer) -> None:
    identity, before = redis.identity, runs(redis)
    planned = deployer.deploy(redis.host, arguments=("--dry",), **LIVE)
    assert "redis_maxmemory: 1gb becomes 1200mb" in planned.reasons
    assert not [reason for reason in planned.reasons if "starts anew for" in reason]
    assert runs(redis) == before

    with clients(redis) as met:
        result = deployer.deploy(redis.host, **LIVE)
    assert_changed_live(result)
    assert (met.errors, redis.identity) == ([], identity)
    assert met.answered > 1000
    settings = load(LIVE)
    assert runs(redis) == {
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
    again = deployer.deploy(redis.host, **LIVE)
    assert (again.returncode, again.changed) == (0, []), again.stderr

    # What runs is what a start reads: nothing is there only until then.
    redis.host.run("docker restart redis", check=True)
    wait_until(lambda: redis.health == "healthy", "Redis is healthy again", 60)
    again = deployer.deploy(redis.host, **LIVE)
    assert (again.returncode, again.changed) == (0, []), again.stderr

    # And back, to less memory.
    identity = redis.identity
    with clients(redis) as met:
        result = deployer.deploy(redis.host)
    assert_changed_live(result)
    assert (met.errors, redis.identity, runs(redis)) == ([], identity, before)
    again = deployer.deploy(redis.host)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_clients_notice_nothing_of_drift_that_is_put_back(redis: Instance, deployer: Deployer) -> None:
    identity, before = redis.identity, runs(redis)
    redis.host.run("docker update --memory 2g --memory-swap 2g --cpus 0.7 --restart no redis", check=True)
    name = redis.secrets.renamed_command("CONFIG")
    redis.call(f"{name} SET maxmemory 2gb maxmemory-policy noeviction timeout 0", "ACL SETUSER queues +@all")
    with clients(redis) as met:
        result = deployer.deploy(redis.host)
    assert_changed_live(result)
    assert (met.errors, redis.identity, runs(redis)) == ([], identity, before)
    assert "+@all" not in "".join(redis.call("ACL LIST")).split("user queues")[1].split("user ")[0]


@pytest.mark.parametrize("operation", [CHANGE, WRITE, START])
def test_a_live_change_that_is_killed_is_finished_without_a_restart(
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
    again = deployer.deploy(redis.host, **settings)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_the_plan_names_the_settings_for_which_redis_starts_anew(redis: Instance, deployer: Deployer) -> None:
    identity = redis.identity
    settings: dict[str, Any] = {"redis_tcp_backlog": 600, "redis_health_interval": 5, "redis_slowlog_max_len": 200}
    planned = deployer.deploy(redis.host, arguments=("--dry",), **settings)
    assert planned.returncode == 0, planned.stderr
    anew = [reason for reason in planned.reasons if "starts anew" in reason]
    assert anew == [
        "redis starts anew for redis_tcp_backlog: 511 becomes 600",
        "redis starts anew for redis_health_interval: 30 becomes 5",
    ]
    assert redis.identity == identity
    result = deployer.deploy(redis.host, **settings)
    assert result.returncode == 0, result.stderr
    assert set(anew) <= set(result.reasons)
    assert redis.identity != identity
    assert (redis.config("tcp-backlog"), redis.config("slowlog-max-len")) == ("600", "200")


def test_an_application_beside_a_redis_that_was_changed_live_comes_and_goes_without_it(
    redis: Instance, deployer: Deployer
) -> None:
    """Compose would replace Redis, whose limits are not those that it was made with."""
    assert deployer.deploy(redis.host).returncode == 0
    assert_changed_live(deployer.deploy(redis.host, redis_maxmemory="900mb"))
    identity = redis.identity
    web = {"image": redis.inspect()["Config"]["Image"], "entrypoint": ["sleep", "600"], "stop_signal": "SIGKILL"}
    for services, there in (({"web": web}, ["redis", "redis-web-1"]), ({}, ["redis"])):
        settings: dict[str, Any] = {"redis_maxmemory": "900mb", "redis_app_services": services}
        result = deployer.deploy(redis.host, **settings)
        assert result.returncode == 0, result.stderr
        assert sorted(redis.host.run("docker ps --format '{{.Names}}'").stdout.split()) == there
        assert redis.identity == identity
        again = deployer.deploy(redis.host, **settings)
        assert (again.returncode, again.changed) == (0, []), again.stderr


def test_a_change_that_costs_data_is_refused_until_it_is_allowed(redis: Instance, deployer: Deployer) -> None:
    assert deployer.deploy(redis.host).returncode == 0
    with redis.client("sessions") as sessions, redis.client("queues") as queues:
        for number in range(24):
            sessions.set(f"app:session:{number}", "x" * 1024 * 1024, ex=7200)
        queues.set("rq:job:kept", "x")
        identity = redis.identity
        refusals: dict[str, tuple[dict[str, Any], str]] = {
            "eviction": ({"redis_maxmemory": "20mb"}, "it would evict keys by volatile-lru until they fit"),
            "policy": ({"redis_maxmemory_policy": "allkeys-lru"}, "evicts any key, also queues and jobs"),
            "persistence": ({"redis_appendonly": False}, "a crash loses all changes since the last one"),
        }
        for loss, (settings, words) in refusals.items():
            refused = deployer.deploy(redis.host, **settings)
            assert refused.returncode == 1
            assert words in refused.stderr
            assert f"--data redis_allow_data_loss={loss}" in refused.stderr
        assert (redis.config("maxmemory"), redis.config("appendonly")) == (str(1024**3), "yes")
        assert all(sessions.exists(f"app:session:{number}") for number in range(24))

        # All of it, and the queue's are not touched; nor are connections.
        wanted: dict[str, Any] = {"redis_maxmemory": "20mb", "redis_appendonly": False}
        allowed = deployer.deploy(
            redis.host, arguments=("-y", "--json", "--data", "redis_allow_data_loss=eviction,persistence"), **wanted
        )
        assert_changed_live(allowed)
        kept = sum(sessions.exists(f"app:session:{number}") for number in range(24))
        assert 0 < kept < 24
        assert queues.get("rq:job:kept") == b"x"
    assert redis.identity == identity
    again = deployer.deploy(redis.host, **wanted)
    assert (again.returncode, again.changed) == (0, []), again.stderr

    # One that is full, and more than that, is deployed to like any other.
    full = {**wanted, "redis_maxmemory_policy": "noeviction"}
    assert_changed_live(deployer.deploy(redis.host, redis_allow_data_loss="persistence", **full))
    # What a command adds by itself is looked at before the next one.
    assert redis.call("SETRANGE app:session:0 8000000 x") == ["8000001"]
    with redis.client("sessions") as sessions, pytest.raises(OutOfMemoryError):
        sessions.set("app:session:more", "x", ex=7200)
    memory = dict(line.split(":") for line in redis.call("INFO memory") if ":" in line)
    assert int(memory["used_memory"]) - int(memory["mem_not_counted_for_evict"]) > int(memory["maxmemory"])
    again = deployer.deploy(redis.host, **full)
    assert (again.returncode, again.changed) == (0, []), again.stderr

    # One that is full and may not evict has no room for the health check's key either.
    assert_changed_live(deployer.deploy(redis.host, redis_allow_data_loss="policy", **wanted))

    # What was turned off live wrote its data first.
    redis.host.run("docker kill redis && docker start redis", check=True)
    wait_until(lambda: redis.health == "healthy", "Redis is healthy again", 60)
    assert redis.call("EXISTS rq:job:kept", user="queues") == ["1"]


def test_a_changed_setting_reaches_redis_and_its_file_in_the_container(deployed: Host, deployer: Deployer) -> None:
    result = deployer.deploy(deployed, redis_maxmemory_samples=7)
    assert result.returncode == 0, result.stderr
    redis = Instance(deployed, deployer.secrets(deployed))
    assert redis.config("maxmemory-samples") == "7"
    assert "maxmemory-samples 7\n" in deployed.run("docker exec redis cat /etc/redis/redis.conf", check=True).stdout
    again = deployer.deploy(deployed, redis_maxmemory_samples=7)
    assert (again.returncode, again.changed) == (0, []), again.stderr
