"""Application services next to Redis.

They start when Redis is healthy, on its network, with their own credentials.
"""

import re
import shlex
import socket
from datetime import datetime
from typing import Any

import pytest

from sandbox import images
from sandbox.hosts import Host
from tests.deployed_redis import Instance, wait_until
from tests.deployer import Deployer

# A client with its own password from a Compose secret, which reaches Redis by name. In a Compose file, a $ for the
# shell is written twice.
CLIENT = """\
while :; do
  { echo "AUTH sessions $$(cat /run/secrets/sessions)"; echo "SET app:session:web here EX 60"; } | redis-cli -h redis
  sleep 0.2
done >/dev/null
"""
WEB: dict[str, Any] = {
    "image": images.redis_reference(),
    "user": "999:999",
    "init": True,
    "entrypoint": ["/bin/sh", "-c", CLIENT],
    "secrets": ["sessions"],
    "restart": "unless-stopped",
}
WITH_WEB: dict[str, Any] = {
    "redis_app_services": {"web": WEB},
    "redis_health_interval": 1,
    "redis_health_retries": 2,
    "redis_health_start_period": 2,
}


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Instance:
    """The shared host with an application."""
    return deployer.instance(host, **WITH_WEB)


def web(redis: Instance) -> dict[str, Any]:
    return redis.inspect("redis-web-1")


def test_application_starts_after_redis_is_healthy(redis: Instance, deployer: Deployer) -> None:
    # Both are created in one deploy, so that the order is that of Compose.
    redis.host.run("docker rm -f redis redis-web-1", check=True)
    result = deployer.deploy(redis.host, **WITH_WEB)
    assert result.returncode == 0, result.stderr
    checks = redis.inspect()["State"]["Health"]["Log"]
    healthy = min(datetime.fromisoformat(check["End"]) for check in checks if check["ExitCode"] == 0)
    assert datetime.fromisoformat(web(redis)["State"]["StartedAt"]) > healthy


def test_application_reaches_redis_by_name(redis: Instance) -> None:
    redis.call("DEL app:session:web", user="sessions")
    wait_until(
        lambda: redis.call("GET app:session:web", user="sessions") == ["here"], "the application writes its session", 10
    )


def test_malformed_service_is_reported_alone(redis: Instance, deployer: Deployer) -> None:
    """The deploy reports only what Compose says of a malformed service.

    The logs of the running Redis would only hide it.
    """
    running = redis.identity
    wrong = {"redis_app_services": {"web": {**WEB, "imag": "x"}}}
    refused = deployer.deploy(redis.host, **{**WITH_WEB, **wrong})
    assert refused.returncode == 1
    assert "Compose does not accept /srv/redis/compose.yml, and nothing was restarted" in refused.stderr
    assert re.search(r"services\.web .*imag", refused.stderr)
    assert "Ready to accept connections" not in refused.stderr
    assert redis.identity == running
    assert deployer.deploy(redis.host, **WITH_WEB).returncode == 0


def test_other_containers_reach_redis_over_its_network(redis: Instance) -> None:
    """As another Compose project does with ``external: true``."""
    output = outsider(
        redis, "redis_backend", "redis-cli -h redis", f"AUTH queues {redis.secrets.passwords['queues']}\nPING\n"
    )
    assert output == "OK\nPONG\n"


def test_containers_on_its_network_cannot_reach_outside(redis: Instance) -> None:
    knock = f"timeout 3 bash -c '</dev/tcp/{redis.host.address}/22' && echo open"
    assert outsider(redis, "bridge", knock) == "open\n", "containers cannot reach SSH at all, so this proves nothing"
    assert outsider(redis, "redis_backend", knock) == ""


def test_application_has_its_own_way_out(redis: Instance) -> None:
    """The network filter does not touch the network of the application's services.

    The connection leaves the host, with the address of the host.
    """
    route = redis.host.run("ip -4 route show default", check=True).stdout.split()
    with socket.create_server(("", 0)) as server:
        server.settimeout(10)
        knock = f"timeout 5 bash -c '</dev/tcp/{route[route.index('via') + 1]}/{server.getsockname()[1]}'"
        redis.host.run(f"docker exec redis-web-1 {knock}", check=True)
        connection, (peer, _) = server.accept()
        connection.close()
    assert peer == str(redis.host.address)


def outsider(redis: Instance, network: str, command: str, stdin: str = "") -> str:
    """Return the output of a command in a container outside of the project."""
    run = (
        f"docker run --rm -i --network {network} --entrypoint bash {images.redis_reference()} -c {shlex.quote(command)}"
    )
    return redis.host.run(run, input=stdin).stdout


def test_application_waits_for_a_healthy_redis(redis: Instance, deployer: Deployer) -> None:
    redis.host.run("docker rm -f redis redis-web-1", check=True)
    # Redis runs and answers, but accepts no writes.
    failed = deployer.deploy(redis.host, **WITH_WEB, redis_extra_config={"min-replicas-to-write": "1"})
    assert failed.returncode == 1
    assert redis.health == "unhealthy"
    assert web(redis)["State"]["Status"] == "created"
    assert web(redis)["State"]["StartedAt"].startswith("0001-01-01")

    repaired = deployer.deploy(redis.host, **WITH_WEB)
    assert repaired.returncode == 0, repaired.stderr
    assert web(redis)["State"]["Status"] == "running"


def test_application_removed_from_settings_is_removed(redis: Instance, deployer: Deployer) -> None:
    without = {name: value for name, value in WITH_WEB.items() if name != "redis_app_services"}
    before = redis.identity
    result = deployer.deploy(redis.host, **without)
    assert result.returncode == 0, result.stderr
    assert web(redis) == {}
    assert redis.identity == before, "Redis was restarted for it"
