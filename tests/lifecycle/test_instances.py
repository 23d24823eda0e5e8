"""A second instance on the same host: its own name, place, port and passwords, and the first is left alone."""

from typing import Any

import pytest
from redis.exceptions import AuthenticationError

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer
from tests.lifecycle.instance import Instance

QUEUE: dict[str, Any] = {"redis_name": "queue", "redis_port": 6380, "redis_root": "/opt/stores/queue"}


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
        deployed.run("rm /etc/logrotate.d/queue /usr/local/sbin/redisctl-queue")
    assert first.identity == before, "taking the second away touched the first"


def test_an_instance_whose_data_is_elsewhere_is_not_started_empty(deployed: Host, deployer: Deployer) -> None:
    redis = Instance(deployed, deployer.secrets(deployed))
    before = redis.identity
    result = deployer.deploy(deployed, redis_root="/opt/redis")
    assert result.returncode == 1
    assert "redis has its data in /srv/redis and would start empty" in result.stderr
    assert redis.identity == before
    assert deployed.run("ls /opt").stdout == ""
