"""Fixtures of the lifecycle tests: the host that most of them share.

Tests get it with an instance or without one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sandbox import engine, image_build
from sandbox.hosts import Host
from sandbox.util import lock
from tests.deployed_redis import Instance
from tests.deployer import Deployer, DeployResult
from tests.lifecycle.interruption import forget_steps, wait_until_unlocked

# A shell command that leaves the default instance, if there is one, with empty data: a deploy refuses missing data.
DISCARD_DATA = "docker rm -f redis; rm -rf /srv/redis/data/*; [ ! -d /srv/redis/data ] || mkdir /srv/redis/data/live"

# The modules that take longest begin first, so that no worker ends minutes after the others.
LONGEST = (
    "test_upgrade_rollback.py",
    "test_idempotence.py",
    "test_interrupted_deploy.py",
    "test_valkey.py",
    "test_restore_interrupted.py",
    "test_repair.py",
    "test_live_changes.py",
    "test_rotation.py",
    "test_drift.py",
    "test_upgrade_paths.py",
    "test_removal.py",
    "test_network.py",
    "test_secrets_exposure.py",
    "test_backup.py",
    "test_restore.py",
    "test_instances.py",
    "test_image_sources.py",
    "test_unclean_stop.py",
    "test_persistence.py",
    "test_audit.py",
    "test_versions.py",
    "test_network_watch.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort modules for ``--dist loadfile --no-loadscope-reorder``."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="module")
def host(start_host: Callable[..., Host]) -> Host:
    """Start the host that most lifecycle tests share.

    A test either deploys first or expects the default settings.
    """
    return start_host("lifecycle-1")


@pytest.fixture(autouse=True)
def _end_interrupted_work(deployer: Deployer) -> Iterator[None]:
    """End what a failed test has left.

    These are its deploys, also halted ones, and the steps that it has planned.
    """
    yield
    targets = deployer.kill_running()
    # A paused redisctl holds the lock.
    forget_steps()
    for target in targets:
        wait_until_unlocked(target)


@pytest.fixture
def deployed(host: Host, deployer: Deployer) -> Host:
    """Give the shared host, deployed with default settings."""
    result = deployer.deploy(host)
    assert result.returncode == 0, result.stderr
    return host


@pytest.fixture
def redis(deployed: Host, deployer: Deployer) -> Instance:
    """Give the instance of the shared host, with a session.

    Modules with other needs have a fixture of this name of their own.
    """
    instance = Instance(deployed, deployer.secrets(deployed))
    assert instance.call("SET app:session:kept 1 EX 7200", user="sessions") == ["OK"]
    return instance


@pytest.fixture(scope="module")
def without_traces(host: Host) -> None:
    """Remove the instance that other modules have used.

    Health would report what they did to it.
    """
    remove_instance(host)


@pytest.fixture
def undeployed_host(host: Host) -> Host:
    """Return the shared host without an instance. Images of earlier deploys remain."""
    remove_instance(host)
    return host


def assert_no_change(deployer: Deployer, host: Host, **settings: Any) -> DeployResult:
    """Deploy again, and fail unless the deploy reports no change. Returns its result.

    ``test_idempotence.py`` proves this for every kind of instance. Elsewhere it proves that something that only that
    test does, such as an interruption, has left nothing to do.
    """
    result = deployer.deploy(host, **settings)
    assert (result.returncode, result.changed) == (0, []), result.stderr
    return result


def settings_for(build: str) -> dict[str, Any]:
    """Return settings that deploy a build of the sandbox, such as ``valkey-testing``.

    Builds the image if it does not exist.
    """
    with lock():
        archive = image_build.ensure_redis(engine.ensure(), build)
    return {
        "redis_engine": build.partition("-")[0],
        "redis_image": archive.reference,
        "redis_image_archive": str(archive.path),
    }


@contextmanager
def empty_instance(host: Host, deployer: Deployer, *leftovers: str, **settings: Any) -> Iterator[Instance]:
    """Deploy the default instance without data or backups.

    Removes data, backups and logs afterwards as well. ``leftovers`` are other paths that a module leaves: they are
    removed before and afterwards.
    """
    clear = f"{DISCARD_DATA}; rm -rf /srv/redis/backups /srv/redis/logs/* {' '.join(leftovers)}"
    host.run(clear)
    try:
        yield deployer.instance(host, **settings)
    finally:
        host.run(clear)


def remove_instance(host: Host, *, image: bool = False) -> None:
    """Remove everything that a deploy of the default instance created, with its data.

    Also removes all containers, the units and tables of other instances, and what tests put below /srv/redis. Does not
    use the product. Removes the images only if ``image`` is true, for a test of their transfer.
    """
    units = "/etc/systemd/system"
    host.run(
        "docker ps --all --quiet | xargs -r docker rm --force --volumes; docker network prune --force; "
        f"for name in redis $(ls {units} | sed -n 's/-recover[.]path$//p'); do {remove_units('$name')}; done; "
        f"(cd {units} && ls srv-redis*.mount 2>/dev/null | xargs -r systemctl disable --now; rm -f srv-redis*.mount); "
        "nft list tables 2>/dev/null | awk '$3 ~ /^redoubt_/ { print $2, $3 }' | xargs -rL1 nft delete table; "
        # The last mount first.
        "awk '$2 ~ \"^/srv/redis(/|$)\" { print $2 }' /proc/self/mounts | tac | xargs -r umount --lazy; "
        "rm -rf /srv/redis /etc/logrotate.d/redis /usr/local/sbin/redisctl /var/log/redoubt; "
        "rm -rf /run/redoubt-srv-redis.modules /run/redoubt-redis.lock /run/redoubt-test.*; "
        + ("docker image prune --all --force && " if image else "")
        + "! { ls -d /srv/redis || docker ps --all --quiet | grep . || nft list tables | grep redoubt_; }",
        check=True,
    )


def remove_units(name: str = "redis") -> str:
    """Return a shell command that removes an instance's systemd units."""
    watch = f"{name}-network-watch"
    network = f"{watch}.timer {watch}.path {watch}.service {name}-network.service"
    enabled = f"{name}-backup.timer {name}-logs.timer {name}-recover.path {name}-recover-files.service {network}"
    files = (
        f"/etc/systemd/system/{name}-backup.* /etc/systemd/system/{name}-recover* /etc/systemd/system/{name}-network* "
        f"/etc/systemd/system/{name}-logs.* /etc/systemd/system/{name}-loaded.service"
    )
    table = f"nft delete table inet redoubt_{name} 2>/dev/null"
    return f"systemctl disable --now {enabled} 2>/dev/null; rm -f {files}; systemctl daemon-reload; {table}; true"


@pytest.fixture(scope="session")
def fingerprint() -> Callable[[Host], list[str]]:
    """Give a function whose result changes if anything on a host changes."""
    return _fingerprint


def _fingerprint(host: Host) -> list[str]:
    """Return all files of a host except logs and data, and all objects of Docker.

    Each file has its attributes, and times in nanoseconds.
    """
    noisy = (
        *("/proc", "/sys", "/run", "/dev", "/var/log", "/srv/redis/data", "/srv/redis/logs"),
        # The timers write their state here.
        *("/var/lib/systemd", "/var/lib/logrotate"),
    )
    excluded = " -o ".join(f"-path {path}" for path in noisy)
    lines = host.run(
        f"find / -xdev \\( {excluded} \\) -prune -o -printf '%p %y %#m %U:%G %s %T@ %C@ %l\\n' | sort; "
        "docker images --all --no-trunc --format '{{.ID}} {{.Repository}}:{{.Tag}}'; "
        "docker network ls --no-trunc --format '{{.ID}} {{.Name}}'; docker volume ls; "
        "docker ps --all --quiet | xargs -r docker inspect --format "
        "'{{.Id}} {{.Name}} {{.State.Status}} {{.State.StartedAt}} {{json .HostConfig}}'",
        check=True,
    ).stdout.splitlines()
    # Every health check creates and removes a file in /tmp. Every rotation of logs writes its state below /var/lib.
    return [line for line in lines if not line.startswith(("/tmp d ", "/var/lib d "))]
