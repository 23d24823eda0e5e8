"""The unix socket: a process on the host logs in through it when it is in the group, and not otherwise."""

import json
from typing import Any

import pytest

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer
from tests.lifecycle.deployed_redis import Instance

GROUP = 4711
SETTINGS: dict[str, Any] = {"redis_unix_socket": True, "redis_unix_socket_gid": GROUP, "redis_bind": []}
SOCKET = "/srv/redis/socket/redis.sock"

# A client in the language that the host has, told what to say on standard input.
CLIENT = """
import json, socket, sys
told = json.load(sys.stdin)
with socket.socket(socket.AF_UNIX) as connection:
    try:
        connection.connect(told["socket"])
    except PermissionError:
        sys.exit("refused")
    connection.sendall(told["say"].encode())
    said = b""
    while said.count(b"\\r\\n") < 2:
        said += connection.recv(100)
    print(said.decode().split())
"""


def says(host: Host, instance: Instance, uid: int, gid: int) -> str:
    """What Redis answers to a user of the host who logs in and greets it; or ``refused``."""
    password = instance.secrets.passwords["sessions"]
    told = json.dumps({"socket": SOCKET, "say": f"AUTH sessions {password}\r\nPING\r\n"})
    host.run("cat >/run/client.py", input=CLIENT, check=True)
    done = host.run(f"setpriv --reuid {uid} --regid {gid} --clear-groups python3 /run/client.py", input=told)
    return done.stdout.strip() or done.stderr.strip()


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Instance:
    """The shared host with a socket, and without a published port."""
    result = deployer.deploy(host, **SETTINGS)
    assert result.returncode == 0, result.stderr
    assert f"on the host itself also {SOCKET}" in result.stderr
    return Instance(host, deployer.secrets(host))


def test_members_of_the_group_log_in_and_others_are_refused(redis: Instance) -> None:
    assert says(redis.host, redis, 1234, GROUP) == "['+OK', '+PONG']"
    assert says(redis.host, redis, 1234, 1234) == "refused"
    assert redis.host.run("ss -Hltn sport = :6379").stdout == ""


def test_a_second_deploy_changes_nothing_and_what_was_changed_by_hand_is_put_back(
    redis: Instance, deployer: Deployer
) -> None:
    again = deployer.deploy(redis.host, **SETTINGS)
    assert (again.returncode, again.changed) == (0, []), again.stderr
    redis.host.run("chgrp 0 /srv/redis/socket && chmod 755 /srv/redis/socket", check=True)
    assert deployer.deploy(redis.host, **SETTINGS).returncode == 0
    assert says(redis.host, redis, 1234, 1234) == "refused"
    assert says(redis.host, redis, 1234, GROUP) == "['+OK', '+PONG']"


def test_it_is_there_after_a_kill(redis: Instance) -> None:
    """The file of the one before is in the way: Redis removes it."""
    redis.host.run("docker kill redis && cd /srv/redis && docker compose up --detach --wait", check=True)
    assert says(redis.host, redis, 1234, GROUP) == "['+OK', '+PONG']"


def test_turned_off_it_is_gone(redis: Instance, deployer: Deployer) -> None:
    assert deployer.deploy(redis.host).returncode == 0
    assert redis.host.run(f"test -e {SOCKET}").returncode == 1
    again = deployer.deploy(redis.host)
    assert (again.returncode, again.changed) == (0, []), again.stderr
