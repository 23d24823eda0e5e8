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

# A shell command that leaves the default instance, if there is one, with empty data: a deploy refuses missing data.
DISCARD_DATA = "docker rm -f redis; rm -rf /srv/redis/data/*; [ ! -d /srv/redis/data ] || mkdir /srv/redis/data/live"


@pytest.fixture(scope="session")
def host(start_host: Callable[..., Host]) -> Host:
    """Start the host that most lifecycle tests share.

    A test either deploys first or expects the default settings.
    """
    return start_host("lifecycle-1")


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


@pytest.fixture
def undeployed_host(host: Host) -> Host:
    """Return the shared host as before its first deploy: Docker, but no instance."""
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

    Removes data and backups afterwards as well. ``leftovers`` are other paths that a module leaves: they are removed
    before and afterwards.
    """
    clear = f"{DISCARD_DATA}; rm -rf /srv/redis/backups {' '.join(leftovers)}"
    host.run(clear)
    yield deployer.instance(host, **settings)
    host.run(clear)


def remove_instance(host: Host, *, image: bool = True) -> None:
    """Remove everything that a deploy of the default instance created, with its data.

    Does not use the product. Keeps the images if ``image`` is false.
    """
    host.run(
        "docker ps --all --quiet | xargs -r docker rm --force --volumes; docker network prune --force; "
        "rm -rf /srv/redis /etc/logrotate.d/redis /usr/local/sbin/redisctl /var/log/redoubt; "
        f"rm -rf /run/redoubt-srv-redis.modules; {remove_units()}"
        + ("; docker image prune --all --force" if image else ""),
        check=True,
    )


def remove_units(name: str = "redis") -> str:
    """Return a shell command that removes an instance's systemd units."""
    enabled = f"{name}-backup.timer {name}-recover.path {name}-recover-files.service"
    files = f"/etc/systemd/system/{name}-backup.* /etc/systemd/system/{name}-recover*"
    return f"systemctl disable --now {enabled} 2>/dev/null; rm -f {files}; systemctl daemon-reload"


@pytest.fixture(scope="session")
def fingerprint() -> Callable[[Host], list[str]]:
    """Give a function whose result changes if anything on a host changes."""
    return _fingerprint


def _fingerprint(host: Host) -> list[str]:
    """Return all files of a host except logs and data, and all objects of Docker.

    Each file has its attributes, and times in nanoseconds.
    """
    noisy = ("/proc", "/sys", "/run", "/dev", "/var/log", "/var/lib/systemd", "/srv/redis/data", "/srv/redis/logs")
    excluded = " -o ".join(f"-path {path}" for path in noisy)
    lines = host.run(
        f"find / -xdev \\( {excluded} \\) -prune -o -printf '%p %y %#m %U:%G %s %T@ %C@ %l\\n' | sort; "
        "docker images --all --no-trunc --format '{{.ID}} {{.Repository}}:{{.Tag}}'; "
        "docker network ls --no-trunc --format '{{.ID}} {{.Name}}'; docker volume ls; "
        "docker ps --all --quiet | xargs -r docker inspect --format "
        "'{{.Id}} {{.Name}} {{.State.Status}} {{.State.StartedAt}} {{json .HostConfig}}'",
        check=True,
    ).stdout.splitlines()
    # Every health check creates and removes a file in /tmp.
    return [line for line in lines if not line.startswith("/tmp d ")]
