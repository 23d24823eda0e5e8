"""Refused deploys: all problems are reported at once, before any host changes.

Each problem has a clear error.
"""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sandbox.hosts import Host
from tests.deployer import Deployer, DeployResult
from tests.lifecycle.conftest import remove_instance
from tests.lifecycle.interruption import wait_until_recovered

REFUSED = "Nothing was changed on any host. Fix these problems first:"

# Invalid settings of one host, each with its message.
BAD_SETTINGS: dict[str, tuple[object, str]] = {
    "redis_maxmemroy": ("1gb", "redis_maxmemroy: unknown setting; did you mean redis_maxmemory?"),
    "reddis_port": (6380, "reddis_port: unknown setting; did you mean redis_port?"),
    "redis_timeout": ("soon", "redis_timeout = 'soon': must be a whole number"),
    "redis_databases": (0, "redis_databases = 0: must be at least 1"),
    "redis_container_log_max_size": ("10X", "redis_container_log_max_size = '10X' is not a size"),
    "redis_maxmemory_policy": ("lru", "redis_maxmemory_policy = 'lru': must be 'volatile-lru'"),
    "redis_bind": (["localhost"], "'localhost' is not an IP address, for example 127.0.0.1 or ::1"),
    "redis_save": ("900", "'900' is not a list of '<seconds> <changes>' pairs"),
    "redis_restart": (True, "redis_restart = True: must be 'unless-stopped'"),
    # Each is valid by itself, but not together with the others.
    "redis_container_nofile": (100, "redis_container_nofile = 100 is too low for redis_maxclients = 10000"),
    "redis_image_archive": (None, "redis_image_source = 'archive' needs redis_image_archive"),
    # A common choice. The kernel killed Redis with it while its memory filled.
    "redis_container_memory": ("1G", "redis_container_memory = 1gb is too small for redis_maxmemory = 1gb"),
    "redis_disabled_commands": (["EVAL", "AUTH"], "AUTH: cannot be disabled or renamed"),
    "redis_extra_config": ({"maxmemory": "1gb"}, "redis_extra_config: maxmemory is managed by Redoubt"),
}
# Valid settings that a host cannot fulfil, and the messages about them and about what HARM does to the host.
IMPOSSIBLE_SETTINGS: dict[str, Any] = {
    "redis_maxmemory": "4000gb",
    "redis_bind": ["0.0.0.0"],
    # The other tests set it to False.
    "redis_host_tuning": True,
}
HOST_PROBLEMS = (
    "redis_bind: 0.0.0.0 publishes Redis on every address of the host",
    "the container may use 6500gb (redis_maxmemory = 4000gb), but the host has",
    "/srv/redis has room for",
    "this host is a container (docker), which cannot set up the kernel: set redis_host_tuning = False",
    "0.0.0.0:6379 is in use by python3 (pid {pid})",
    # It may be an older Redis with data.
    "there is a container redis that Redoubt did not create",
)
LOCK = "/run/redoubt-redis.lock"
LISTEN = "import socket, time; s = socket.create_server(('127.0.0.1', 6379)); print(flush=True); time.sleep(600)"
# Prints the pid of a process that uses the port of Redis.
HARM = (
    "{ head -c 10240 /dev/zero | docker import - other:1 && docker create --name redis other:1 true; } >&2 || exit 1\n"
    f"setsid python3 -c {shlex.quote(LISTEN)} </dev/null >/run/listening 2>&1 &\n"
    "until [ -s /run/listening ]; do sleep 0.05; done; echo $!"
)


@pytest.fixture(scope="module")
def undeployed(host: Host, start_host: Callable[..., Host]) -> tuple[Host, Host]:
    """Two hosts without an instance."""
    hosts = host, start_host("lifecycle-2")
    for host_ in hosts:
        remove_instance(host_)
    return hosts


@contextmanager
def untouched(fingerprint: Callable[[Host], list[str]], deployer: Deployer, *hosts: Host) -> Iterator[None]:
    """Fail if anything on a host changes, or if a password for it is generated."""
    before = {host.name: fingerprint(host) for host in hosts}
    stored = sorted(deployer.secrets_dir.rglob("*"))
    yield
    for host in hosts:
        assert fingerprint(host) == before[host.name]
    assert sorted(deployer.secrets_dir.rglob("*")) == stored


def blockers(result: DeployResult, host: Host) -> list[str]:
    """Return the blockers of one host in the error of a refused deploy."""
    assert result.returncode == 1
    assert REFUSED in result.stderr
    assert "Starting operation" not in result.stderr
    message = result.stderr.partition(REFUSED)[2]
    return [line.strip() for line in message.splitlines() if line.startswith(f"  {host.name}: ")]


@pytest.fixture
def data(deployer: Deployer) -> Iterator[dict[str, dict[str, Any]]]:
    """The inventory's data for single hosts, during one test."""
    yield deployer.data
    deployer.data.clear()


def test_all_problems_of_two_hosts_are_reported_at_once(
    undeployed: tuple[Host, Host],
    deployer: Deployer,
    data: dict[str, dict[str, Any]],
    fingerprint: Callable[[Host], list[str]],
) -> None:
    """Invalid settings of one host and problems of another are reported together.

    The settings of the second host are valid, but the host cannot fulfil them.
    """
    first, second = undeployed
    data[first.name] = {key: value for key, (value, _) in BAD_SETTINGS.items()}
    data[second.name] = IMPOSSIBLE_SETTINGS
    kernel = "sysctl vm.overcommit_memory vm.swappiness; cat /sys/kernel/mm/transparent_hugepage/enabled"
    before = second.run(kernel, check=True).stdout
    pid = second.run(HARM, check=True, timeout=20).stdout.strip()
    try:
        with untouched(fingerprint, deployer, first, second):
            result = deployer.deploy(first, second)
    finally:
        second.run(f"kill {pid}; rm /run/listening")
        remove_instance(second)

    for host, messages in ((first, [text for _, text in BAD_SETTINGS.values()]), (second, HOST_PROBLEMS)):
        problems = blockers(result, host)
        for message in messages:
            assert any(message.format(pid=pid) in problem for problem in problems), (message, problems)
        assert len(problems) == len(messages)
    assert "and 12288000 MiB are needed" in result.stderr
    # The kernel belongs to the machine below.
    assert second.run(kernel, check=True).stdout == before


def test_a_problem_with_one_host_stops_the_deploy_of_all(
    undeployed: tuple[Host, Host],
    deployer: Deployer,
    data: dict[str, dict[str, Any]],
    fingerprint: Callable[[Host], list[str]],
) -> None:
    """The archive for one of them does not contain its image."""
    valid, invalid = undeployed
    data[invalid.name] = {"redis_image": "redoubt/redis:9.9.9"}
    with untouched(fingerprint, deployer, valid, invalid):
        result = deployer.deploy(valid, invalid)
    assert blockers(result, valid) == []
    (problem,) = blockers(result, invalid)
    assert "does not contain redoubt/redis:9.9.9, but 'redoubt/redis:" in problem


def test_passwords_that_others_can_read_are_refused(
    undeployed: tuple[Host, Host],
    deployer: Deployer,
    data: dict[str, dict[str, Any]],
    fingerprint: Callable[[Host], list[str]],
    tmp_path: Path,
) -> None:
    """Passwords that other users can read are refused, and are not shown.

    Other problems are reported as well. No new passwords are generated.
    """
    first, second = undeployed
    store = tmp_path / first.name / "redis.yml"
    store.parent.mkdir()
    store.write_text("passwords: {admin: tr0ub4dor&3-and-a-horse-and-a-staple}\ncommands: {}\n")
    store.chmod(0o644)
    data[first.name] = {"redis_port": 0}
    with untouched(fingerprint, deployer, first, second):
        result = deployer.deploy(first, second, redis_secrets_dir=str(tmp_path))
    assert blockers(result, first) == [
        f"{first.name}: redis_port = 0: must be at least 1",
        f"{first.name}: {store}: other users of this machine can read it; run: chmod 600 {store}",
    ]
    assert "tr0ub4dor" not in result.stdout + result.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [store]


@pytest.fixture(scope="module")
def live(host: Host, deployer: Deployer) -> Host:
    """The shared host, deployed once for tests that undo their changes."""
    result = deployer.deploy(host)
    assert result.returncode == 0, result.stderr
    return host


def test_directory_of_an_application_is_refused(live: Host, deployer: Deployer) -> None:
    """Neither a deploy nor a removal touches files of others.

    They are in the root or have the name of the instance. A root with empty disks is accepted.
    """
    app: str = "/opt/app"
    others = ("/etc/logrotate.d/shop", "/usr/local/sbin/redisctl-shop")
    shop: dict[str, Any] = {"redis_name": "shop", "redis_root": "/opt/app", "redis_port": 6390}
    live.run(f"mkdir -p {app}/config {app}/data/lost+found && mount -t tmpfs tmpfs {app}/data", check=True)
    state = f"find {app} -printf '%p %U:%G %m %C@\\n' | sort"
    try:
        live.run(f"mkdir {app}/data/lost+found && cp /etc/hostname {app}/config/app.ini", check=True)
        before = live.run(state, check=True).stdout
        deploys = [deployer.deploy(live, job=job, **shop) for job in ("deploy.py", "day2/remove.py", "day2/stop.py")]
        for refused in deploys:
            assert (refused.returncode, refused.operations) == (1, [])
            assert "redis_root = '/opt/app' is not empty, and no deploy of shop has created it" in refused.stderr
            assert "it contains config. A deploy would change" in refused.stderr
        assert live.run(state, check=True).stdout == before
        live.run(f"rm -r {app}/config && tee {' '.join(others)} </etc/hostname", check=True)
        for job in ("deploy.py", "day2/remove.py"):
            refused = deployer.deploy(live, job=job, **shop)
            assert (refused.returncode, refused.operations) == (1, [])
            for path in others:
                assert f"{path} exists, and no deploy of shop has written it" in refused.stderr
        live.run(f"rm {' '.join(others)} && chgrp mail {app}", check=True)
        refused = deployer.deploy(live, **shop)
        assert (refused.returncode, refused.operations) == (1, [])
        assert "redis_root = '/opt/app' is empty, but it belongs to 0:8 with mode 755" in refused.stderr
        live.run(f"chgrp root {app}", check=True)
        planned = deployer.deploy(live, arguments=("--dry",), **shop)
        assert planned.returncode == 0, planned.stderr

        other = deployer.deploy(live, job="day2/remove.py", redis_name="shop", redis_root="/srv/redis")
        assert (other.returncode, other.operations) == (1, [])
        assert "redis_root = '/srv/redis' belongs to the instance redis" in other.stderr
    finally:
        live.run(f"umount {app}/data; rm -rf {app} {' '.join(others)}", check=True)


@pytest.mark.parametrize(
    ("path", "command", "message"),
    [
        ("/srv/redis/backups", "echo precious >", "is a file, but must be a directory"),
        ("/srv/redis/logs", "ln -s /var/log", "is a symbolic link, but must be a directory"),
        ("/srv/redis/config/redis.conf", "ln -s /etc/hostname", "is a symbolic link, but must be a regular file"),
        ("/srv/redis/secrets/admin", "mkdir", "is a directory, but must be a regular file"),
    ],
)
def test_a_file_in_the_way_stops_the_deploy_and_stays(
    path: str, command: str, message: str, live: Host, deployer: Deployer
) -> None:
    """Somebody else put it there, so only they may remove it. Redis keeps running."""
    state = (
        f"stat -c '%n %F %i %Y %s' {path}; cat /etc/hostname; docker inspect --format '{{{{.State.StartedAt}}}}' redis"
    )
    live.run(f"mv {path} /srv/aside && {command} {path}", check=True)
    try:
        before = live.run(state, check=True).stdout
        result = deployer.deploy(live)
        assert result.returncode == 1
        assert f"{path} {message}: check what it is, move it away and deploy again" in result.stderr
        assert live.run(state, check=True).stdout == before
    finally:
        # Without the password of admin Redis would restart, so systemd puts the saved files back.
        wait_until_recovered(live)
        live.run(f"rm -rf {path}; mv /srv/aside {path}", check=True)


def test_lock_that_cannot_be_taken_is_explained(deployer: Deployer, host: Host) -> None:
    """The message has what the shell on the host says, and what to do."""
    host.run(f"rm -f {LOCK} && mkdir {LOCK}", check=True)
    try:
        result = deployer.deploy(host)
    finally:
        host.run(f"rmdir {LOCK}", check=True)
    assert result.returncode == 1
    assert f"{LOCK} cannot be locked: " in result.stderr
    assert "Is a directory" in result.stderr
    assert "run 'flock /run/redoubt-redis.lock true' on the host" in result.stderr.replace("\n", " ")
