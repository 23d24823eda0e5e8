"""Interrupted deploys: the next deploy finishes them, and no data is lost.

An interrupted start finishes by itself. The deploy's process is killed, the connection is lost, redisctl is
killed, Docker restarts, or the host loses power. The tests share one host and run in order; each leaves a healthy
instance with any settings.
"""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from redisctl.core.journal import Stage
from redoubt import deploy_lock
from redoubt.settings.load import load
from sandbox import images
from sandbox.hosts import Host
from tests.deployed_redis import Instance, redisctl, wait_until
from tests.deployer import BackgroundDeploy, Deployer, deploy_data
from tests.lifecycle.conftest import assert_no_change, remove_instance
from tests.lifecycle.expected_files import TREE, digests, looks
from tests.lifecycle.interruption import (
    PAUSE,
    Step,
    cut_power,
    cut_power_in_deploy,
    interrupt,
    is_finished,
    is_unlocked,
    resume,
    wait_until_paused,
    wait_until_recovered,
)
from tests.lifecycle.test_drift_report import drift

# Settings that change what most operations write.
OTHER_SETTINGS: dict[str, Any] = {
    "redis_maxmemory": "300mb",
    "redis_app_name": "shop",
    "redis_renamed_commands": ["CONFIG", "SHUTDOWN", "BGREWRITEAOF"],
    "redis_logfile_rotations": 7,
}
START = "Service | Start Redis and wait until it is healthy"
OWNER = "Owner | Give the files to the user of Redis"
COMPOSE_UP = "[c]ompose .*up --detach"
# Between the old Redis and the new one. Docker starts neither by itself.
NONE_RUNS = "! pgrep -x redis-server >/dev/null"


def until(condition: str, seconds: int = 60) -> str:
    """Return a shell command that waits until a condition holds on the host.

    It fails if the condition does not hold within ``seconds``.
    """
    return f"for _ in $(seq {seconds * 50}); do {{ {condition}; }} && exit 0; sleep 0.02; done; exit 1"


def kill(deploy: BackgroundDeploy, host: Host) -> None:
    """Kill a deploy on the machine that deploys.

    Waits until its last command on the host has ended.
    """
    deploy.signal(signal.SIGKILL)
    assert deploy.wait().returncode == -signal.SIGKILL
    wait_until(lambda: is_unlocked(host), "the killed deploy releases its lock", 90)


def finish(deployer: Deployer, host: Host, **settings: Any) -> Instance:
    """Deploy again, and check that Redis is healthy and the files are as expected."""
    instance = deployer.instance(host, **settings)
    assert instance.health == "healthy"
    assert looks(host) == TREE
    return instance


@contextmanager
def data_survives(instance: Instance) -> Iterator[None]:
    """Write data, and check afterwards that it is still there."""
    jobs = [b"job %d" % number for number in range(100)]
    with instance.client("queues") as client:
        client.delete("rq:queue:kept")
        client.rpush("rq:queue:kept", *jobs)
    yield
    with instance.client("queues") as client:
        assert client.lrange("rq:queue:kept", 0, -1) == jobs


@dataclass(frozen=True)
class FirstDeploy:
    """A first deploy without interruption.

    It has all operations, those that changed the host, and the digests of the files.
    """

    operations: list[str]
    changed: list[str]
    digests: dict[str, str]


@pytest.fixture(scope="module")
def first_deploy(host: Host, deployer: Deployer) -> FirstDeploy:
    remove_instance(host, image=True)
    result = deployer.deploy(host)
    assert result.returncode == 0, result.stderr
    operations = [entry["name"] for entry in result.operations]
    assert START in operations
    # Only what changes a running Redis, or its user, has nothing to do.
    unchanged = [name for name in operations if name not in result.changed]
    assert [name for name in unchanged if "running Redis" not in name] == [OWNER]
    return FirstDeploy(operations, result.changed, digests(host))


@pytest.fixture
def redis(first_deploy: FirstDeploy, host: Host, deployer: Deployer) -> Instance:
    """The instance as the test before left it."""
    return Instance(host, deployer.secrets(host))


def test_first_deploy_killed_at_each_change_is_finished(
    first_deploy: FirstDeploy, host: Host, deployer: Deployer
) -> None:
    """A first deploy that is killed at each change is finished by the next one.

    Each deploy starts from what the killed one left, and completes one more change. A kill at an operation that changes
    nothing would leave the same as a kill at the next change.
    """
    remove_instance(host, image=True)
    for operation in first_deploy.changed:
        running = deployer.start(host)
        running.wait_for(f"Starting operation: {operation}")
        kill(running, host)

    finish(deployer, host)
    assert digests(host) == first_deploy.digests
    assert_no_change(deployer, host)


def test_killed_image_transfer_leaves_no_part(first_deploy: FirstDeploy, host: Host, deployer: Deployer) -> None:
    """The deploy is killed while the image is pushed, and while Docker loads it."""
    remove_instance(host, image=True)
    for condition in ("[ -s /srv/redis/.incoming/image.tar ]", "pgrep -f '[d]ocker load' >/dev/null"):
        running = deployer.start(host)
        host.run(until(condition), check=True)
        running.signal(signal.SIGKILL)
        assert running.wait().returncode == -signal.SIGKILL
        loaded = host.run(f"docker image inspect {images.redis_reference()}").stdout
        assert not loaded.startswith("[{"), "killed too late"
        wait_until(lambda: is_unlocked(host), "the killed deploy releases its lock", 30)

    finish(deployer, host)
    assert_no_change(deployer, host)


def test_change_killed_at_each_operation_keeps_data(redis: Instance, deployer: Deployer) -> None:
    """A change of settings that is killed at each of its operations keeps the data.

    Each deploy completes one more operation. Until a deploy replaces Redis, it runs undisturbed.
    """
    host = redis.host
    # The change back has the same operations. A plan would miss what follows from another operation.
    operations = deployer.deploy(host, **OTHER_SETTINGS).changed
    assert START in operations
    with data_survives(redis):
        identity = redis.identity
        for operation in operations:
            # Killed when it was about to replace Redis, the deploy leaves that to the next one.
            if operations.index(operation) <= operations.index(START):
                assert redis.identity == identity, f"restarted before {operation}"
            running = deployer.start(host)
            running.wait_for(f"Starting operation: {operation}")
            kill(running, host)

        changed = finish(deployer, host)
        assert changed.config("maxmemory") == str(1024**3)
        assert_no_change(deployer, host)


def cut_connection(host: Host) -> None:
    """End only the SSH session in which Compose runs, as a lost connection does."""
    host.run(until(f"pgrep -f '{COMPOSE_UP}' >/dev/null"), check=True)
    host.run(
        f"process=$(pgrep -o -f '{COMPOSE_UP}'); until grep -q ^sshd /proc/$process/comm; do "
        "process=$(awk '/^PPid/ { print $2 }' /proc/$process/status); done; kill -9 $process",
        check=True,
    )


def test_lost_connection_does_not_stop_a_start(redis: Instance, deployer: Deployer) -> None:
    """The deploy reports the lost connection, and the host finishes the start."""
    host, identity = redis.host, redis.identity
    with data_survives(redis):
        running = deployer.start(host, redis_tcp_backlog=301)
        cut_connection(host)
        result = running.wait()
        assert result.returncode == 1
        assert "the connection to the host is lost; its last command may still run there" in result.stderr
        assert "is up" not in result.stderr

        def came_up() -> bool:
            return bool(redis.inspect()) and redis.identity != identity and redis.health == "healthy"

        wait_until(came_up, "Redis is up without another deploy", 120)
        wait_until_recovered(host, 30)
        assert finish(deployer, host, redis_tcp_backlog=301).config("tcp-backlog") == "301"
        assert_no_change(deployer, host, redis_tcp_backlog=301)


def test_second_deploy_reports_holder_and_changes_nothing(redis: Instance, deployer: Deployer) -> None:
    host = redis.host
    with data_survives(redis):
        interrupt(host, Step(Stage.PREPARED, PAUSE))
        try:
            first = deployer.start(host, redis_tcp_backlog=302)
            wait_until_paused(host)
            # A plan does not wait for the lock.
            planned = deployer.deploy(host, arguments=("--dry",), redis_tcp_backlog=304)
            second = deployer.deploy(host, redis_tcp_backlog=304)
            verb = deployer.deploy(host, job="day2/stop.py")
            (under_way,) = redisctl(redis, "history --last 1")["deploys"]
            assert first.process.poll() is None
        finally:
            resume(host)
        assert first.wait().returncode == 0, first.stderr
        assert planned.returncode == 0, planned.stderr
        for refused in (second, verb):
            assert (refused.returncode, refused.operations) == (1, [])
            assert "Nothing was changed on any host" in refused.stderr
            holder = re.search(r": (\S+) is changing redis \(deploy, since (20\S+\+00:00)\): wait", refused.stderr)
            assert holder, refused.stderr
            assert holder[1] == deploy_lock.operator()
            assert abs(datetime.now(UTC) - datetime.fromisoformat(holder[2])) < timedelta(minutes=2)
        assert (under_way["result"], under_way["who"]) == ("running", deploy_lock.operator())
        assert redis.config("tcp-backlog") == "302"
        assert_no_change(deployer, host, redis_tcp_backlog=302)


def test_history_has_every_deploy(first_deploy: FirstDeploy, host: Host, deployer: Deployer) -> None:
    """The history has every deploy, also a killed one with its finished operations.

    No operation is recorded twice.
    """
    remove_instance(host, image=True)
    killed = deployer.start(host)
    # The record has what was done before, not what it has just done.
    killed.wait_for("Starting operation: Access | Write the ACL file")
    killed.signal(signal.SIGKILL)
    killed.wait()
    assert deployer.deploy(host).returncode == 0
    redis = Instance(host, deployer.secrets(host))
    assert deployer.deploy(host).returncode == 0
    host.run("rm /srv/redis/compose.yml && mkdir /srv/redis/compose.yml", check=True)
    try:
        assert deployer.deploy(host).returncode == 1
    finally:
        host.run("rmdir /srv/redis/compose.yml", check=True)
    assert deployer.deploy(host, job="day2/rotate.py").returncode == 0
    assert deployer.deploy(host, arguments=("--dry",)).returncode == 0

    deploys = redisctl(redis, "history")["deploys"]
    assert [(deploy["verb"], deploy["result"]) for deploy in reversed(deploys)] == [
        ("deploy", "interrupted"),
        ("deploy", "changed"),
        ("deploy", "no change"),
        ("deploy", "failed"),
        ("rotate", "changed"),
    ]
    rotated, failed, unchanged, changed, interrupted = deploys
    assert interrupted["changed"][:1] == [first_deploy.operations[0]]
    assert interrupted["changed"] == first_deploy.changed[: len(interrupted["changed"])]
    assert changed["changed"] == first_deploy.changed[-len(changed["changed"]) :]
    assert failed["failed"].startswith("Service | "), failed
    assert "Rotate | Set the users of the running Redis" in rotated["changed"]
    assert {deploy["who"] for deploy in deploys} == {deploy_lock.operator()}
    digest = load({**deploy_data(host), "redis_secrets_dir": str(deployer.secrets_dir)}).digest
    assert {deploy["settings"] for deploy in deploys} == {digest}
    assert unchanged["started"] <= unchanged["ended"]
    output = host.run("redisctl history --last 2", check=True).stdout
    assert (output.count("rotate "), output.count("deploy "), output.count("interrupted")) == (1, 1, 0), output
    records = host.run("cat /var/log/redoubt/redis.jsonl; redisctl history", check=True).stdout
    assert not any(
        secret in records for secret in (*redis.secrets.passwords.values(), *redis.secrets.commands.values())
    )
    assert host.run("stat -c '%a %U' /var/log/redoubt /var/log/redoubt/redis.jsonl").stdout == "700 root\n600 root\n"


def test_history_is_kept_short(redis: Instance, deployer: Deployer) -> None:
    host = redis.host
    line = deploy_lock.Record("deploy", "", "", "somebody", "2026-01-01T00:00:00+00:00", ended="x").line()
    host.run("cat >/root/line", input=line + "\n", check=True)
    host.run(
        f'yes "$(cat /root/line)" | head -n {deploy_lock.MAX_RECORDS * 4} >/var/log/redoubt/redis.jsonl', check=True
    )
    assert deployer.deploy(host).returncode == 0
    records = host.run("cat /var/log/redoubt/redis.jsonl; rm /root/line", check=True).stdout.splitlines()
    assert len(records) == deploy_lock.MAX_RECORDS * 2
    assert '"ended": "20' in records[-1]


@pytest.mark.parametrize("end", ["without a heartbeat", "killed as the refusal says"])
def test_hanging_deploy_does_not_keep_the_lock(end: str, redis: Instance, deployer: Deployer) -> None:
    """A deploy that loses its network cannot tell the host that it has ended."""
    host = redis.host
    hanging = deployer.start(host, redis_tcp_backlog=305)
    hanging.wait_for("Starting operation: ")
    hanging.signal(signal.SIGSTOP)
    try:
        refused = deployer.deploy(host).stderr
        holder = re.search(r"is changing redis .* release it with 'kill (\d+)' on the host", refused)
        assert holder, refused
        seconds = deploy_lock.LOCK_TIMEOUT + 15
        if end.startswith("killed"):
            host.run(f"kill {holder[1]}", check=True)
            seconds = deploy_lock.LOCK_TIMEOUT // 2
        wait_until(lambda: is_unlocked(host), "the lock is released", seconds)
        assert deployer.deploy(host, redis_tcp_backlog=306).returncode == 0
    finally:
        hanging.signal(signal.SIGKILL)
        hanging.wait()
    finish(deployer, host, redis_tcp_backlog=306)
    assert_no_change(deployer, host, redis_tcp_backlog=306)


def deploy_until_redis_is_down(deployer: Deployer, host: Host, **settings: Any) -> BackgroundDeploy:
    """Start a deploy, and return when the old Redis has ended.

    The new one has not started then.
    """
    running = deployer.start(host, **settings)
    running.wait_for(f"Starting operation: {START}")
    host.run(until(NONE_RUNS), check=True)
    return running


def assert_up(redis: Instance, deployer: Deployer, backlog: int, **settings: Any) -> None:
    """Check that the new state runs and that a deploy writes only its own records."""
    redis.wait_until_healthy()
    assert redis.config("tcp-backlog") == str(backlog)
    identity = redis.identity
    finish(deployer, redis.host, redis_tcp_backlog=backlog, **settings)
    assert redis.identity == identity, "the deploy restarted what had recovered"
    assert_no_change(deployer, redis.host, redis_tcp_backlog=backlog, **settings)


@pytest.mark.core
def test_killed_redisctl_is_finished_by_systemd(redis: Instance, deployer: Deployer) -> None:
    """systemd finishes the start of a killed redisctl.

    The Compose that redisctl started still runs, so the recovery waits until it has ended.
    """
    host = redis.host
    with data_survives(redis):
        running = deploy_until_redis_is_down(deployer, host, redis_tcp_backlog=307)
        host.run("pkill -KILL -f '[r]edisctl deploy start-service'", check=True)
        assert running.wait().returncode == 1
        wait_until_recovered(host)
        log = host.run("journalctl --unit redis-recover.service --since -5min", check=True).stdout
        assert "start of redis was interrupted and is finished now" in log, log
        assert_up(redis, deployer, 307)


def test_killed_redisctl_is_finished_by_next_deploy(redis: Instance, deployer: Deployer) -> None:
    """systemd's recovery is switched off, and Compose is killed as well."""
    host = redis.host
    with data_survives(redis):
        running = deploy_until_redis_is_down(deployer, host, redis_tcp_backlog=308)
        # Not before: the deploy starts the unit again.
        host.run("systemctl stop redis-recover.path redis-recover.service", check=True)
        host.run("pkill -KILL -f '[r]edisctl deploy start-service'; pkill -KILL -f 'docker[- ]compose'", check=True)
        assert running.wait().returncode == 1
        assert not is_finished(host)
        result = deployer.deploy(host, redis_tcp_backlog=308)
        assert "start of redis was interrupted: finishing it first" in result.stderr, result.stderr
        assert is_finished(host)
        assert_up(redis, deployer, 308)


@pytest.mark.parametrize(
    ("end", "backlog"),
    [
        pytest.param("systemctl restart docker", 309, id="restarts"),
        pytest.param("systemctl kill --signal=KILL docker", 310, id="is-killed"),
    ],
)
def test_start_survives_a_restart_of_docker(end: str, backlog: int, redis: Instance, deployer: Deployer) -> None:
    host = redis.host
    with data_survives(redis):
        running = deploy_until_redis_is_down(deployer, host, redis_tcp_backlog=backlog)
        host.run(end, check=True)
        result = running.wait()
        assert result.returncode == 0, result.stderr
        assert is_finished(host)
        assert_up(redis, deployer, backlog)


def test_power_cut_at_each_stage_of_a_start(redis: Instance, deployer: Deployer) -> None:
    """The host finishes the start when it is back.

    Each start changes the restart policy, so Docker finds both at a boot: that of the old container in the first stage,
    that of the new one in the last.
    """
    host = redis.host
    cuts = ((Stage.PREPARED, "always"), (Stage.STARTING, "unless-stopped"), (Stage.FINISHING, "always"))
    with data_survives(redis):
        for backlog, (stage, policy) in enumerate(cuts, 320):
            settings: dict[str, Any] = {"redis_tcp_backlog": backlog, "redis_restart": policy}
            cut_power_in_deploy(redis, deployer, stage, **settings)
            assert redis.config("tcp-backlog") == str(backlog)
            assert redis.inspect()["HostConfig"]["RestartPolicy"]["Name"] == policy

        running = deploy_until_redis_is_down(deployer, host, redis_tcp_backlog=323, redis_restart="unless-stopped")
        cut_power(host)
        assert running.wait().returncode == 1
        wait_until_recovered(host)
        assert_up(redis, deployer, 323, redis_restart="unless-stopped")


def test_start_without_the_data_disk_fails(redis: Instance) -> None:
    """Redis does not start empty without the data disk, by a command or at boot.

    It has its data when the disk is back.
    """
    host, data = redis.host, "/srv/redis/data"
    with data_survives(redis):
        host.run(f"redisctl stop && mkdir /run/empty && mount --bind /run/empty {data}", check=True)
        try:
            refused = host.run("redisctl start")
            assert refused.returncode == 3
            assert "/srv/redis/data/live is missing, and nothing was started" in refused.stderr
            assert host.run("docker start redis").returncode != 0
            assert not redis.inspect()["State"]["Running"]
            assert host.run(f"ls -A {data}").stdout == ""
        finally:
            host.run(f"umount {data}", check=True)
        host.run("redisctl start", check=True)
        assert redis.health == "healthy"

    with data_survives(redis):
        # Redis writes its AOF to disk every second.
        host.run(f"sleep 2; mv {data}/live {data}/away", check=True)
        try:
            cut_power(host)
            wait_until(redis.inspect, "Docker is up", 30)
            assert not redis.inspect()["State"]["Running"]
            assert host.run(f"ls -A {data}").stdout == "away\n"
        finally:
            host.run(f"mv -T {data}/away {data}/live", check=True)
        host.run("redisctl start", check=True)
        assert redis.health == "healthy"


def test_other_release_is_installed_after_preflight(redis: Instance, deployer: Deployer) -> None:
    """A plan, a drift report and a refused deploy keep the installed redisctl.

    They run this release's redisctl from a private directory, and remove it.
    """
    host, program = redis.host, "/srv/redis/redisctl"
    finish(deployer, host)
    # The digest at its end says which release it is.
    host.run(
        f"cp {program} /run/current && printf %064d 1 | "
        f"dd of={program} bs=1 seek=$(($(stat -c %s {program}) - 64)) conv=notrunc",
        check=True,
    )
    installed = (
        f"stat -c '%y %i' {program}; sha256sum {program}; find /run/redoubt*.modules /run/redoubt-inspect* | sort"
    )
    before = host.run(installed).stdout
    planned = deployer.deploy(host, arguments=("--dry",))
    assert planned.returncode == 0, planned.stderr
    assert host.run(installed).stdout == before
    compared = drift(deployer.inventory(host))
    assert f"{program}: content differs" in compared.stdout, compared.stderr
    assert host.run(installed).stdout == before
    refused = deployer.deploy(host, redis_port=22)
    assert refused.returncode == 1
    assert "Nothing was changed on any host. Fix these problems first:" in refused.stderr
    assert host.run(installed).stdout == before
    result = deployer.deploy(host)
    assert result.returncode == 0, result.stderr
    assert result.changed == ["redisctl | Install redisctl"]
    assert host.run(f"cmp {program} /run/current; rm /run/current").stdout == ""
    assert_no_change(deployer, host)
