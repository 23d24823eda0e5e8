"""An instance is stopped, started and removed: Redis saves, and its data stays until somebody says otherwise."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer, DeployResult, remove_instance
from tests.lifecycle.deployed_redis import Instance, redisctl
from tests.lifecycle.expected_files import looks

# With every place that an instance can have.
SETTINGS: dict[str, Any] = {
    "redis_unix_socket": True,
    "redis_bind": ["0.0.0.0"],
    "redis_allow_from": ["10.0.0.0/8"],
    "redis_tls": "both",
    "redis_tls_names": ["redis.example.com"],
    "redis_backup_restic_repository": "/srv/copies",
}
SENTENCE = 'redis_remove_data="delete the data of redis"'


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    remove_instance(host, image=False)
    result = deployer.deploy(host, **SETTINGS)
    assert result.returncode == 0, result.stderr
    yield Instance(host, deployer.secrets(host))
    remove_instance(host, image=False)
    host.run("rm -rf /srv/copies")


def run(redis: Instance, deployer: Deployer, verb: str, *data: str) -> DeployResult:
    more = [word for one in data for word in ("--data", one)]
    return deployer.deploy(redis.host, job=f"day2/{verb}.py", arguments=("-y", "--json", *more), **SETTINGS)


def assert_done_once(redis: Instance, deployer: Deployer, verb: str, *data: str) -> DeployResult:
    """It changes something, and then there is nothing left to change."""
    first = run(redis, deployer, verb, *data)
    assert (first.returncode, len(first.changed)) == (0, 1), first.stderr
    again = run(redis, deployer, verb, *data)
    assert (again.returncode, again.changed) == (0, []), again.stderr
    return first


def test_a_stopped_instance_has_its_data_on_disk_and_stays_stopped(redis: Instance, deployer: Deployer) -> None:
    redis.call("SET rq:kept 1", user="queues")
    assert_done_once(redis, deployer, "stop")
    state = redis.inspect()["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 0)
    log = redis.host.run("cat /srv/redis/logs/redis.log").stdout.partition("User requested shutdown")[2]
    assert "Calling fsync() on the AOF file" in log
    assert "ready to exit, bye bye" in log
    assert redis.host.run("systemctl is-enabled redis-backup.timer; systemctl is-active redis-backup.timer").stdout == (
        "disabled\ninactive\n"
    )
    # The engine leaves it alone when it starts again, as after a reboot.
    redis.host.run("systemctl restart docker", check=True)
    assert redis.inspect()["State"]["Status"] == "exited"


def test_a_started_instance_is_healthy_and_has_its_data(redis: Instance, deployer: Deployer) -> None:
    assert_done_once(redis, deployer, "start")
    assert redis.health == "healthy"
    assert redis.call("GET rq:kept", user="queues") == ["1"]
    assert redis.host.run("systemctl is-active redis-backup.timer").stdout == "active\n"
    again = deployer.deploy(redis.host, **SETTINGS)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_data_is_kept_by_a_removal_and_found_by_the_next_deploy(redis: Instance, deployer: Deployer) -> None:
    backup = redisctl(redis, "backup")["id"]
    mistaken = run(redis, deployer, "remove", 'redis_remove_data="yes"')
    assert mistaken.returncode == 1
    assert f"--data {SENTENCE}" in mistaken.stderr
    assert redis.health == "healthy"

    removed = assert_done_once(redis, deployer, "remove")
    assert [one.split(" (")[0] for one in removed.reasons if one.endswith("): kept")] == [
        "/srv/redis/data",
        "/srv/redis/backups",
    ]
    assert f"its passwords stay in {deployer.secrets_dir}/{redis.host.name}/redis.yml" in removed.stderr
    there = looks(redis.host)
    assert {path for path in there if not path.startswith("/srv/redis/backups/")} == {
        "/srv/redis",
        "/srv/redis/data",
        "/srv/redis/backups",
    }
    seen = redis.host.run(
        "docker ps --all --quiet; docker network ls --filter name=redis_ --quiet; nft list tables | grep redoubt; "
        "ls /etc/systemd/system /etc/systemd/system/*.wants | grep redis; ls -d /run/redoubt-srv-redis.modules"
    )
    assert seen.stdout == ""

    result = deployer.deploy(redis.host)
    assert result.returncode == 0, result.stderr
    assert redis.call("GET rq:kept", user="queues") == ["1"]
    assert [
        one["id"] for one in json.loads(redis.host.run("redisctl backup list --json", check=True).stdout)["backups"]
    ] == [backup]


def test_data_goes_where_it_is_said_in_so_many_words_and_a_removal_cut_short_is_finished(
    redis: Instance, deployer: Deployer
) -> None:
    # Where one was killed in the middle: some of everything is gone.
    redis.host.run(
        "docker rm --force redis; rm -r /srv/redis/config /srv/redis/compose.yml /etc/logrotate.d/redis; "
        "systemctl disable --now redis-backup.timer",
        check=True,
    )
    assert_done_once(redis, deployer, "remove", SENTENCE)
    assert looks(redis.host) == {}
    assert redis.host.run("ls -d /srv/redis").stdout == ""


def test_what_works_on_the_data_is_waited_for(redis: Instance, deployer: Deployer) -> None:
    assert deployer.deploy(redis.host).returncode == 0
    redis.host.run(
        "systemd-run --quiet --unit=lifecycle-holds sh -c "
        '\'echo "{\\"verb\\": \\"restore\\"}" >/srv/redis/redisctl.lock; flock /srv/redis/redisctl.lock sleep 60\'',
        check=True,
    )
    try:
        for verb in ("stop", "remove"):
            refused = run(redis, deployer, verb)
            assert refused.returncode == 1
            assert "redisctl restore works on the data of redis: wait until it ends" in refused.stderr
        assert redis.health == "healthy"
    finally:
        redis.host.run("systemctl stop lifecycle-holds; rm -f /srv/redis/redisctl.lock")
