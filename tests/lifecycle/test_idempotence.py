"""A deploy without changes changes nothing: for every kind of instance, and after every day-2 verb."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox import images
from sandbox.hosts import Host
from tests.deployed_redis import Instance, redisctl, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import remove_instance
from tests.lifecycle.test_instances import QUEUE, remove_second_instance
from tests.lifecycle.test_live_changes import LIVE
from tests.lifecycle.test_persistence import RENAMED
from tests.lifecycle.test_valkey import settings_for

Fingerprint = Callable[[Host], list[str]]

# Seconds depend on the machine and on the way to the host, SSH commands do not. 5 were measured.
MAX_SSH_COMMANDS = 6

WEB = {"image": images.redis_reference(), "entrypoint": ["sleep", "600"], "stop_signal": "SIGKILL"}

# Kinds of instances, each with another part of what a deploy compares with the host.
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "TLS required": {"redis_tls": "required", "redis_tls_names": ["redis.example.com"]},
    "TLS and plain, firewall": {
        "redis_tls": "both",
        "redis_tls_names": ["redis.example.com"],
        "redis_bind": ["0.0.0.0"],
        "redis_allow_from": ["10.0.0.0/8", "172.16.0.0/12"],
    },
    "socket, no port": {"redis_unix_socket": True, "redis_unix_socket_gid": 4321, "redis_bind": []},
    "application service": {"redis_app_services": {"web": {**WEB, "secrets": ["sessions"]}}},
    "users, default user": {
        "redis_users": {"shop": {"role": "session", "keys": ["shop:*"]}, "exporter": {"role": "metrics"}},
        "redis_enable_default_user": True,
    },
    "copies of backups": {"redis_backup_restic_repository": "/srv/copies"},
    "no backups": {"redis_backup_schedule": ""},
    "no AOF": {"redis_appendonly": False, "redis_allow_data_loss": ["persistence"]},
    "no defragmentation": {"redis_activedefrag": "no"},
    "renamed commands": RENAMED,
    "other directives": {"redis_extra_config": {"io-threads": "2"}, "redis_databases": 4, "redis_maxclients": 500},
}


def assert_no_change(
    deployer: Deployer, host: Host, fingerprint: Fingerprint, name: str = "redis", **settings: Any
) -> None:
    """Deploy again. Fails if the deploy reports a change, or makes one without a report, or needs many commands."""
    before, container = fingerprint(host), _identity(host, name)
    result = deployer.deploy(host, **settings)
    assert (result.returncode, result.changed) == (0, []), result.stderr
    assert result.operations
    assert fingerprint(host) == before
    assert _identity(host, name) == container, "Redis was restarted"
    assert 0 < result.ssh_commands <= MAX_SSH_COMMANDS, result.stderr
    # A program that reads --json must not find text for people on standard output.
    assert set(json.loads(result.stdout)) == {"plan", "results"}


def _identity(host: Host, name: str) -> str:
    return host.run(f"docker inspect --format '{{{{.Id}}}} {{{{.State.StartedAt}}}}' {name}", check=True).stdout


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.core] if kind == "default" else []) for kind in KINDS]
)
def test_second_deploy_changes_nothing(kind: str, host: Host, deployer: Deployer, fingerprint: Fingerprint) -> None:
    """The host itself is the witness: an operation that reports no change may have made one."""
    first = deployer.deploy(host, **KINDS[kind])
    assert first.returncode == 0, first.stderr
    assert "redis is up. For applications:" in first.stderr
    assert_no_change(deployer, host, fingerprint, **KINDS[kind])


def test_second_deploy_of_two_instances_changes_nothing(
    deployed: Host, deployer: Deployer, fingerprint: Fingerprint
) -> None:
    try:
        second = deployer.deploy(deployed, **QUEUE)
        assert second.returncode == 0, second.stderr
        assert_no_change(deployer, deployed, fingerprint)
        assert_no_change(deployer, deployed, fingerprint, "queue", **QUEUE)
    finally:
        remove_second_instance(deployed)


@pytest.fixture
def empty_host(host: Host) -> Iterator[Host]:
    """The shared host without data, before and after: other servers do not read it."""
    remove_instance(host, image=False)
    yield host
    remove_instance(host, image=False)


def test_second_deploy_of_valkey_changes_nothing(
    empty_host: Host, deployer: Deployer, fingerprint: Fingerprint
) -> None:
    valkey = settings_for("valkey")
    first = deployer.deploy(empty_host, **valkey)
    assert first.returncode == 0, first.stderr
    assert_no_change(deployer, empty_host, fingerprint, **valkey)


def test_deploy_after_an_upgrade_changes_nothing(
    empty_host: Host, deployer: Deployer, fingerprint: Fingerprint
) -> None:
    old = {**settings_for("redis-oldstable"), "redis_allow_vulnerable_version": True}
    assert deployer.deploy(empty_host, **old).returncode == 0
    upgraded = deployer.deploy(empty_host)
    assert upgraded.returncode == 0, upgraded.stderr
    assert "Upgrade | Back the data up, and have the new version read it" in upgraded.changed
    assert_no_change(deployer, empty_host, fingerprint)


# -- After a day-2 verb


def _restore(redis: Instance, deployer: Deployer) -> None:
    redisctl(redis, "backup --no-verify")
    redisctl(redis, "restore latest --yes")


def _undo(redis: Instance, deployer: Deployer) -> None:
    _restore(redis, deployer)
    redisctl(redis, "restore --undo --yes")


def _discard_previous(redis: Instance, deployer: Deployer) -> None:
    _restore(redis, deployer)
    redisctl(redis, "restore --discard-previous --yes")


def _rotate(redis: Instance, deployer: Deployer) -> None:
    _run(redis, deployer, "rotate")


def _undo_rotation(redis: Instance, deployer: Deployer) -> None:
    _ensure_rotating(redis, deployer)
    _run(redis, deployer, "undo_rotation")


def _finish_rotation(redis: Instance, deployer: Deployer) -> None:
    _ensure_rotating(redis, deployer)
    _run(redis, deployer, "finish_rotation")


def _ensure_rotating(redis: Instance, deployer: Deployer) -> None:
    """A rotation that has begun is not begun again."""
    assert deployer.deploy(redis.host, job="day2/rotate.py").returncode == 0


def _stop_and_start(redis: Instance, deployer: Deployer) -> None:
    _run(redis, deployer, "stop")
    _run(redis, deployer, "start")


def _stop_and_deploy(redis: Instance, deployer: Deployer) -> None:
    _run(redis, deployer, "stop")
    result = deployer.deploy(redis.host)
    assert result.returncode == 0, result.stderr


def _crash(redis: Instance, deployer: Deployer) -> None:
    redis.crash()
    redis.host.run("docker start redis", check=True)
    _wait_until_healthy(redis)


def _run(redis: Instance, deployer: Deployer, verb: str) -> None:
    result = deployer.deploy(redis.host, job=f"day2/{verb}.py")
    assert result.returncode == 0, result.stderr
    assert result.changed


def _wait_until_healthy(redis: Instance) -> None:
    wait_until(lambda: redis.health == "healthy", "Redis is healthy", 60)


VERBS: dict[str, Callable[[Instance, Deployer], None]] = {
    "restore": _restore,
    "undo": _undo,
    "discard previous data": _discard_previous,
    "rotate": _rotate,
    "undo rotation": _undo_rotation,
    "finish rotation": _finish_rotation,
    "stop, start": _stop_and_start,
    "stop, deploy": _stop_and_deploy,
    "crash": _crash,
}


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """An instance with some data."""
    remove_instance(host, image=False)
    result = deployer.deploy(host)
    assert result.returncode == 0, result.stderr
    instance = Instance(host, deployer.secrets(host))
    instance.call("SET rq:key value", user="queues")
    yield instance
    remove_instance(host, image=False)


@pytest.mark.parametrize("verb", VERBS)
def test_deploy_after_a_verb_changes_nothing(
    verb: str, redis: Instance, deployer: Deployer, fingerprint: Fingerprint
) -> None:
    current = Instance(redis.host, deployer.secrets(redis.host))
    VERBS[verb](current, deployer)
    assert_no_change(deployer, redis.host, fingerprint)
    current = Instance(redis.host, deployer.secrets(redis.host))
    assert current.call("GET rq:key", user="queues") == ["value"]


def test_deploy_after_a_live_change_changes_nothing(
    redis: Instance, deployer: Deployer, fingerprint: Fingerprint
) -> None:
    """Also after a restart, because the files that Redis reads at start have the same values."""
    assert deployer.deploy(redis.host, **LIVE).returncode == 0
    assert_no_change(deployer, redis.host, fingerprint, **LIVE)
    redis.host.run("docker restart redis", check=True)
    _wait_until_healthy(redis)
    assert_no_change(deployer, redis.host, fingerprint, **LIVE)
    assert deployer.deploy(redis.host).returncode == 0
