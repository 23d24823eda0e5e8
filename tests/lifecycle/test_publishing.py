"""Ports that Docker cannot publish, because its firewall rules were flushed.

Redis keeps serving, and nothing stops it unless it can start again. The tests share one host and run in order.
"""

import json
from collections.abc import Iterator

import pytest

from sandbox.hosts import Host
from tests.deployed_redis import Instance, redisctl, refused
from tests.deployer import Deployer
from tests.lifecycle.conftest import assert_no_change, empty_instance

# What 'nft flush ruleset' and a restart of nftables.service do to Docker's rules and chains. The chains with an
# underscore are the sandbox's: the host, a container itself, resolves names by them.
FLUSH = """
iptables -F && iptables -X
iptables-save -t nat | grep -E '^[*]|^COMMIT|DOCKER_' | iptables-restore
! iptables -t nat -S DOCKER
"""


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """Give the shared host with a backup, and with another container."""
    with empty_instance(host, deployer) as instance:
        instance.call("SET app:session:1 backup EX 72000")
        redisctl(instance, "backup --no-verify")
        instance.call("SET app:session:1 now EX 72000")
        image = instance.inspect()["Config"]["Image"]
        host.run(f"docker run --detach --init --name neighbour --entrypoint sleep {image} infinity", check=True)
        yield instance
        # systemd limits how often a unit may be restarted.
        host.run("docker rm --force neighbour; systemctl reset-failed docker; systemctl restart docker")


def test_redis_keeps_running_if_its_port_is_lost(redis: Instance, deployer: Deployer) -> None:
    """Nothing that restarts Redis stops it if it cannot start again.

    Docker is not restarted either, because another container runs.
    """
    host, before = redis.host, redis.identity
    host.run(FLUSH, check=True)
    deploy = deployer.deploy(host, redis_tcp_backlog=600)
    other_user = deployer.deploy(host, redis_uid=20001, redis_gid=20002)
    assert (deploy.returncode, other_user.returncode) == (1, 1)
    verbs = (refused(redis, "restore latest --yes"), refused(redis, "restart"))
    for error in (deploy.stderr, other_user.stderr, *verbs):
        assert "Redis could not start again, because Docker cannot publish ports" in error, error
        assert "No chain/target/match by that name" in error
        assert "'systemctl restart docker' on the host, which stops neighbour" in error
    assert redis.identity == before
    with redis.client("sessions") as client:
        assert client.get("app:session:1") == b"now"
    # The files of the deploy were not left behind either.
    assert host.run("grep tcp-backlog /srv/redis/config/redis.conf").stdout == "tcp-backlog 511\n"


def test_docker_restarts_where_no_other_container_runs(redis: Instance, deployer: Deployer) -> None:
    """A deploy and a restore repair Docker by themselves. A stop warns."""
    host = redis.host
    host.run("docker stop --time 1 neighbour", check=True)
    result = deployer.deploy(host, redis_tcp_backlog=600)
    assert result.returncode == 0, result.stderr
    assert redis.config("tcp-backlog") == "600"
    with redis.client("sessions") as client:
        assert client.get("app:session:1") == b"now"
    assert_no_change(deployer, host, redis_tcp_backlog=600)

    host.run(FLUSH, check=True)
    redisctl(redis, "restore latest --yes")
    with redis.client("sessions") as client:
        assert client.get("app:session:1") == b"backup"

    host.run(FLUSH, check=True)
    stopped = json.loads(host.run("redisctl stop --json", check=True).stdout)
    assert "Restart Docker before the start" in str(stopped), stopped
    host.run("redisctl start", check=True)
    assert redis.health == "healthy"
