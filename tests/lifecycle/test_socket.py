"""The Unix socket: only processes in its group can connect."""

import json
from typing import Any

import pytest

from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.deployer import Deployer

GROUP = 4711
SETTINGS: dict[str, Any] = {"redis_unix_socket": True, "redis_unix_socket_gid": GROUP, "redis_bind": []}
SOCKET = "/srv/redis/socket/redis.sock"

# A client for a host. Standard input has the socket and the text to send.
CLIENT = """
import json, socket, sys
request = json.load(sys.stdin)
with socket.socket(socket.AF_UNIX) as connection:
    try:
        connection.connect(request["socket"])
    except PermissionError:
        sys.exit("refused")
    connection.sendall(request["text"].encode())
    answer = b""
    while answer.count(b"\\r\\n") < 2:
        answer += connection.recv(100)
    print(answer.decode().split())
"""


def connect_as(host: Host, instance: Instance, uid: int, gid: int) -> str:
    """Log in and ping as a user of the host. Returns the answers, or ``refused``."""
    password = instance.secrets.passwords["sessions"]
    request = json.dumps({"socket": SOCKET, "text": f"AUTH sessions {password}\r\nPING\r\n"})
    host.run("cat >/run/client.py", input=CLIENT, check=True)
    completed = host.run(f"setpriv --reuid {uid} --regid {gid} --clear-groups python3 /run/client.py", input=request)
    return completed.stdout.strip() or completed.stderr.strip()


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Instance:
    """The shared host with a socket and without a published port."""
    result = deployer.deploy(host, **SETTINGS)
    assert result.returncode == 0, result.stderr
    assert f"on the host itself also {SOCKET}" in result.stderr
    return Instance(host, deployer.secrets(host))


def test_only_group_members_can_connect(redis: Instance) -> None:
    assert connect_as(redis.host, redis, 1234, GROUP) == "['+OK', '+PONG']"
    assert connect_as(redis.host, redis, 1234, 1234) == "refused"
    assert redis.host.run("ss -Hltn sport = :6379").stdout == ""


def test_deploy_repairs_manual_changes_of_the_socket(redis: Instance, deployer: Deployer) -> None:
    redis.host.run("chgrp 0 /srv/redis/socket && chmod 755 /srv/redis/socket", check=True)
    assert deployer.deploy(redis.host, **SETTINGS).returncode == 0
    assert connect_as(redis.host, redis, 1234, 1234) == "refused"
    assert connect_as(redis.host, redis, 1234, GROUP) == "['+OK', '+PONG']"


def test_socket_works_after_a_kill(redis: Instance) -> None:
    """Redis replaces the socket that the killed server left."""
    redis.host.run("docker kill redis && cd /srv/redis && docker compose up --detach --wait", check=True)
    assert connect_as(redis.host, redis, 1234, GROUP) == "['+OK', '+PONG']"


def test_turning_the_socket_off_removes_it(redis: Instance, deployer: Deployer) -> None:
    assert deployer.deploy(redis.host).returncode == 0
    assert redis.host.run(f"test -e {SOCKET}").returncode == 1
