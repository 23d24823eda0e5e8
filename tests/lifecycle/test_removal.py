"""Stop, start and removal of an instance.

Redis saves its data, which stays unless its removal is confirmed.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from redisctl import paths
from redisctl.core.journal import Stage
from sandbox.hosts import Host
from tests.deployed_redis import Instance, redisctl, wait_until
from tests.deployer import Deployer, DeployResult
from tests.lifecycle.conftest import remove_instance
from tests.lifecycle.expected_files import looks
from tests.lifecycle.interruption import (
    KILL,
    PAUSE,
    Step,
    cut_power,
    run_and_kill,
    start_and_pause,
    wait_until_recovered,
)

# With every file and unit that an instance can have, and the policy with which Docker starts stopped containers.
SETTINGS: dict[str, Any] = {
    "redis_unix_socket": True,
    "redis_bind": ["0.0.0.0"],
    "redis_allow_from": ["10.0.0.0/8"],
    "redis_tls": "both",
    "redis_tls_names": ["redis.example.com"],
    "redis_backup_restic_repository": "/srv/copies",
    "redis_restart": "always",
}
CONFIRMATION = 'redis_remove_data="delete the data of redis"'

TIMER = "systemctl is-enabled redis-backup.timer; systemctl is-active redis-backup.timer"


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    remove_instance(host)
    yield deployer.instance(host, **SETTINGS)
    remove_instance(host)
    host.run("rm -rf /srv/copies")


def run(redis: Instance, deployer: Deployer, verb: str, *data: str) -> DeployResult:
    options = [word for item in data for word in ("--data", item)]
    return deployer.deploy(redis.host, job=f"day2/{verb}.py", arguments=("-y", "--json", *options), **SETTINGS)


def assert_works_once(redis: Instance, deployer: Deployer, verb: str, *data: str) -> DeployResult:
    """Run a verb twice, and return the first result.

    Fails unless the first run changes something and the second one nothing.
    """
    first = run(redis, deployer, verb, *data)
    assert (first.returncode, len(first.changed)) == (0, 1), first.stderr
    again = run(redis, deployer, verb, *data)
    assert (again.returncode, again.changed) == (0, []), again.stderr
    return first


def restart_policy(redis: Instance) -> str:
    return str(redis.inspect()["HostConfig"]["RestartPolicy"]["Name"])


def test_stop_saves_the_data_and_lasts_over_a_reboot(redis: Instance, deployer: Deployer) -> None:
    redis.call("SET rq:kept 1", user="queues")
    assert_works_once(redis, deployer, "stop")
    state = redis.inspect()["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 0)
    log = redis.host.run("cat /srv/redis/logs/redis.log").stdout.partition("User requested shutdown")[2]
    assert "Calling fsync() on the AOF file" in log
    assert "ready to exit, bye bye" in log
    assert redis.host.run(TIMER).stdout == "disabled\ninactive\n"
    # With redis_restart = "always", which Docker would obey at boot.
    assert restart_policy(redis) == "no"
    redis.host.restart()
    wait_until(lambda: redis.host.run("docker ps").returncode == 0, "Docker runs", 60)
    assert redis.inspect()["State"]["Status"] == "exited"


def test_start_brings_back_data_backups_and_restart_policy(redis: Instance, deployer: Deployer) -> None:
    assert_works_once(redis, deployer, "start")
    assert redis.health == "healthy"
    assert redis.call("GET rq:kept", user="queues") == ["1"]
    assert redis.host.run(TIMER).stdout == "enabled\nactive\n"
    assert restart_policy(redis) == "always"


def test_interrupted_stop_and_start_finish_by_themselves(redis: Instance, deployer: Deployer) -> None:
    """redisctl is killed, or the power is cut, before the work and after it."""
    host = redis.host
    assert deployer.deploy(host, **SETTINGS).returncode == 0
    redis.call("SET rq:kept 1", user="queues")
    for step in (Step(Stage.PREPARED, KILL), Step(Stage.PREPARED, KILL, "after"), Step(Stage.PREPARED, PAUSE)):
        for verb in ("stop", "start"):
            if step.action == PAUSE:
                start_and_pause(host, verb, step)
                cut_power(host)
            else:
                run_and_kill(host, verb, step)
            wait_until_recovered(host, 90)
            stopped = verb == "stop"
            assert redis.inspect()["State"]["Status"] == ("exited" if stopped else "running")
            assert restart_policy(redis) == ("no" if stopped else "always")
            assert host.run(TIMER).stdout == ("disabled\ninactive\n" if stopped else "enabled\nactive\n")
        assert redis.call("GET rq:kept", user="queues") == ["1"]
    assert host.run("systemctl --failed --plain --no-legend").stdout == ""


def test_a_deploy_starts_a_stopped_instance(redis: Instance, deployer: Deployer) -> None:
    assert run(redis, deployer, "stop").returncode == 0
    result = deployer.deploy(redis.host, **SETTINGS)
    assert result.returncode == 0, result.stderr
    assert redis.health == "healthy"
    assert restart_policy(redis) == "always"
    assert redis.host.run(TIMER).stdout == "enabled\nactive\n"


def test_removal_keeps_the_data_and_a_deploy_finds_it(redis: Instance, deployer: Deployer) -> None:
    redis.call("SET rq:kept 1", user="queues")
    backup = redisctl(redis, "backup")["id"]
    mistaken = run(redis, deployer, "remove", 'redis_remove_data="yes"')
    assert mistaken.returncode == 1
    assert "nothing was removed: redis_remove_data = 'yes' removes nothing" in mistaken.stderr
    assert f"--data {CONFIRMATION}" in mistaken.stderr
    assert redis.health == "healthy"

    removed = assert_works_once(redis, deployer, "remove")
    assert [reason.split(" (")[0] for reason in removed.reasons if reason.endswith("): kept")] == [
        "/srv/redis/data",
        "/srv/redis/backups",
    ]
    assert "redis is not deployed to this host: deploy it first" in run(redis, deployer, "redisctl").stderr
    assert f"its passwords stay in {deployer.secrets_dir}/{redis.host.name}/redis.yml" in removed.stderr
    present = {path for path in looks(redis.host) if not path.startswith(("/srv/redis/backups/", "/srv/redis/data/"))}
    assert present == {"/srv/redis", "/srv/redis/.redoubt", "/srv/redis/data", "/srv/redis/backups"}
    leftovers = redis.host.run(
        "docker ps --all --quiet; docker network ls --filter name=redis_ --quiet; nft list tables | grep redoubt; "
        "ls /etc/systemd/system /etc/systemd/system/*.wants | grep redis; ls -d /run/redoubt-srv-redis.modules"
    )
    assert leftovers.stdout == ""

    result = deployer.deploy(redis.host)
    assert result.returncode == 0, result.stderr
    assert redis.call("GET rq:kept", user="queues") == ["1"]
    backups = json.loads(redis.host.run("redisctl backup list --json", check=True).stdout)["backups"]
    assert [entry["id"] for entry in backups] == [backup]


def test_an_interrupted_removal_is_finished_with_the_data(redis: Instance, deployer: Deployer) -> None:
    # As if it had been killed in the middle: something of everything is gone.
    redis.host.run(
        "docker rm --force redis; rm -r /srv/redis/config /srv/redis/compose.yml /etc/logrotate.d/redis; "
        "systemctl disable --now redis-backup.timer",
        check=True,
    )
    assert_works_once(redis, deployer, "remove", CONFIRMATION)
    assert looks(redis.host) == {}
    assert redis.host.run("ls -d /srv/redis").stdout == ""


def test_an_interrupted_transaction_is_not_removed(redis: Instance, deployer: Deployer) -> None:
    """Its journal says where the data is."""
    assert deployer.deploy(redis.host).returncode == 0
    # Otherwise a unit recovers it at once. The service may still look for a journal of the deploy.
    redis.host.run("systemctl stop redis-recover.path redis-recover.service", check=True)
    journal = {"operation": "restore of latest", "kind": "data", "stage": "prepared", "started": 0, "schema": 1}
    path = f"/srv/redis/{paths.JOURNAL}"
    redis.host.run(f"umask 077; cat >{path}", input=json.dumps(journal), check=True)
    try:
        refused = run(redis, deployer, "remove", CONFIRMATION)
        assert refused.returncode == 1
        assert "nothing was removed: restore of latest was interrupted: run /usr/local/sbin/redisctl recover" in (
            refused.stderr
        )
        assert redis.health == "healthy"
    finally:
        redis.host.run(f"rm {path}; systemctl start redis-recover.path", check=True)


def test_stop_and_removal_respect_the_lock(redis: Instance, deployer: Deployer) -> None:
    holder = json.dumps({"who": "", "verb": "restore", "since": "2026-01-02T03:04:05+00:00"})
    lock = paths.lock_file("redis")
    assert deployer.deploy(redis.host).returncode == 0
    redis.host.run(f"umask 077; cat >{lock}", input=f"\n1\n{holder}\n", check=True)
    redis.host.run(f"systemd-run --quiet --unit=lifecycle-holds flock {lock} sleep 60", check=True)
    try:
        for verb in ("stop", "remove"):
            refused = run(redis, deployer, verb)
            assert refused.returncode == 1
            assert "Nothing was changed on any host" in refused.stderr
            assert "redisctl is changing redis (restore): wait until that ends" in refused.stderr
        assert redis.health == "healthy"
    finally:
        redis.host.run(f"systemctl stop lifecycle-holds; rm -f {lock}")
