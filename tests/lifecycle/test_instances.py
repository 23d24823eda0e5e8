"""A second instance on the same host: its own name, place, port and passwords, and the first is left alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import AuthenticationError

from redoubt import secret_store
from redoubt.settings.load import load
from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer, pyinfra, remove_backup_units, remove_instance
from tests.lifecycle.deployed_redis import Instance, wait_until

QUEUE: dict[str, Any] = {"redis_name": "queue", "redis_port": 6380, "redis_root": "/opt/stores/queue"}


# As somebody would have them: sessions that may go, and queues that may not.
BOTH: dict[str, dict[str, Any]] = {
    "sessions": {"redis_name": "sessions", "redis_port": 6381},
    "queues": {"redis_name": "queues", "redis_port": 6382, "redis_maxmemory_policy": "noeviction"},
}


def inventory_of(host: Host, deployer: Deployer, **settings: dict[str, Any]) -> Path:
    """Entries for the same machine: one for each instance, by names of their own."""
    path = deployer.inventory(host)
    entries = [
        (f"{host.name}-{name}", {**host.deploy_data(), "redis_secrets_dir": str(deployer.secrets_dir), **one})
        for name, one in settings.items()
    ]
    path.write_text(f"hosts = {entries!r}\n")
    return path


def test_two_entries_for_one_machine_are_deployed_in_one_run(host: Host, deployer: Deployer) -> None:
    """To a host that has neither, at once: what they share is made once, and neither is in the other's way."""
    remove_instance(host)
    try:
        first = pyinfra("-y", str(inventory_of(host, deployer, **BOTH)), "deploy.py")
        assert first.returncode == 0, first.stderr
        for name, settings in BOTH.items():
            secrets = secret_store.load(
                load({"redis_secrets_dir": str(deployer.secrets_dir), **settings}), f"{host.name}-{name}"
            )
            redis = Instance(host, secrets, name=name, port=settings["redis_port"])
            assert redis.health == "healthy"
            assert redis.config("maxmemory-policy") == settings.get("redis_maxmemory_policy", "volatile-lru")
            told = json.loads(host.run(f"redisctl-{name} backup --json", check=True).stdout)
            assert told["verified"]["verdict"] == "ok"
            assert host.run(f"ls /srv/{name}/backups").stdout.split() == [told["id"]]
        again = pyinfra("-y", "--json", str(inventory_of(host, deployer, **BOTH)), "deploy.py")
        assert json.loads(again.stdout)["results"]["totals"]["success"] == 0

        # What would make them meet is said of both before anything is changed, and so is what is too much.
        queues = {**BOTH["queues"], "redis_port": 6381, "redis_maxmemory": "100gb"}
        refused = pyinfra("-y", str(inventory_of(host, deployer, **{**BOTH, "queues": queues})), "deploy.py")
        assert refused.returncode == 1
        for mine, other in (("sessions", "queues"), ("queues", "sessions")):
            assert f"{host.name}-{mine}: 127.0.0.1:6381: {host.name}-{other} of this inventory" in refused.stderr
        assert "the instances on this host may use" in refused.stderr
        # One that is stopped does not listen.
        host.run("docker stop sessions", check=True)
        third = deployer.deploy(host, redis_port=6381)
        assert third.returncode == 1
        assert "127.0.0.1:6381 is sessions's on this host, whether it runs or not" in third.stderr
    finally:
        for name in BOTH:
            host.run(
                f"docker compose --project-directory /srv/{name} down; rm -rf /srv/{name} /etc/logrotate.d/{name} "
                f"/usr/local/sbin/redisctl-{name}; {remove_backup_units(name)}"
            )


def test_two_instances_on_a_host_do_not_know_of_each_other(deployed: Host, deployer: Deployer) -> None:
    first = Instance(deployed, deployer.secrets(deployed))
    first.call("SET rq:of first", user="queues")
    before = first.identity

    result = deployer.deploy(deployed, **QUEUE)

    assert result.returncode == 0, result.stderr
    second = Instance(deployed, deployer.secrets(deployed, **QUEUE), name="queue", port=6380)
    second.call("SET rq:of second", user="queues")
    try:
        assert (first.health, second.health) == ("healthy", "healthy")
        assert first.identity == before, "the first instance was restarted"
        with first.client("queues") as one, second.client("queues") as two:
            assert (one.get("rq:of"), two.get("rq:of")) == (b"first", b"second")
        with second.client("queues", first.secrets.passwords["queues"]) as stranger, pytest.raises(AuthenticationError):
            stranger.ping()
        assert set(first.inspect()["NetworkSettings"]["Networks"]) == {"redis_backend", "redis_edge"}
        assert set(second.inspect()["NetworkSettings"]["Networks"]) == {"queue_backend", "queue_edge"}
        assert deployed.run("ls /srv").stdout.split() == ["redis"]
        for settings in ({}, QUEUE):
            again = deployer.deploy(deployed, **settings)
            assert (again.returncode, again.changed) == (0, []), again.stderr
    finally:
        deployed.run("cd /opt/stores/queue && docker compose down && rm -r /opt/stores")
        deployed.run(f"rm /etc/logrotate.d/queue /usr/local/sbin/redisctl-queue; {remove_backup_units('queue')}")
    assert first.identity == before, "taking the second away touched the first"


def test_a_power_cut_while_one_is_started_leaves_neither_down(deployed: Host, deployer: Deployer) -> None:
    """The engine holds the port of what it was starting, and is restarted, although the other one runs."""
    assert deployer.deploy(deployed, **QUEUE).returncode == 0
    first = Instance(deployed, deployer.secrets(deployed))
    second = Instance(deployed, deployer.secrets(deployed, **QUEUE), name="queue", port=6380)
    try:
        for redis in (first, second):
            redis.call(f"SET rq:of {redis.name}", user="queues")
        running = deployer.start(deployed, redis_tcp_backlog=306)
        running.wait_for("Starting operation: Service | Start Redis")
        made = "docker ps --all --quiet --filter name=^redis$ --filter status=created | grep -q ."
        deployed.run(f"for _ in $(seq 3000); do {made} && exit; sleep 0.01; done; exit 1", check=True)
        deployed.kill()
        assert running.wait().returncode == 1
        deployed.start()
        wait_until(lambda: deployed.run("test -e /srv/redis/start").returncode == 1, "the start has ended", 90)
        print(deployed.run("journalctl --unit redis-start.service").stdout)
        wait_until(lambda: first.health == second.health == "healthy", "both are healthy", 60)
        for redis in (first, second):
            assert redis.call("GET rq:of", user="queues") == [redis.name]
        assert first.config("tcp-backlog") == "306"
        for settings in ({"redis_tcp_backlog": 306}, QUEUE):
            assert deployer.deploy(deployed, **settings).returncode == 0
            again = deployer.deploy(deployed, **settings)
            assert (again.returncode, again.changed) == (0, []), again.stderr
    finally:
        deployed.run("cd /opt/stores/queue && docker compose down && rm -r /opt/stores")
        deployed.run(f"rm /etc/logrotate.d/queue /usr/local/sbin/redisctl-queue; {remove_backup_units('queue')}")


def test_an_instance_whose_data_is_elsewhere_is_not_started_empty(deployed: Host, deployer: Deployer) -> None:
    redis = Instance(deployed, deployer.secrets(deployed))
    before = redis.identity
    result = deployer.deploy(deployed, redis_root="/opt/redis")
    assert result.returncode == 1
    assert "redis has its data in /srv/redis and would start empty" in result.stderr
    assert redis.identity == before
    assert deployed.run("ls /opt").stdout == ""
