"""A restore that is interrupted anywhere ends by itself: Redis serves the old or the new data, complete."""

import signal
from collections.abc import Iterator
from itertools import product
from typing import Literal

import pytest

from redisctl.core.journal import Stage
from redoubt import deploy_lock
from sandbox.hosts import Host
from tests.deployed_redis import Instance, redisctl, refused, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import empty_instance
from tests.lifecycle.interruption import is_unlocked, pause_at, resume, wait_until_paused
from tests.lifecycle.transaction_hook import hang_at, kill_at

ROOT = "/srv/redis"
JOURNAL = f"{ROOT}/data/journal.json"
KEYS = 500
POLICIES = ("always", "unless-stopped")
# Where the work of a stage moves files or stops Redis, it is interrupted before and after that work.
POINTS: tuple[tuple[Stage, Literal["at", "after"]], ...] = (
    (Stage.PREPARED, "at"),
    (Stage.STOPPING, "at"),
    (Stage.STOPPING, "after"),
    (Stage.STASHING, "at"),
    (Stage.STASHING, "after"),
    (Stage.INSTALLING, "after"),
    (Stage.STARTING, "at"),
    (Stage.STARTING, "after"),
    (Stage.ROLLING_BACK, "at"),
    (Stage.ROLLING_BACK, "after"),
    (Stage.RESTARTING_OLD, "at"),
)
# A power cut loses more than a kill, so it comes after the work of a stage.
_AFTER = tuple(point for point in POINTS if point[1] == "after" or point[0] in (Stage.PREPARED, Stage.RESTARTING_OLD))
# Docker acts on the policy at a boot only before the stop of Redis, and from its start on.
POWER_CUTS = [
    *product(POLICIES[:1], _AFTER),
    *((POLICIES[1], point) for point in _AFTER if point[0] in (Stage.PREPARED, Stage.STARTING)),
]


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """Give the shared host with some sessions."""
    with empty_instance(host, deployer) as instance:
        instance.call(*(f"SET app:session:{number} {number} EX 72000" for number in range(KEYS)))
        yield instance


@pytest.fixture(scope="module")
def restore(redis: Instance) -> str:
    """Give the command that restores a backup without the newest session. It names the backup, as others may follow."""
    backup = redisctl(redis, "backup --no-verify")["id"]
    redis.call("SET app:session:new 1 EX 72000")
    return f"restore {backup} --yes"


def assert_old_data_is_back(redis: Instance, policy: str) -> None:
    """Wait until no transaction is unfinished; then Redis serves the old data, and nothing is left over."""
    wait_until(lambda: not redis.host.run(f"ls {JOURNAL}").stdout, "the transaction is recovered", 90)
    wait_until(lambda: redis.health == "healthy", "Redis is healthy", 60)
    assert (redis.keys, redis.call("GET app:session:new")) == (KEYS + 1, ["1"])
    assert redis.inspect()["HostConfig"]["RestartPolicy"]["Name"] == policy
    assert redis.host.run(f"ls -d {ROOT}/data/staging/* {ROOT}/data/previous/*").stdout == ""
    wait_until(lambda: "inactive" in redis.host.run("systemctl is-active redis-recover.service").stdout, "it ends", 30)
    assert redis.host.run("systemctl --failed --plain --no-legend").stdout == ""


@pytest.mark.parametrize("policy", POLICIES)
def test_killed_restore_is_recovered_by_systemd(redis: Instance, restore: str, deployer: Deployer, policy: str) -> None:
    """Send SIGKILL at every stage, one after the other; no person does anything."""
    assert deployer.deploy(redis.host, redis_restart=policy).returncode == 0
    for stage, when in POINTS:
        print(f"{when} {stage.value}")
        kill_at(redis.host, stage, when, restore)
        assert_old_data_is_back(redis, policy)
    result = redisctl(redis, restore)
    assert (result["keys"], redis.keys) == (KEYS, KEYS)
    redisctl(redis, "restore --undo --yes")
    # An undo is interrupted like a restore, and keeps both sets of data.
    kill_at(redis.host, Stage.STARTING, "after", "restore --undo --yes")
    wait_until(lambda: not redis.host.run(f"ls {JOURNAL}").stdout, "the transaction is recovered", 90)
    assert redis.keys == KEYS + 1
    redisctl(redis, "restore --undo --yes")
    assert redis.keys == KEYS
    redisctl(redis, "restore --undo --yes")
    redisctl(redis, "restore --discard-previous --yes")


def test_power_cut_during_restore_is_recovered_at_boot(redis: Instance, restore: str, deployer: Deployer) -> None:
    """A power cut at every stage: after the boot Redis serves the old data, and Docker never saw half-moved data."""
    deployed = ""
    for policy, (stage, when) in POWER_CUTS:
        print(f"{policy}: {when} {stage.value}")
        if policy != deployed:
            assert deployer.deploy(redis.host, redis_restart=policy).returncode == 0
            deployed = policy
        hang_at(redis.host, stage, when, restore)
        redis.host.kill()
        redis.host.start()
        assert_old_data_is_back(redis, policy)
        assert_files_moved_before_docker(redis.host)


def assert_files_moved_before_docker(host: Host) -> None:
    """Systemd put the files back before it started Docker."""
    times = {
        unit: int(host.run(f"systemctl show --property {which} --value {unit}", check=True).stdout)
        for unit, which in (
            ("redis-recover-files.service", "ExecMainExitTimestampMonotonic"),
            ("docker.service", "ExecMainStartTimestampMonotonic"),
        )
    }
    assert 0 < times["redis-recover-files.service"] < times["docker.service"]


def test_interrupted_restore_is_recovered_before_another(redis: Instance, restore: str, deployer: Deployer) -> None:
    """Without systemd: health reports it, and every command that changes data, and a deploy, recovers it first."""
    assert deployer.deploy(redis.host).returncode == 0
    run = redis.host.run
    run("systemctl stop redis-recover.path", check=True)
    try:
        kill_at(redis.host, Stage.INSTALLING, "at", restore)
        health = run("redisctl health")
        assert (health.returncode, "redisctl recover" in health.stdout) == (2, True), health.stdout
        backup = run("redisctl backup --no-verify")
        assert (backup.returncode, "the old data is back and Redis serves it" in backup.stderr) == (0, True)
        assert f"{KEYS + 1} keys" in backup.stdout

        kill_at(redis.host, Stage.STARTING, "after", restore)
        assert "the restore of backup" in refused(redis, "start")
        assert redisctl(redis, "recover")["changed"]
        assert not redisctl(redis, "recover")["changed"]

        kill_at(redis.host, Stage.STASHING, "after", restore)
        result = deployer.deploy(redis.host)
        assert result.returncode == 0, result.stderr
        assert "was interrupted: the old data is back" in result.stderr
        assert redis.keys == KEYS + 1
    finally:
        run("systemctl start redis-recover.path", check=True)
    assert deployer.deploy(redis.host).changed == []


def test_restore_and_deploy_exclude_each_other(redis: Instance, restore: str, deployer: Deployer) -> None:
    """Each is refused while the other one works, and a step of a killed deploy keeps the lock until it ends."""
    host = redis.host
    hang_at(host, Stage.STOPPING, "at", restore)
    try:
        deploy = deployer.deploy(host, redis_tcp_backlog=300)
    finally:
        host.run("kill -KILL $(sed -n 2p /run/redoubt-redis.lock)", check=True)
    assert (deploy.returncode, deploy.operations) == (1, [])
    assert "redisctl is changing redis (restore): wait until that ends" in deploy.stderr
    assert_old_data_is_back(redis, "unless-stopped")

    pause_at(host, Stage.PREPARED)
    running = deployer.start(host, redis_tcp_backlog=300)
    try:
        wait_until_paused(host)
        assert f"redis is locked: {deploy_lock.operator()} is changing it (deploy" in refused(redis, restore)
        running.signal(signal.SIGKILL)
        running.wait()
        wait_until(lambda: not host.run("head -n 3 /run/redoubt-redis.lock").stdout.strip(), "the deploy is gone", 60)
        assert not is_unlocked(host)
        assert "redis is locked" in refused(redis, restore)
    finally:
        resume(host)
    wait_until(lambda: is_unlocked(host), "the step of the deploy has ended", 90)
    wait_until(lambda: redis.health == "healthy", "Redis is healthy", 60)
    assert redis.config("tcp-backlog") == "300"
    assert redisctl(redis, restore)["keys"] == KEYS
    redisctl(redis, "restore --undo --yes")
    redisctl(redis, "restore --discard-previous --yes")
    assert deployer.deploy(host).returncode == 0
