"""Restores that are interrupted anywhere: they end by themselves.

Redis serves the old or the new data, complete.
"""

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
from tests.lifecycle.conftest import assert_no_change, empty_instance
from tests.lifecycle.interruption import (
    KILL,
    PAUSE,
    Step,
    cut_power,
    interrupt,
    is_unlocked,
    resume,
    run_and_kill,
    start_and_pause,
    wait_until_paused,
    wait_until_recovered,
)

ROOT = "/srv/redis"
KEYS = 500
POLICIES = ("always", "unless-stopped")
# Where the work of a stage moves files or stops Redis, it is interrupted before and after that work.
Point = tuple[Stage, Literal["at", "after"]]
POINTS: tuple[Point, ...] = (
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
# Redis does not start with the restored data, so the restore is rolled back. The file is another one than the backup's.
DAMAGE = Step(
    Stage.STARTING,
    f"cd {ROOT}/data/live/appendonlydir; rm appendonly.aof.manifest; echo damaged >appendonly.aof.manifest",
)
# Without a boot Docker does not act on the policy. The recovery restores it from each of these states: with its policy,
# without it, started with the restored data, and about to start with the old data.
_OTHER_POLICY: tuple[Point, ...] = (
    (Stage.PREPARED, "at"),
    (Stage.STOPPING, "after"),
    (Stage.STARTING, "after"),
    (Stage.RESTARTING_OLD, "at"),
)
KILLS = [
    *((POLICIES[0], point) for point in POINTS if point not in _OTHER_POLICY),
    *((POLICIES[1], point) for point in _OTHER_POLICY),
]
# A power cut loses more than a kill, so it comes after the work of a stage.
_AFTER = tuple(point for point in POINTS if point[1] == "after" or point[0] in (Stage.PREPARED, Stage.RESTARTING_OLD))
# Docker acts on the policy at a boot only before the stop of Redis, and from its start on.
POWER_CUTS = [
    *product(POLICIES[:1], _AFTER),
    *((POLICIES[1], point) for point in _AFTER if point[0] in (Stage.PREPARED, Stage.STARTING)),
]


def steps_to(action: str, stage: Stage, when: Literal["at", "after"] = "at") -> tuple[Step, ...]:
    """Return the steps that interrupt a restore at a stage.

    The stage may be one of the restore's rollback.
    """
    is_rollback = stage in (Stage.ROLLING_BACK, Stage.RESTARTING_OLD)
    return (*([DAMAGE] if is_rollback else []), Step(stage, action, when))


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """Give the shared host with some sessions."""
    with empty_instance(host, deployer) as instance:
        instance.call(*(f"SET app:session:{number} {number} EX 72000" for number in range(KEYS)))
        yield instance


@pytest.fixture(scope="module")
def restore(redis: Instance) -> str:
    """Return the command that restores a backup without the newest session.

    It names the backup, as others may follow.
    """
    backup = redisctl(redis, "backup --no-verify")["id"]
    redis.call("SET app:session:new 1 EX 72000")
    return f"restore {backup} --yes"


def deploy_policy(deployer: Deployer, host: Host, policy: str, deployed: str) -> str:
    """Deploy a restart policy unless it is the deployed one. Returns it."""
    if policy != deployed:
        assert deployer.deploy(host, redis_restart=policy).returncode == 0
    return policy


def assert_old_data_is_back(redis: Instance, policy: str) -> None:
    """Wait until no transaction is unfinished, and check that the old data is back.

    Redis serves it with the restart policy ``policy``, and nothing is left over.
    """
    wait_until_recovered(redis.host, 90)
    redis.wait_until_healthy()
    assert (redis.keys, redis.call("GET app:session:new")) == (KEYS + 1, ["1"])
    assert redis.inspect()["HostConfig"]["RestartPolicy"]["Name"] == policy
    assert redis.host.run(f"ls -d {ROOT}/data/staging/* {ROOT}/data/previous/*").stdout == ""
    wait_until(lambda: "inactive" in redis.host.run("systemctl is-active redis-recover.service").stdout, "it ends", 30)
    assert redis.host.run("systemctl --failed --plain --no-legend").stdout == ""


def test_killed_restore_is_recovered_by_systemd(redis: Instance, restore: str, deployer: Deployer) -> None:
    """Send SIGKILL at every stage, one after the other; no person does anything."""
    deployed = ""
    for policy, (stage, when) in KILLS:
        steps = steps_to(KILL, stage, when)
        print(f"{policy}: {steps[-1]}")
        deployed = deploy_policy(deployer, redis.host, policy, deployed)
        run_and_kill(redis.host, restore, *steps)
        assert_old_data_is_back(redis, policy)
    result = redisctl(redis, restore)
    assert (result["keys"], redis.keys) == (KEYS, KEYS)
    redisctl(redis, "restore --undo --yes")
    # An undo is interrupted like a restore, and keeps both sets of data.
    run_and_kill(redis.host, "restore --undo --yes", Step(Stage.STARTING, KILL, "after"))
    wait_until_recovered(redis.host, 90)
    assert redis.keys == KEYS + 1
    redisctl(redis, "restore --undo --yes")
    assert redis.keys == KEYS
    redisctl(redis, "restore --undo --yes")
    redisctl(redis, "restore --discard-previous --yes")


def test_power_cut_during_restore_is_recovered_at_boot(redis: Instance, restore: str, deployer: Deployer) -> None:
    """Redis serves the old data at boot after a power cut at any stage of a restore.

    Docker never saw half-moved data.
    """
    deployed = ""
    for policy, (stage, when) in POWER_CUTS:
        steps = steps_to(PAUSE, stage, when)
        print(f"{policy}: {steps[-1]}")
        deployed = deploy_policy(deployer, redis.host, policy, deployed)
        start_and_pause(redis.host, restore, *steps)
        cut_power(redis.host)
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
    """Commands that change data, and a deploy, recover an interrupted restore first.

    This needs no systemd. Health reports the interrupted restore.
    """
    assert deployer.deploy(redis.host).returncode == 0
    run = redis.host.run
    run("systemctl stop redis-recover.path", check=True)
    try:
        run_and_kill(redis.host, restore, Step(Stage.INSTALLING, KILL))
        health = run("redisctl health")
        assert (health.returncode, "redisctl recover" in health.stdout) == (2, True), health.stdout
        backup = run("redisctl backup --no-verify")
        assert (backup.returncode, "the old data is back and Redis serves it" in backup.stderr) == (0, True)
        assert f"{KEYS + 1} keys" in backup.stdout

        run_and_kill(redis.host, restore, Step(Stage.STARTING, KILL, "after"))
        assert "the restore of backup" in refused(redis, "start")
        assert redisctl(redis, "recover")["changed"]
        assert not redisctl(redis, "recover")["changed"]

        run_and_kill(redis.host, restore, Step(Stage.STASHING, KILL, "after"))
        result = deployer.deploy(redis.host)
        assert result.returncode == 0, result.stderr
        assert "was interrupted: the old data is back" in result.stderr
        assert redis.keys == KEYS + 1
    finally:
        run("systemctl start redis-recover.path", check=True)
    # A deploy that recovered the restore has left nothing to do.
    assert_no_change(deployer, redis.host)


def test_restore_and_deploy_exclude_each_other(redis: Instance, restore: str, deployer: Deployer) -> None:
    """A restore and a deploy are refused while the other one works.

    A step of a killed deploy keeps the lock until it ends.
    """
    host = redis.host
    start_and_pause(host, restore, Step(Stage.STOPPING, PAUSE))
    try:
        deploy = deployer.deploy(host, redis_tcp_backlog=300)
    finally:
        host.run("kill -KILL $(sed -n 2p /run/redoubt-redis.lock)", check=True)
    assert (deploy.returncode, deploy.operations) == (1, [])
    assert "redisctl is changing redis (restore): wait until that ends" in deploy.stderr
    assert_old_data_is_back(redis, "unless-stopped")

    interrupt(host, Step(Stage.PREPARED, PAUSE))
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
    wait_until_recovered(host)
    wait_until(lambda: is_unlocked(host), "the step of the deploy and the recovery have ended", 90)
    redis.wait_until_healthy()
    assert redis.config("tcp-backlog") == "300"
    assert redisctl(redis, restore)["keys"] == KEYS
    redisctl(redis, "restore --undo --yes")
    redisctl(redis, "restore --discard-previous --yes")
    assert deployer.deploy(host).returncode == 0
