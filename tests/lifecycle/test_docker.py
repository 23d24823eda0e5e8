"""A host without Docker gets it, and Docker starts Redis at every boot.

The host is like a fresh Debian 13 server: no Docker, no Compose, no apt lists, and an apt that runs in the background.
The tests depend on their order in this file, because Docker is installed only once.
"""

from collections.abc import Callable

import pytest

from sandbox.hosts import Host
from tests.deployed_redis import Instance, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import assert_no_change

# Holds apt's locks for some seconds, like unattended upgrades after the first boot.
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
    """A host without Docker before the first test of this file."""
    return start_host("lifecycle-bare", image="bare")


@pytest.fixture
def redis(bare: Host, deployer: Deployer) -> Instance:
    """Redis on that host. The deploy installs Docker if the test runs alone."""
    return deployer.instance(bare)


def test_dockers_own_packages_are_in_the_plan(bare: Host, deployer: Deployer) -> None:
    planned = deployer.deploy(bare, arguments=("--dry",), redis_docker_source="docker")
    assert planned.returncode == 0, planned.stderr
    assert "missing: apparmor, containerd.io, docker-ce, docker-ce-cli, docker-compose-plugin" in planned.stderr
    assert "/etc/apt/sources.list.d/docker.sources: missing" in planned.stderr
    assert bare.run("ls /etc/apt/sources.list.d").stdout == "", "a dry run changed the host"


def test_a_bare_host_gets_docker_compose_and_redis(bare: Host, deployer: Deployer) -> None:
    """From Debian's packages, and the second deploy changes nothing."""
    assert bare.run("command -v docker").returncode != 0, "the host is not bare"
    # With older lists the deploy would not have to fetch its own.
    assert bare.run("ls /var/lib/apt/lists/*Packages*").returncode != 0, "the host has apt lists already"
    bare.run("cat >/run/other-apt.py; systemd-run --quiet python3 /run/other-apt.py", input=OTHER_APT, check=True)
    wait_until(lambda: bare.run("test -e /run/other-apt").returncode == 0, "another apt runs", 30)

    result = deployer.deploy(bare)

    assert result.returncode == 0, result.stderr
    assert Instance(bare, deployer.secrets(bare)).health == "healthy"
    origins = bare.run("apt-cache policy docker.io docker-compose", check=True).stdout
    assert "Installed: (none)" not in origins
    assert "download.docker.com" not in origins
    assert bare.run("systemctl is-enabled docker").stdout.strip() == "enabled"
    # Only here does a deploy install Docker.
    assert_no_change(deployer, bare)


def test_redis_and_its_data_are_back_after_a_reboot(redis: Instance, deployer: Deployer) -> None:
    redis.call("SET app:session:reboot kept EX 3600", user="sessions")
    redis.call("SADD rq:queues rq:queue:reboot", user="queues")
    before = redis.host.run("cat /proc/sys/kernel/random/boot_id; stat -c %Z /run/systemd").stdout

    redis.host.restart()

    assert redis.host.run("cat /proc/sys/kernel/random/boot_id; stat -c %Z /run/systemd").stdout != before
    redis.wait_until_healthy()
    assert redis.call("GET app:session:reboot", user="sessions") == ["kept"]
    assert redis.call("SMEMBERS rq:queues", user="queues") == ["rq:queue:reboot"]
    # A boot starts what a deploy wrote and has left nothing to repair.
    assert_no_change(deployer, redis.host)


def test_a_deploy_starts_a_stopped_docker_and_redis(redis: Instance, deployer: Deployer) -> None:
    redis.call("SET app:session:stopped kept EX 3600", user="sessions")
    # The socket as well: it would start Docker at the first connection.
    redis.host.run("systemctl stop docker.socket docker.service", check=True)

    result = deployer.deploy(redis.host)

    assert result.returncode == 0, result.stderr
    assert redis.health == "healthy"
    assert redis.call("GET app:session:stopped", user="sessions") == ["kept"]


def test_a_deploy_enables_docker_and_leaves_redis_alone(redis: Instance, deployer: Deployer) -> None:
    before = redis.identity
    redis.host.run("systemctl disable docker.service", check=True)

    result = deployer.deploy(redis.host)

    assert result.changed == ["Docker | Start Docker, now and at boot"], result.stderr
    assert redis.host.run("systemctl is-enabled docker").stdout.strip() == "enabled"
    assert redis.identity == before


def test_a_deploy_installs_removed_packages_again(redis: Instance, deployer: Deployer) -> None:
    """Redis is not restarted."""
    before = redis.identity
    packages = "docker-compose logrotate nftables"
    redis.host.run(f"dpkg --remove --force-depends {packages} && rm -r /var/lib/apt/lists/*", check=True)

    result = deployer.deploy(redis.host)

    assert result.changed == [
        "Docker | Install Docker and Compose v2",
        "Logs | Install logrotate",
        "Network | Install nftables",
    ], result.stderr
    assert redis.identity == before
