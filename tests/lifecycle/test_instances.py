"""Several instances on one host.

Each has its own name, directory, port and passwords, and leaves the others alone.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import AuthenticationError

from redisctl import paths
from redoubt import secret_store
from redoubt.settings.load import load
from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.deployer import Deployer, deploy_data, pyinfra
from tests.lifecycle.conftest import assert_no_change, remove_instance, remove_units
from tests.lifecycle.interruption import cut_power, wait_until_recovered

# A second instance next to the default one.
QUEUE: dict[str, Any] = {"redis_name": "queue", "redis_port": 6380, "redis_root": "/opt/stores/queue"}

# Two instances for two purposes: Redis may evict sessions, but not queues.
BOTH: dict[str, dict[str, Any]] = {
    "sessions": {"redis_name": "sessions", "redis_port": 6381},
    "queues": {"redis_name": "queues", "redis_port": 6382, "redis_maxmemory_policy": "noeviction"},
}


def remove_second_instance(host: Host, name: str = "queue", root: str = "/opt/stores/queue") -> None:
    """Remove an instance by hand, with its data, and leave the others alone."""
    files = " ".join(map(str, paths.removable(name, Path(root), data=True)))
    host.run(
        f"docker compose --project-directory {root} down; {remove_units(name)}; rm -rf {files} {root}; "
        f"rmdir --ignore-fail-on-non-empty {Path(root).parent}; ! nft list table inet redoubt_{name}",
        check=True,
    )


def inventory_of(host: Host, deployer: Deployer, **settings: dict[str, Any]) -> Path:
    """Write an inventory with an entry for each instance, all on the same machine."""
    path = deployer.inventory(host)
    entries = [
        (f"{host.name}-{name}", {**deploy_data(host), "redis_secrets_dir": str(deployer.secrets_dir), **values})
        for name, values in settings.items()
    ]
    path.write_text(f"hosts = {entries!r}\n")
    return path


def test_one_run_deploys_two_instances_to_one_host(host: Host, deployer: Deployer) -> None:
    """One run deploys two instances to a host that has neither of them.

    What they share is created once, and neither blocks the other.
    """
    remove_instance(host, image=True)
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
            backup = json.loads(host.run(f"redisctl-{name} backup --json", check=True).stdout)
            assert backup["verified"]["verdict"] == "ok"
            assert host.run(f"ls /srv/{name}/backups").stdout.split() == [backup["id"]]
        # Only here does one run deploy two instances to the same machine.
        again = pyinfra("-y", "--json", str(inventory_of(host, deployer, **BOTH)), "deploy.py")
        assert json.loads(again.stdout)["results"]["totals"]["success"] == 0

        # Both are refused if they would share a port, or need more memory than the host has.
        queues = {**BOTH["queues"], "redis_port": 6381, "redis_maxmemory": "100gb"}
        refused = pyinfra("-y", str(inventory_of(host, deployer, **{**BOTH, "queues": queues})), "deploy.py")
        assert refused.returncode == 1
        for mine, other in (("sessions", "queues"), ("queues", "sessions")):
            assert f"{host.name}-{mine}: 127.0.0.1:6381: {host.name}-{other} of this inventory" in refused.stderr
        assert "the instances on this host may use" in refused.stderr
        # A stopped instance does not listen, but its port is still its own.
        host.run("docker stop sessions", check=True)
        third = deployer.deploy(host, redis_port=6381)
        assert third.returncode == 1
        assert "127.0.0.1:6381 belongs to sessions on this host, even if it does not run" in third.stderr
        # Without containers it has no network either, but its next start needs the addresses.
        host.run("docker compose --project-directory /srv/sessions down", check=True)
        subnet = load(BOTH["sessions"]).edge_subnet
        fourth = deployer.deploy(host, redis_edge_subnet=str(subnet.supernet()), arguments=("--dry",))
        assert fourth.returncode == 1
        assert f"overlaps {subnet} of sessions on this host, even if it does not run" in fourth.stderr
    finally:
        for name in BOTH:
            remove_second_instance(host, name, f"/srv/{name}")


def test_a_second_instance_does_not_affect_the_first(deployed: Host, deployer: Deployer) -> None:
    first = Instance(deployed, deployer.secrets(deployed))
    first.call("SET rq:of first", user="queues")
    before = first.identity
    try:
        result = deployer.deploy(deployed, **QUEUE)
        assert result.returncode == 0, result.stderr
        second = Instance(deployed, deployer.secrets(deployed, **QUEUE), name="queue", port=6380)
        second.call("SET rq:of second", user="queues")
        assert (first.health, second.health) == ("healthy", "healthy")
        assert first.identity == before, "the first instance was restarted"
        with first.client("queues") as to_first, second.client("queues") as to_second:
            assert (to_first.get("rq:of"), to_second.get("rq:of")) == (b"first", b"second")
        with second.client("queues", first.secrets.passwords["queues"]) as other, pytest.raises(AuthenticationError):
            other.ping()
        assert set(first.inspect()["NetworkSettings"]["Networks"]) == {"redis_backend", "redis_edge"}
        assert set(second.inspect()["NetworkSettings"]["Networks"]) == {"queue_backend", "queue_edge"}
        assert deployed.run("ls /srv").stdout.split() == ["redis"]
    finally:
        remove_second_instance(deployed)
    assert first.identity == before, "the removal of the second instance restarted the first one"


def test_a_power_cut_during_a_start_leaves_neither_down(deployed: Host, deployer: Deployer) -> None:
    """Both instances are healthy after a power cut while Docker starts one of them.

    Docker keeps the port of the container that it was starting, so the recovery restarts Docker to release it. It does
    so although the other instance runs, because Docker has just started that one as well.
    """
    first = Instance(deployed, deployer.secrets(deployed))
    try:
        assert deployer.deploy(deployed, **QUEUE).returncode == 0
        second = Instance(deployed, deployer.secrets(deployed, **QUEUE), name="queue", port=6380)
        for redis in (first, second):
            redis.call(f"SET rq:of {redis.name}", user="queues")
        running = deployer.start(deployed, redis_tcp_backlog=306)
        running.wait_for("Starting operation: Service | Start Redis")
        created = "docker ps --all --quiet --filter name=^redis$ --filter status=created | grep -q ."
        deployed.run(f"for _ in $(seq 3000); do {created} && exit; sleep 0.01; done; exit 1", check=True)
        cut_power(deployed)
        assert running.wait().returncode == 1
        wait_until_recovered(deployed, 90)
        print(deployed.run("journalctl --unit redis-recover.service").stdout)
        first.wait_until_healthy()
        second.wait_until_healthy()
        for redis in (first, second):
            assert redis.call("GET rq:of", user="queues") == [redis.name]
        assert first.config("tcp-backlog") == "306"
        # The interrupted deploy left operations to do; the other instance has none.
        assert deployer.deploy(deployed, redis_tcp_backlog=306).returncode == 0
        assert_no_change(deployer, deployed, **QUEUE)
    finally:
        remove_second_instance(deployed)


def test_an_instance_with_data_elsewhere_does_not_start_empty(deployed: Host, deployer: Deployer) -> None:
    redis = Instance(deployed, deployer.secrets(deployed))
    before = redis.identity
    result = deployer.deploy(deployed, redis_root="/opt/redis")
    assert result.returncode == 1
    assert "redis has its data in /srv/redis and would start empty" in result.stderr
    assert redis.identity == before
    assert deployed.run("ls /opt").stdout == ""
