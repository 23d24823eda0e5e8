"""A deploy that is cut off anywhere leaves nothing that the next one does not finish, and no data is lost.

The control machine's end is killed without a chance to clean up; the connection is cut on the host; the host loses
its power. What then runs again is the same command.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sandbox import images
from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer, remove_instance
from tests.lifecycle.instance import Instance, wait_until
from tests.lifecycle.layout import TREE, digests, looks

# All operations of a deploy to a host that has an engine, in order.
OPERATIONS = (
    "Directories | Make the directories",
    "Image | Load the image from its archive",
    "Access | Write the ACL file",
    "Access | Give the running Redis its users",
    "Secrets | Write the secrets",
    "Config | Write redis.conf and the health check",
    "Config | Find out whether the image can defragment",
    "Logs | Rotate the log file",
    "Service | Write the Compose project",
    "Service | Start Redis and wait until it is healthy",
    "redisctl | Write redisctl",
)
USERS, START = OPERATIONS[3], OPERATIONS[-2]

# Settings that change what most operations write.
OTHERWISE: dict[str, Any] = {
    "redis_maxmemory": "300mb",
    "redis_app": "shop",
    "redis_renamed_commands": ["CONFIG", "SHUTDOWN", "BGREWRITEAOF"],
    "redis_logfile_keep": 7,
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
    assert result.changed == [operation for operation in OPERATIONS if operation != USERS]
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
    """Each deploy gets one operation further than the one before. Until the last, Redis runs on undisturbed."""
    instance = Instance(deployed, deployer.secrets(deployed))
    with data_kept(instance):
        identity = instance.identity
        for operation in OPERATIONS:
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
        running = deployer.start(deployed, redis_maxmemory="301mb")
        cut_off(deployed)
        result = running.wait()
        assert result.returncode == 1
        assert "the connection to the host is lost; what it was doing may go on there" in result.stderr
        assert "is up" not in result.stderr

        def came_up() -> bool:
            inspected = instance.inspect()
            return bool(inspected) and instance.identity != identity and instance.health == "healthy"

        wait_until(came_up, "Redis is up without another deploy", 30)
        assert finish(deployer, deployed, redis_maxmemory="301mb").config("maxmemory") == str(301 * 1024**2)
        assert_nothing_left_to_do(deployer, deployed, redis_maxmemory="301mb")


def test_two_deploys_at_once_leave_one_healthy_redis(deployed: Host, deployer: Deployer) -> None:
    """Two Composes at once took each other's container away."""
    instance = Instance(deployed, deployer.secrets(deployed))
    with data_kept(instance):
        both = [deployer.start(deployed, redis_maxmemory="302mb") for _ in range(2)]
        for result in [running.wait() for running in both]:
            assert result.returncode == 0, result.stderr
        assert instance.health == "healthy"
        assert deployed.run("docker ps --all --format '{{.Names}}'").stdout.split() == ["redis"]
        assert_nothing_left_to_do(deployer, deployed, redis_maxmemory="302mb")


def test_a_host_that_loses_power_in_a_deploy_is_finished_by_the_next(deployed: Host, deployer: Deployer) -> None:
    """While the container is replaced: the old one is gone, the new one is not there yet."""
    instance = Instance(deployed, deployer.secrets(deployed))
    with data_kept(instance):
        running = deployer.start(deployed, redis_maxmemory="303mb")
        deployed.run(until(f"pgrep -f '{COMPOSE_UP}' >/dev/null"), check=True)
        deployed.kill()
        assert running.wait().returncode == 1
        deployed.start()
        assert finish(deployer, deployed, redis_maxmemory="303mb").config("maxmemory") == str(303 * 1024**2)
        assert_nothing_left_to_do(deployer, deployed, redis_maxmemory="303mb")
