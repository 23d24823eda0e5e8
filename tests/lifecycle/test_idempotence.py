"""Deploys without changes: they change nothing.

This holds for every kind of instance, and after every day-2 verb. This is the only place that repeats deploys for their
own sake. ``test_upgrade_paths.py`` does so for other versions and engines, ``test_drift.py`` after manual changes.
Other modules repeat one only after what they alone do.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox.hosts import Host
from tests.deployed_redis import Instance, redisctl
from tests.deployer import ROOT, Deployer
from tests.lifecycle.conftest import remove_instance, settings_for
from tests.lifecycle.test_application import WEB, WITH_WEB
from tests.lifecycle.test_instances import QUEUE, remove_second_instance
from tests.lifecycle.test_live_changes import LIVE
from tests.lifecycle.test_network import address6, ipv6_enabled
from tests.lifecycle.test_persistence import RENAMED
from tests.lifecycle.test_users import WITH_USERS

Fingerprint = Callable[[Host], list[str]]

# Seconds depend on the machine and on the way to the host, SSH commands do not. 5 were measured.
MAX_SSH_COMMANDS = 6

# Kinds of instances: the settings for a host. Each has other parts of what a deploy compares with the host. A row
# follows on the one before, so its second deploy also shows that the previous settings have left nothing to remove.
KINDS: dict[str, Callable[[Host], dict[str, Any]]] = {
    "default": lambda _: {},
    "TLS required, also of clients": lambda host: {
        "redis_tls": "required",
        "redis_bind": ["0.0.0.0"],
        "redis_tls_names": ["redis.example.com", str(host.address)],
        "redis_tls_auth_clients": "yes",
    },
    "TLS and plain, network filter": lambda _: {
        "redis_tls": "both",
        "redis_tls_names": ["redis.example.com"],
        "redis_bind": ["0.0.0.0", "::"],
        "redis_allow_from": ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/64"],
    },
    "several addresses, all networks": lambda host: {
        "redis_bind": ["127.0.0.1", "::1", str(host.address), address6(host)],
        "redis_port": 6380,
        "redis_allow_from": ["0.0.0.0/0", "::/0"],
    },
    "socket, no port": lambda _: {"redis_unix_socket": True, "redis_unix_socket_gid": 4321, "redis_bind": []},
    "application service": lambda _: WITH_WEB,
    "users, default user": lambda _: {**WITH_USERS, "redis_enable_default_user": True},
    "schedule and copies of backups": lambda _: {
        "redis_backup_schedule": "Mon..Fri 04:30 Europe/Berlin",
        "redis_backup_randomized_delay": 600,
        "redis_backup_restic_repository": "s3:https://192.0.2.1/copies",
        # A deploy copies the file and does not read it.
        "redis_backup_repository_files": {"ca_certificate": str(ROOT / "LICENSE")},
    },
    "no backups, AOF or defragmentation": lambda _: {
        "redis_backup_schedule": "",
        "redis_appendonly": False,
        "redis_allow_data_loss": ["persistence"],
        "redis_activedefrag": "no",
    },
    "renamed commands, other directives": lambda _: {
        **RENAMED,
        "redis_extra_config": {"io-threads": "2"},
        "redis_databases": 4,
        "redis_maxclients": 500,
        "redis_tcp_backlog": 8192,
    },
    "vulnerable version with defragmentation": lambda _: {
        **settings_for("redis-jemalloc"),
        "redis_allow_vulnerable_version": True,
        "redis_activedefrag": "yes",
    },
}


def assert_nothing_changes(
    deployer: Deployer, host: Host, fingerprint: Fingerprint, name: str = "redis", **settings: Any
) -> None:
    """Deploy again, and check that nothing changes.

    Fails if the deploy reports a change, makes one without a report, or needs many SSH commands.
    """
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


@pytest.fixture(scope="module", autouse=True)
def _ipv6(host: Host) -> Iterator[None]:
    with ipv6_enabled(host):
        yield


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.core] if kind == "default" else []) for kind in KINDS]
)
def test_second_deploy_changes_nothing(kind: str, host: Host, deployer: Deployer, fingerprint: Fingerprint) -> None:
    """A second deploy reports no change and makes none.

    The test looks at the host itself: an operation that reports no change may have made one.
    """
    settings = KINDS[kind](host)
    first = deployer.deploy(host, **settings)
    assert first.returncode == 0, first.stderr
    assert "redis is up. For applications:" in first.stderr
    assert_nothing_changes(deployer, host, fingerprint, **settings)


def test_second_deploy_of_two_instances_changes_nothing(
    deployed: Host, deployer: Deployer, fingerprint: Fingerprint
) -> None:
    try:
        second = deployer.deploy(deployed, **QUEUE)
        assert second.returncode == 0, second.stderr
        assert_nothing_changes(deployer, deployed, fingerprint)
        assert_nothing_changes(deployer, deployed, fingerprint, "queue", **QUEUE)
    finally:
        remove_second_instance(deployed)


# -- After a day-2 verb


def _restore(redis: Instance, deployer: Deployer) -> None:
    redisctl(redis, "backup --no-verify")
    redisctl(redis, "restore latest --yes")


def _undo(redis: Instance, deployer: Deployer) -> None:
    redisctl(redis, "restore --undo --yes")


def _discard_previous(redis: Instance, deployer: Deployer) -> None:
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


def _rotate_with_grace(redis: Instance, deployer: Deployer) -> None:
    _run(redis, deployer, "rotate", "--data", "redis_rotate_grace=1")


def _stop_and_start(redis: Instance, deployer: Deployer) -> None:
    _run(redis, deployer, "stop")
    _run(redis, deployer, "start")


def _stop_and_deploy(redis: Instance, deployer: Deployer) -> None:
    _run(redis, deployer, "stop")
    result = deployer.deploy(redis.host)
    assert result.returncode == 0, result.stderr


def _restart(redis: Instance, deployer: Deployer) -> None:
    before = redis.identity
    redis.host.run("redisctl restart", check=True)
    assert redis.identity != before


def _crash(redis: Instance, deployer: Deployer) -> None:
    """Kill Redis in the middle of a write, as a power cut does.

    Redis starts again and ignores the truncated end of the AOF.
    """
    redis.call("SET rq:last x", user="queues")
    redis.crash()
    files = "/srv/redis/data/live/appendonlydir/*.incr.aof"
    redis.host.run(f"truncate --size=-3 $(ls {files} | tail -n 1) && docker start redis", check=True)
    _wait_until_healthy(redis)
    assert redis.call("EXISTS rq:last", user="queues") == ["0"]


def _run(redis: Instance, deployer: Deployer, verb: str, *options: str) -> None:
    result = deployer.deploy(redis.host, job=f"day2/{verb}.py", arguments=("-y", "--json", *options))
    assert result.returncode == 0, result.stderr
    assert result.changed


def _wait_until_healthy(redis: Instance) -> None:
    redis.wait_until_healthy()


# A deploy follows on each verb of a row.
VERBS: dict[str, tuple[Callable[[Instance, Deployer], None], ...]] = {
    "restore, undo, discard previous data": (_restore, _undo, _discard_previous),
    "rotate": (_rotate,),
    "undo rotation": (_undo_rotation,),
    "finish rotation": (_finish_rotation,),
    "rotate with grace": (_rotate_with_grace,),
    "stop, start": (_stop_and_start,),
    "stop, deploy": (_stop_and_deploy,),
    "restart": (_restart,),
    "crash": (_crash,),
}


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """An instance with some data."""
    remove_instance(host)
    instance = deployer.instance(host)
    instance.call("SET rq:key value", user="queues")
    yield instance
    remove_instance(host)


@pytest.mark.parametrize("verbs", VERBS)
def test_deploy_after_a_verb_changes_nothing(
    verbs: str, redis: Instance, deployer: Deployer, fingerprint: Fingerprint
) -> None:
    for verb in VERBS[verbs]:
        verb(Instance(redis.host, deployer.secrets(redis.host)), deployer)
        assert_nothing_changes(deployer, redis.host, fingerprint)
    current = Instance(redis.host, deployer.secrets(redis.host))
    assert current.call("GET rq:key", user="queues") == ["value"]


def test_deploy_after_a_live_change_changes_nothing(
    redis: Instance, deployer: Deployer, fingerprint: Fingerprint
) -> None:
    """Also with an application, after a restart of Redis, and after the change back."""
    for settings in ({**LIVE, "redis_app_services": {"web": WEB}}, LIVE):
        assert deployer.deploy(redis.host, **settings).returncode == 0
        assert_nothing_changes(deployer, redis.host, fingerprint, **settings)
    # The files that Redis reads at start have the same values.
    redis.host.run("docker restart redis", check=True)
    _wait_until_healthy(redis)
    assert_nothing_changes(deployer, redis.host, fingerprint, **LIVE)
    assert deployer.deploy(redis.host).returncode == 0
    assert_nothing_changes(deployer, redis.host, fingerprint)
