"""The default user, for clients that send only a password.

It is off by default, and never without a password.
"""

from collections.abc import Iterator

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError
from rq import Queue

from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.deployer import Deployer


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Instance:
    """The shared host with the default user on; the last test turns it off again."""
    return deployer.instance(host, redis_enable_default_user=True)


@pytest.fixture
def client(redis: Instance) -> Iterator[Redis]:
    """Yield a client like an old library: ``redis://:password@host``.

    It sends AUTH with one argument.
    """
    with redis.client(None, redis.secrets.passwords["default"], protocol=2) as connection:
        yield connection


def test_sessions_work_with_a_password_alone(client: Redis) -> None:
    client.set("app:session:default", "data", ex=60)
    assert client.get("app:session:default") == b"data"


def test_queues_work_with_a_password_alone(client: Redis) -> None:
    queue = Queue("default-user", connection=client)
    job = queue.enqueue("time.sleep", 0)
    assert queue.job_ids == [job.id]
    queue.delete()


def test_other_keys_and_administration_are_refused(redis: Instance, client: Redis) -> None:
    for command in (("SET", "other", "x"), ("GET", "redoubt:health:1"), ("ACL", "LIST"), ("KEYS", "*")):
        with pytest.raises(NoPermissionError):
            client.execute_command(*command)
    with pytest.raises(NoPermissionError):
        client.execute_command(redis.secrets.renamed_command("CONFIG"), "GET", "dir")


def test_login_without_password_is_refused(redis: Instance) -> None:
    (rules,) = [line for line in redis.call("ACL LIST") if line.startswith("user default ")]
    assert "nopass" not in rules
    with (
        redis.client(None, protocol=2) as stranger,
        pytest.raises(AuthenticationError, match="Authentication required"),
    ):
        stranger.get("app:session:default")
    with redis.client(None, "wrong") as stranger, pytest.raises(AuthenticationError):
        stranger.ping()


def test_turning_the_default_user_off_invalidates_its_password(redis: Instance, deployer: Deployer) -> None:
    assert deployer.deploy(redis.host).returncode == 0
    with redis.client(None, redis.secrets.passwords["default"]) as late, pytest.raises(AuthenticationError):
        late.ping()
    (rules,) = [line for line in redis.call("ACL LIST") if line.startswith("user default ")]
    assert rules.split()[2] == "off"
    assert "nopass" not in rules
