"""What cannot be deployed is refused in words, all of it at once, before anything is changed anywhere."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer, DeployResult, remove_instance

REFUSED = "Nothing was changed on any host. Fix these problems first:"

# A setting, and what is said of it. Those of one host that has them all.
BAD_SETTINGS: dict[str, tuple[object, str]] = {
    "redis_maxmemroy": ("1gb", "redis_maxmemroy: unknown setting; did you mean redis_maxmemory?"),
    "reddis_port": (6380, "reddis_port: unknown setting; did you mean redis_port?"),
    "redis_timeout": ("soon", "redis_timeout = 'soon': input should be a valid integer"),
    "redis_databases": (0, "redis_databases = 0: must be at least 1"),
    "redis_container_log_max_size": ("10X", "redis_container_log_max_size = '10X': '10X' is not a size"),
    "redis_maxmemory_policy": ("lru", "redis_maxmemory_policy = 'lru': input should be 'volatile-lru'"),
    "redis_bind": (["localhost"], "'localhost' is not an IP address, such as 127.0.0.1 or ::1"),
    "redis_save": ("900", "'900' is not a list of '<seconds> <changes>' pairs"),
    "redis_restart": (True, "redis_restart = True: input should be 'unless-stopped'"),
    # Relations between settings that are right by themselves.
    "redis_container_nofile": (100, "redis_container_nofile = 100 is too low for redis_maxclients = 10000"),
    "redis_image_archive": (None, "redis_image_source = 'archive' needs redis_image_archive"),
    "redis_disabled_commands": (["EVAL", "AUTH"], "AUTH: cannot be disabled or renamed"),
    "redis_extra_config": ({"maxmemory": "1gb"}, "redis_extra_config: maxmemory is managed by Redoubt"),
}


@pytest.fixture(scope="module")
def two(host: Host, start_host: Callable[..., Host]) -> tuple[Host, Host]:
    """Two hosts that were never deployed to."""
    pair = host, start_host("lifecycle-2")
    for one in pair:
        remove_instance(one)
    return pair


@contextmanager
def untouched(fingerprint: Callable[[Host], list[str]], deployer: Deployer, *hosts: Host) -> Iterator[None]:
    """Fails when anything on a host is changed, or when a password is made for it."""
    before = {host.name: fingerprint(host) for host in hosts}
    stored = sorted(deployer.secrets_dir.rglob("*"))
    yield
    for host in hosts:
        assert fingerprint(host) == before[host.name]
    assert sorted(deployer.secrets_dir.rglob("*")) == stored


def refusals(result: DeployResult, host: Host) -> list[str]:
    """The problems of one host in the message of a refused deploy."""
    assert result.returncode == 1
    assert REFUSED in result.stderr
    assert "Starting operation" not in result.stderr
    message = result.stderr.partition(REFUSED)[2]
    return [line.strip() for line in message.splitlines() if line.startswith(f"  {host.name}: ")]


@pytest.fixture
def data(deployer: Deployer) -> Iterator[dict[str, dict[str, Any]]]:
    """What single hosts' inventory data is for the time of a test."""
    yield deployer.data
    deployer.data.clear()


def test_everything_wrong_with_two_hosts_is_said_at_once_and_neither_is_touched(
    two: tuple[Host, Host],
    deployer: Deployer,
    data: dict[str, dict[str, Any]],
    fingerprint: Callable[[Host], list[str]],
) -> None:
    """One mistake at a time is one deploy at a time. The second host's are of another kind: what the host is."""
    first, second = two
    data[first.name] = {key: value for key, (value, _) in BAD_SETTINGS.items()}
    data[second.name] = {"redis_maxmemory": "4000gb", "redis_port": 22, "redis_bind": ["0.0.0.0"]}
    with untouched(fingerprint, deployer, first, second):
        result = deployer.deploy(first, second)

    said = refusals(result, first)
    for _, words in BAD_SETTINGS.values():
        assert any(words in line for line in said), words
    assert len(said) == len(BAD_SETTINGS)

    said = refusals(result, second)
    assert len(said) == 4
    assert "redis_bind: 0.0.0.0 publishes Redis on every address of the host" in said[0]
    assert "the container may use 6000gb (redis_maxmemory = 4000gb), but the host has" in said[1]
    assert "/srv/redis has room for" in said[2]
    assert "and 12288000 MiB are needed" in said[2]
    assert "0.0.0.0:22 is in use by sshd (pid " in said[3]


def test_a_host_is_not_changed_because_of_a_mistake_with_another(
    two: tuple[Host, Host],
    deployer: Deployer,
    data: dict[str, dict[str, Any]],
    fingerprint: Callable[[Host], list[str]],
) -> None:
    right, wrong = two
    data[wrong.name] = {"redis_port": 0}
    with untouched(fingerprint, deployer, right, wrong):
        result = deployer.deploy(right, wrong)
    assert refusals(result, right) == []
    assert refusals(result, wrong) == [f"{wrong.name}: redis_port = 0: must be at least 1"]


def test_a_limit_without_room_for_redis_is_refused_with_the_smallest_that_works(
    two: tuple[Host, Host], deployer: Deployer, fingerprint: Callable[[Host], list[str]]
) -> None:
    """1gb in 1G is what many ask for: the kernel killed Redis while it filled."""
    with untouched(fingerprint, deployer, two[0]):
        result = deployer.deploy(two[0], redis_maxmemory="1gb", redis_container_memory="1G")
    (said,) = refusals(result, two[0])
    assert "redis_container_memory = 1gb is too small for redis_maxmemory = 1gb" in said
    assert "the kernel would kill Redis" in said
    assert "Use at least 1408mb" in said


def test_a_host_that_is_a_container_keeps_its_kernel(
    two: tuple[Host, Host], deployer: Deployer, fingerprint: Callable[[Host], list[str]]
) -> None:
    """It is the machine's, with whatever else runs there. Left alone by a setting, as in every other test here."""
    kernel = "sysctl vm.overcommit_memory vm.swappiness; cat /sys/kernel/mm/transparent_hugepage/enabled"
    before = two[0].run(kernel).stdout
    with untouched(fingerprint, deployer, two[0]):
        result = deployer.deploy(two[0], redis_host_tuning=True)
    (said,) = refusals(result, two[0])
    assert "this host is a container (docker), which cannot set up the kernel: set redis_host_tuning = False" in said
    assert two[0].run(kernel).stdout == before


def test_a_port_that_another_process_has_is_refused_and_the_process_named(
    two: tuple[Host, Host], deployer: Deployer, fingerprint: Callable[[Host], list[str]]
) -> None:
    host = two[1]
    listen = "import socket, time; s = socket.create_server(('127.0.0.1', 6379)); print(flush=True); time.sleep(600)"
    pid = host.run(
        f"setsid python3 -c {shlex.quote(listen)} </dev/null >/run/listening 2>&1 & "
        "until [ -s /run/listening ]; do sleep 0.05; done; echo $!",
        check=True,
        timeout=20,
    ).stdout.strip()
    try:
        with untouched(fingerprint, deployer, host):
            result = deployer.deploy(host)
    finally:
        host.run(f"kill {pid}; rm /run/listening")
    (said,) = refusals(result, host)
    assert f"127.0.0.1:6379 is in use by python3 (pid {pid})" in said


def test_a_container_of_somebody_else_s_is_neither_taken_over_nor_replaced(
    two: tuple[Host, Host], deployer: Deployer, fingerprint: Callable[[Host], list[str]]
) -> None:
    """Such as the Redis that this one is to succeed: it may hold the data."""
    host = two[1]
    host.run("head -c 10240 /dev/zero | docker import - other:1 && docker create --name redis other:1 true", check=True)
    try:
        with untouched(fingerprint, deployer, host):
            result = deployer.deploy(host)
    finally:
        remove_instance(host)
    (said,) = refusals(result, host)
    assert "there is a container redis that Redoubt did not create" in said


def test_an_archive_without_the_image_is_refused_before_it_is_pushed(
    two: tuple[Host, Host], deployer: Deployer, fingerprint: Callable[[Host], list[str]]
) -> None:
    with untouched(fingerprint, deployer, two[0]):
        result = deployer.deploy(two[0], redis_image="redoubt/redis:9.9.9")
    (said,) = refusals(result, two[0])
    assert "does not contain redoubt/redis:9.9.9, but redoubt/redis:" in said


def test_stored_passwords_that_others_can_read_are_refused_and_none_are_made(
    two: tuple[Host, Host],
    deployer: Deployer,
    data: dict[str, dict[str, Any]],
    fingerprint: Callable[[Host], list[str]],
    tmp_path: Path,
) -> None:
    """Together with what else is wrong, and without their contents."""
    first, second = two
    store = tmp_path / first.name / "redis.yml"
    store.parent.mkdir()
    store.write_text("passwords: {admin: tr0ub4dor&3-and-a-horse-and-a-staple}\ncommands: {}\n")
    store.chmod(0o644)
    data[first.name] = {"redis_port": 0}
    with untouched(fingerprint, deployer, first, second):
        result = deployer.deploy(first, second, redis_secrets_dir=str(tmp_path))
    assert refusals(result, first) == [
        f"{first.name}: redis_port = 0: must be at least 1",
        f"{first.name}: {store}: other users of this machine can read it; run: chmod 600 {store}",
    ]
    assert "tr0ub4dor" not in result.stdout + result.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [store]


@pytest.fixture(scope="module")
def live(host: Host, deployer: Deployer) -> Host:
    """The shared host, deployed once for tests that put everything back."""
    result = deployer.deploy(host)
    assert result.returncode == 0, result.stderr
    return host


@pytest.mark.parametrize(
    ("path", "make", "words"),
    [
        ("/srv/redis/backups", "echo precious >", "is a file, but must be a directory"),
        ("/srv/redis/logs", "ln -s /var/log", "is a symbolic link, but must be a directory"),
        ("/srv/redis/config/redis.conf", "ln -s /etc/hostname", "is a symbolic link, but must be a regular file"),
        ("/srv/redis/secrets/admin", "mkdir", "is a directory, but must be a regular file"),
    ],
)
def test_an_obstacle_stops_the_deploy_and_stays_where_it_is(
    path: str, make: str, words: str, live: Host, deployer: Deployer
) -> None:
    """What is in the way was put there by somebody: it is for them to remove. Redis runs on meanwhile."""
    looks = (
        f"stat -c '%n %F %i %Y %s' {path}; cat /etc/hostname; docker inspect --format '{{{{.State.StartedAt}}}}' redis"
    )
    live.run(f"mv {path} /srv/aside && {make} {path}", check=True)
    try:
        before = live.run(looks, check=True).stdout
        result = deployer.deploy(live)
        assert result.returncode == 1
        assert f"{path} {words}: check what it is, move it away and deploy again" in result.stderr
        assert live.run(looks, check=True).stdout == before
    finally:
        live.run(f"rm -rf {path}; mv /srv/aside {path}", check=True)
