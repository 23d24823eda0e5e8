"""A deploy that is cut off anywhere leaves nothing that the next one does not finish, and no data is lost.

The control machine's end is killed without a chance to clean up; the connection is cut on the host; the host loses
its power. What then runs again is the same command.
"""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from redoubt import deploy_lock
from redoubt.settings.load import load
from sandbox import images
from sandbox.hosts import Host
from tests.lifecycle.conftest import BackgroundDeploy, Deployer, remove_instance
from tests.lifecycle.deployed_redis import Instance, redisctl, wait_until
from tests.lifecycle.expected_files import TREE, digests, looks

# All operations of a deploy to a host that has an engine, in order.
OPERATIONS = (
    "Directories | Create the directories",
    "Image | Load the image from its archive",
    "Access | Write the ACL file",
    "Access | Set the users of the running Redis",
    "Secrets | Write the secrets",
    "Config | Write redis.conf and the health check",
    "Config | Find out whether the image can defragment",
    "Logs | Rotate the log file",
    "Service | Change the running Redis",
    "Service | Write the Compose project",
    "Service | Start Redis and wait until it is healthy",
    "redisctl | Write redisctl",
    "Backup | Write the units that take backups",
    "Backup | Schedule backups",
)
USERS, CHANGE, START = OPERATIONS[3], OPERATIONS[8], OPERATIONS[10]

# Settings that change what most operations write.
OTHERWISE: dict[str, Any] = {
    "redis_maxmemory": "300mb",
    "redis_app_name": "shop",
    "redis_renamed_commands": ["CONFIG", "SHUTDOWN", "BGREWRITEAOF"],
    "redis_logfile_rotations": 7,
}

COMPOSE_UP = "[c]ompose .*up --detach"


def until(condition: str, seconds: int = 60) -> str:
    """A shell command that waits until a condition holds on the host, and fails when it does not."""
    return f"for _ in $(seq {seconds * 50}); do {{ {condition}; }} && exit 0; sleep 0.02; done; exit 1"


def finish(deployer: Deployer, host: Host, **settings: Any) -> Instance:
    """Deploy again and look: healthy, as configured, every file whole and none too many."""
    result = deployer.deploy(host, **settings)
    assert result.returncode == 0, result.stderr
    instance = Instance(host, deployer.secrets(host))
    assert instance.health == "healthy"
    assert looks(host) == TREE
    return instance


def assert_nothing_left_to_do(deployer: Deployer, host: Host, **settings: Any) -> None:
    again = deployer.deploy(host, **settings)
    assert (again.returncode, again.changed) == (0, []), again.stderr


@contextmanager
def data_kept(instance: Instance) -> Iterator[None]:
    """Data that a client wrote before, and reads again after."""
    jobs = [b"job %d" % number for number in range(100)]
    with instance.client("queues") as client:
        client.delete("rq:queue:kept")
        client.rpush("rq:queue:kept", *jobs)
    yield
    with instance.client("queues") as client:
        assert client.lrange("rq:queue:kept", 0, -1) == jobs


@pytest.fixture(scope="module")
def complete(host: Host, deployer: Deployer) -> dict[str, str]:
    """The files of a deploy that nobody disturbed: what every other one has to end with."""
    remove_instance(host)
    result = deployer.deploy(host)
    assert [entry["name"] for entry in result.operations] == list(OPERATIONS), "OPERATIONS is out of date"
    # No Redis runs yet.
    assert result.changed == [operation for operation in OPERATIONS if operation not in (USERS, CHANGE)]
    assert_nothing_left_to_do(deployer, host)
    return digests(host)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_first_deploy_killed_at_any_operation_is_finished_by_the_next(
    operation: str, complete: dict[str, str], host: Host, deployer: Deployer
) -> None:
    remove_instance(host, image=operation in OPERATIONS[:2])
    running = deployer.start(host)
    running.wait_for(f"Starting operation: {operation}")
    running.signal(signal.SIGKILL)
    assert running.wait().returncode == -signal.SIGKILL

    finish(deployer, host)
    assert digests(host) == complete
    if operation == START:
        # Files, owners and health were compared with those of a deploy after which nothing is left to do.
        assert_nothing_left_to_do(deployer, host)


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param("[ -s /srv/redis/.incoming/image.tar ]", id="pushed"),
        pytest.param("pgrep -f '[d]ocker load' >/dev/null", id="loaded"),
    ],
)
def test_a_deploy_killed_while_the_image_is_on_its_way_leaves_no_part_of_it(
    condition: str, host: Host, deployer: Deployer
) -> None:
    remove_instance(host)
    running = deployer.start(host)
    host.run(until(condition), check=True)
    running.signal(signal.SIGKILL)
    assert running.wait().returncode == -signal.SIGKILL
    assert not host.run(f"docker image inspect {images.redis_reference()}").stdout.startswith("[{"), "killed too late"

    finish(deployer, host)
    assert_nothing_left_to_do(deployer, host)


def test_a_change_killed_at_every_operation_in_turn_is_finished_and_keeps_the_data(
    deployed: Host, deployer: Deployer
) -> None:
    """Each deploy gets one operation further than the one before. Until Redis is replaced, it runs on undisturbed."""
    instance = Instance(deployed, deployer.secrets(deployed))
    with data_kept(instance):
        identity = instance.identity
        for operation in OPERATIONS:
            # Killed when Redis was about to be replaced, it is replaced by the deploy after that.
            if OPERATIONS.index(operation) <= OPERATIONS.index(START) + 1:
                assert instance.identity == identity, f"restarted before {operation}"
            running = deployer.start(deployed, **OTHERWISE)
            running.wait_for(f"Starting operation: {operation}")
            running.signal(signal.SIGKILL)
            assert running.wait().returncode == -signal.SIGKILL

        changed = finish(deployer, deployed, **OTHERWISE)
        assert changed.config("maxmemory") == str(300 * 1024**2)
        assert_nothing_left_to_do(deployer, deployed, **OTHERWISE)
    finish(deployer, deployed)


@pytest.fixture
def cut_off() -> Callable[[Host], None]:
    """Ends the SSH session in which Compose is being run, as a lost connection does, and nothing else."""

    def cut(host: Host) -> None:
        host.run(until(f"pgrep -f '{COMPOSE_UP}' >/dev/null"), check=True)
        host.run(
            f"process=$(pgrep -o -f '{COMPOSE_UP}'); until grep -q ^sshd /proc/$process/comm; do "
            "process=$(awk '/^PPid/ { print $2 }' /proc/$process/status); done; kill -9 $process",
            check=True,
        )

    return cut


def test_a_lost_connection_ends_the_deploy_in_words_and_redis_comes_up_all_the_same(
    deployed: Host, deployer: Deployer, cut_off: Callable[[Host], None]
) -> None:
    instance = Instance(deployed, deployer.secrets(deployed))
    identity = instance.identity
    with data_kept(instance):
        running = deployer.start(deployed, redis_tcp_backlog=301)
        cut_off(deployed)
        result = running.wait()
        assert result.returncode == 1
        assert "the connection to the host is lost; its last command may still run there" in result.stderr
        assert "is up" not in result.stderr

        def came_up() -> bool:
            inspected = instance.inspect()
            return bool(inspected) and instance.identity != identity and instance.health == "healthy"

        wait_until(came_up, "Redis is up without another deploy", 30)
        assert finish(deployer, deployed, redis_tcp_backlog=301).config("tcp-backlog") == "301"
        assert_nothing_left_to_do(deployer, deployed, redis_tcp_backlog=301)


def test_of_two_deploys_at_once_the_second_is_told_who_is_at_it_and_changes_nothing(
    deployed: Host, deployer: Deployer
) -> None:
    instance = Instance(deployed, deployer.secrets(deployed))
    with data_kept(instance):
        # The first does not come to its end before the others were there.
        deployed.run("systemd-run --quiet --unit=lifecycle-holds flock /srv/redis sleep 60", check=True)
        try:
            first = deployer.start(deployed, redis_tcp_backlog=302)
            first.wait_for("Starting operation: Service | Start Redis")
            # A plan waits for nobody.
            planned = deployer.deploy(deployed, arguments=("--dry",), redis_tcp_backlog=304)
            second = deployer.deploy(deployed, redis_tcp_backlog=304)
            verb = deployer.deploy(deployed, job="day2/stop.py")
            (under_way,) = redisctl(instance, "history --last 1")["deploys"]
            assert first.process.poll() is None
        finally:
            deployed.run("systemctl stop lifecycle-holds", check=True)
        assert first.wait().returncode == 0, first.stderr
        assert planned.returncode == 0, planned.stderr
        for refused in (second, verb):
            assert (refused.returncode, refused.operations) == (1, [])
            assert "Nothing was changed on any host" in refused.stderr
            told = re.search(r": (\S+) is changing redis \(deploy\) since (20\S+\+00:00): wait", refused.stderr)
            assert told, refused.stderr
            assert told[1] == deploy_lock.operator()
            assert abs(datetime.now(UTC) - datetime.fromisoformat(told[2])) < timedelta(minutes=2)
        assert (under_way["result"], under_way["who"]) == ("running", deploy_lock.operator())
        assert instance.config("tcp-backlog") == "302"
        assert_nothing_left_to_do(deployer, deployed, redis_tcp_backlog=302)


@pytest.mark.parametrize("end", ["not heard of for a while", "killed as the refusal says"])
def test_a_deploy_that_hangs_does_not_hold_the_lock_for_ever(end: str, deployed: Host, deployer: Deployer) -> None:
    """As one whose network is gone: the host is not told that it is."""
    stopped = deployer.start(deployed, redis_tcp_backlog=305)
    stopped.wait_for("Starting operation: ")
    stopped.signal(signal.SIGSTOP)
    try:
        refused = deployer.deploy(deployed).stderr
        told = re.search(r"is changing redis .* release it with 'kill (\d+)' on the host", refused)
        assert told, refused
        seconds = deploy_lock.LOCK_TIMEOUT + 15
        if end.startswith("killed"):
            deployed.run(f"kill {told[1]}", check=True)
            seconds = 2
        free = "flock --nonblock /run/redoubt-redis.lock true"
        wait_until(lambda: deployed.run(free).returncode == 0, "the lock is let go of", seconds)
        assert deployer.deploy(deployed, redis_tcp_backlog=306).returncode == 0
    finally:
        stopped.signal(signal.SIGKILL)
        stopped.wait()
    finish(deployer, deployed, redis_tcp_backlog=306)
    assert_nothing_left_to_do(deployer, deployed, redis_tcp_backlog=306)


def test_every_deploy_is_in_the_history_however_it_ended(undeployed_host: Host, deployer: Deployer) -> None:
    """Also one that was killed, with what it had done; and none of it twice."""
    undeployed_host.run("rm -rf /var/log/redoubt")
    killed = deployer.start(undeployed_host)
    # What it had done by then, it had told; not what it had just done.
    killed.wait_for("Starting operation: Access | Write the ACL file")
    killed.signal(signal.SIGKILL)
    killed.wait()
    assert deployer.deploy(undeployed_host).returncode == 0
    redis = Instance(undeployed_host, deployer.secrets(undeployed_host))
    assert deployer.deploy(undeployed_host).returncode == 0
    undeployed_host.run("rm /srv/redis/compose.yml && mkdir /srv/redis/compose.yml", check=True)
    assert deployer.deploy(undeployed_host).returncode == 1
    undeployed_host.run("rmdir /srv/redis/compose.yml", check=True)
    assert deployer.deploy(undeployed_host, job="day2/rotate.py").returncode == 0
    assert deployer.deploy(undeployed_host, arguments=("--dry",)).returncode == 0

    deploys = redisctl(redis, "history")["deploys"]
    assert [(one["verb"], one["result"]) for one in reversed(deploys)] == [
        ("deploy", "interrupted"),
        ("deploy", "changed"),
        ("deploy", "no change"),
        ("deploy", "failed"),
        ("rotate", "changed"),
    ]
    rotated, failed, unchanged, changed, broken_off = deploys
    first = [one for one in OPERATIONS if one not in (USERS, CHANGE)]
    assert broken_off["changed"][:1] == [OPERATIONS[0]]
    assert broken_off["changed"] == first[: len(broken_off["changed"])]
    assert changed["changed"] == first[-len(changed["changed"]) :]
    assert failed["failed"].startswith("Service | "), failed
    assert "Rotate | Set the users of the running Redis" in rotated["changed"]
    assert {one["who"] for one in deploys} == {deploy_lock.operator()}
    digest = load({**undeployed_host.deploy_data(), "redis_secrets_dir": str(deployer.secrets_dir)}).digest
    assert {one["settings"] for one in deploys} == {digest}
    assert unchanged["started"] <= unchanged["ended"]
    shown = undeployed_host.run("redisctl history --last 2", check=True).stdout
    assert (shown.count("rotate "), shown.count("deploy "), shown.count("interrupted")) == (1, 1, 0), shown
    told = undeployed_host.run("cat /var/log/redoubt/redis.jsonl; redisctl history", check=True).stdout
    assert not any(secret in told for secret in (*redis.secrets.passwords.values(), *redis.secrets.commands.values()))
    assert (
        undeployed_host.run("stat -c '%a %U' /var/log/redoubt /var/log/redoubt/redis.jsonl").stdout
        == "700 root\n600 root\n"
    )


def test_the_history_is_kept_short(deployed: Host, deployer: Deployer) -> None:
    line = deploy_lock.Record("deploy", "", "", "somebody", "2026-01-01T00:00:00+00:00", ended="x").line()
    deployed.run("cat >/root/line", input=line + "\n", check=True)
    deployed.run(
        f'yes "$(cat /root/line)" | head -n {deploy_lock.MAX_RECORDS * 4} >/var/log/redoubt/redis.jsonl', check=True
    )
    assert deployer.deploy(deployed).returncode == 0
    kept = deployed.run("cat /var/log/redoubt/redis.jsonl; rm /root/line", check=True).stdout.splitlines()
    assert len(kept) == deploy_lock.MAX_RECORDS * 2
    assert '"ended": "20' in kept[-1]


# The old Redis has ended, the new one has not started: the engine starts neither by itself.
NONE_RUNS = "! pgrep -x redis-server >/dev/null"
PENDING = "ls /srv/redis/start /etc/systemd/system/redis-start.service /etc/systemd/system/*/redis-start.service"


def between(deployer: Deployer, host: Host, **settings: Any) -> BackgroundDeploy:
    """Start a deploy, and return when it is between the old Redis and the new one."""
    running = deployer.start(host, **settings)
    running.wait_for("Starting operation: Service | Start Redis")
    host.run(until(NONE_RUNS), check=True)
    return running


def test_a_host_that_loses_power_while_redis_is_replaced_has_the_new_one_without_another_deploy(
    deployed: Host, deployer: Deployer
) -> None:
    instance = Instance(deployed, deployer.secrets(deployed))
    with data_kept(instance):
        running = between(deployer, deployed, redis_tcp_backlog=303)
        deployed.kill()
        assert running.wait().returncode == 1
        deployed.start()
        wait_until(lambda: instance.health == "healthy", "Redis is back by itself", 60)
        assert instance.config("tcp-backlog") == "303"
        wait_until(lambda: not deployed.run(PENDING).stdout, "the start has ended", 30)
        finish(deployer, deployed, redis_tcp_backlog=303)
        assert_nothing_left_to_do(deployer, deployed, redis_tcp_backlog=303)


@pytest.mark.parametrize(
    "end",
    [
        pytest.param("systemctl restart docker", id="restarts"),
        pytest.param("systemctl kill --signal=KILL docker", id="is-killed"),
    ],
)
def test_a_deploy_goes_on_with_an_engine_that_ends_while_redis_is_replaced(
    end: str, deployed: Host, deployer: Deployer
) -> None:
    instance = Instance(deployed, deployer.secrets(deployed))
    with data_kept(instance):
        running = between(deployer, deployed, redis_tcp_backlog=304)
        deployed.run(end, check=True)
        result = running.wait()
        assert result.returncode == 0, result.stderr
        assert deployed.run(PENDING).stdout == ""
        assert finish(deployer, deployed, redis_tcp_backlog=304).config("tcp-backlog") == "304"
        assert_nothing_left_to_do(deployer, deployed, redis_tcp_backlog=304)


def test_a_start_that_was_killed_on_the_host_is_finished_by_the_next_and_not_at_every_boot(
    deployed: Host, deployer: Deployer
) -> None:
    instance = Instance(deployed, deployer.secrets(deployed))
    with data_kept(instance):
        running = between(deployer, deployed, redis_tcp_backlog=305)
        deployed.run("pkill -KILL -f '^sh /srv/redis/start'; pkill -KILL -x docker-compose", check=True)
        assert running.wait().returncode == 1
        assert len(deployed.run(PENDING).stdout.split()) == 3
        # What is stopped stays stopped at a boot.
        enabled = "systemctl is-enabled redis-start.service"
        assert deployed.run(enabled).stdout == "enabled\n"
        assert deployer.deploy(deployed, job="day2/stop.py").returncode == 0
        assert deployed.run(enabled).stdout == "static\n"
        result = deployer.deploy(deployed, redis_tcp_backlog=305)
        assert "start of redis was interrupted" in result.stderr, result.stderr
        assert deployed.run(PENDING).stdout == ""
        assert finish(deployer, deployed, redis_tcp_backlog=305).config("tcp-backlog") == "305"
        assert_nothing_left_to_do(deployer, deployed, redis_tcp_backlog=305)
