"""A host without a container engine gets one, and the engine brings Redis back by itself.

The host is what a fresh Debian 13 server is: no engine, no Compose, no apt lists, and an apt of its own at work.
The tests build on each other in the order of this file: the engine is installed once.
"""

from collections.abc import Callable

import pytest

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer
from tests.lifecycle.deployed_redis import Instance, wait_until

# Holds apt's locks for some seconds, as unattended upgrades do after a first boot.
OTHER_APT = """\
import fcntl, time
names = ["lists/lock", "../dpkg/lock-frontend", "../dpkg/lock"]
files = [open("/var/lib/apt/" + name, "a") for name in names]
for file in files:
    fcntl.lockf(file, fcntl.LOCK_EX)
open("/run/other-apt", "w")
time.sleep(6)
"""


@pytest.fixture(scope="module")
def bare(start_host: Callable[..., Host]) -> Host:
    """A host that had no engine before this file's first test."""
    return start_host("lifecycle-bare", image="bare")


@pytest.fixture
def redis(bare: Host, deployer: Deployer) -> Instance:
    """Redis on the host; the engine is there after the first test, or whenever a test is run alone."""
    result = deployer.deploy(bare)
    assert result.returncode == 0, result.stderr
    return Instance(bare, deployer.secrets(bare))


def assert_no_change(deployer: Deployer, host: Host) -> None:
    again = deployer.deploy(host)
    assert again.returncode == 0, again.stderr
    assert again.operations
    assert again.changed == []


def test_dockers_own_packages_are_planned_where_the_settings_ask_for_them(bare: Host, deployer: Deployer) -> None:
    planned = deployer.deploy(bare, arguments=("--dry",), redis_docker_source="docker")
    assert planned.returncode == 0, planned.stderr
    assert "missing: containerd.io, docker-ce, docker-ce-cli, docker-compose-plugin" in planned.stderr
    assert "/etc/apt/sources.list.d/docker.sources: missing" in planned.stderr
    assert bare.run("ls /etc/apt/sources.list.d").stdout == "", "a dry run changed the host"


def test_a_bare_host_gets_docker_and_compose_from_debian_and_a_healthy_redis(bare: Host, deployer: Deployer) -> None:
    assert bare.run("command -v docker").returncode != 0, "the host is not bare"
    # Else the lists that somebody else fetched would do.
    assert bare.run("ls /var/lib/apt/lists/*Packages*").returncode != 0, "the host has apt lists already"
    bare.run("cat >/run/other-apt.py; systemd-run --quiet python3 /run/other-apt.py", input=OTHER_APT, check=True)
    wait_until(lambda: bare.run("test -e /run/other-apt").returncode == 0, "another apt is at work", 5)

    result = deployer.deploy(bare)

    assert result.returncode == 0, result.stderr
    assert Instance(bare, deployer.secrets(bare)).health == "healthy"
    origins = bare.run("apt-cache policy docker.io docker-compose", check=True).stdout
    assert "Installed: (none)" not in origins
    assert "download.docker.com" not in origins
    assert bare.run("systemctl is-enabled docker").stdout.strip() == "enabled"
    assert_no_change(deployer, bare)


def test_after_a_reboot_redis_is_back_by_itself_with_its_data(redis: Instance, deployer: Deployer) -> None:
    redis.call("SET app:session:reboot kept EX 3600", user="sessions")
    redis.call("SADD rq:queues rq:queue:reboot", user="queues")
    before = redis.host.run("cat /proc/sys/kernel/random/boot_id; stat -c %Z /run/systemd").stdout

    redis.host.restart()

    assert redis.host.run("cat /proc/sys/kernel/random/boot_id; stat -c %Z /run/systemd").stdout != before
    wait_until(lambda: redis.health == "healthy", "Redis is healthy after a reboot", 30)
    assert redis.call("GET app:session:reboot", user="sessions") == ["kept"]
    assert redis.call("SMEMBERS rq:queues", user="queues") == ["rq:queue:reboot"]
    assert_no_change(deployer, redis.host)


def test_an_engine_that_is_stopped_is_started_and_redis_with_it(redis: Instance, deployer: Deployer) -> None:
    redis.call("SET app:session:stopped kept EX 3600", user="sessions")
    # The socket, too: it would start the engine for the first that asks.
    redis.host.run("systemctl stop docker.socket docker.service", check=True)

    result = deployer.deploy(redis.host)

    assert result.returncode == 0, result.stderr
    assert redis.health == "healthy"
    assert redis.call("GET app:session:stopped", user="sessions") == ["kept"]
    assert_no_change(deployer, redis.host)


def test_an_engine_that_would_not_start_at_boot_is_enabled_and_redis_left_alone(
    redis: Instance, deployer: Deployer
) -> None:
    before = redis.identity
    redis.host.run("systemctl disable docker.service", check=True)

    result = deployer.deploy(redis.host)

    assert result.changed == ["Docker | Start Docker, now and at boot"], result.stderr
    assert redis.host.run("systemctl is-enabled docker").stdout.strip() == "enabled"
    assert redis.identity == before
    assert_no_change(deployer, redis.host)


def test_what_was_removed_of_the_packages_is_installed_again_and_redis_left_alone(
    redis: Instance, deployer: Deployer
) -> None:
    before = redis.identity
    redis.host.run("dpkg --remove --force-depends docker-compose logrotate && rm -r /var/lib/apt/lists/*", check=True)

    result = deployer.deploy(redis.host)

    assert result.changed == ["Docker | Install Docker and Compose v2", "Logs | Install logrotate"], result.stderr
    assert redis.identity == before
    assert_no_change(deployer, redis.host)
