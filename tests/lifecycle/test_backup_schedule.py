"""Scheduled backups, and their copies on another host.

The copies are complete, and encrypted before they leave. They go to a second host over SFTP, as the unprivileged user
operator.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sandbox import ssh
from sandbox.hosts import Host
from tests.deployed_redis import Instance, redisctl, refused, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import DISCARD_DATA
from tests.lifecycle.test_secrets_exposure import KnownSecrets, known_secrets, leaked_files, watch_processes

UNIT, TIMER = "redis-backup.service", "redis-backup.timer"
SECRETS = "/srv/redis/secrets/repository"
# Below the home of the user who logs in.
COPIES = "/home/operator/redis-1"


@pytest.fixture(scope="module")
def neighbour(start_host: Callable[..., Host]) -> Iterator[Host]:
    """Give the host for the copies, without Docker and Redis."""
    neighbour = start_host("lifecycle-bare", image="bare")
    neighbour.run("cp -p /home/operator/.ssh/authorized_keys /run/authorized_keys", check=True)
    yield neighbour
    neighbour.run(f"cp -p /run/authorized_keys /home/operator/.ssh/authorized_keys; rm -rf {COPIES}", check=True)


@pytest.fixture(scope="module")
def files(neighbour: Host, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the paths of an SSH key and of the neighbour's host key.

    The neighbour accepts the SSH key.
    """
    directory = tmp_path_factory.mktemp("repository")
    pair = ssh.generate()
    neighbour.run("cat >>/home/operator/.ssh/authorized_keys", input=f"restrict {pair.public}\n", check=True)
    host_key = neighbour.run("cat /etc/ssh/ssh_host_ed25519_key.pub", check=True).stdout
    contents = {"ssh_key": pair.private, "known_hosts": f"{neighbour.address} {host_key}"}
    for name, text in contents.items():
        (directory / name).write_text(text)
    return {name: str(directory / name) for name in contents}


@pytest.fixture(scope="module")
def settings(neighbour: Host, files: dict[str, str]) -> dict[str, Any]:
    """Return settings with another schedule than the default and copies elsewhere.

    The copies go to the neighbour.
    """
    return {
        "redis_backup_schedule": "Mon..Fri 04:30 Europe/Berlin",
        "redis_backup_randomized_delay": 600,
        "redis_backup_restic_repository": f"sftp:operator@{neighbour.address}:redis-1",
        "redis_backup_repository_files": files,
        # Makes deploys quicker.
        "redis_health_interval": 1,
    }


@pytest.fixture(scope="module")
def redis(host: Host, without_traces: None, deployer: Deployer, settings: dict[str, Any]) -> Iterator[Instance]:
    """Yield the shared host with a schedule and no backups.

    Its data cannot be compressed by restic.
    """
    instance = deployer.instance(host, **settings)
    try:
        with instance.client("queues") as client:
            client.set("rq:of-the-backup", os.urandom(2_000_000))
        yield instance
    finally:
        host.run(f"{DISCARD_DATA}; rm -rf /srv/redis/backups; dpkg --purge restic")


def contents(host: Host, name: str) -> str:
    """Return every file of a backup with owner, mode and digest."""
    return host.run(
        f"cd /srv/redis/backups/{name} && find . -printf '%p %U:%G %m\\n' | sort && "
        "find . -type f | sort | xargs sha256sum",
        check=True,
    ).stdout


def test_systemd_takes_backups_by_the_schedule(redis: Instance) -> None:
    properties = redis.host.run(
        f"systemctl show {TIMER} --property ActiveState,UnitFileState,TimersCalendar,RandomizedDelayUSec,Persistent",
        check=True,
    ).stdout
    for words in (
        *("ActiveState=active", "UnitFileState=enabled", "RandomizedDelayUSec=10min", "Persistent=yes"),
        "OnCalendar=Mon..Fri *-*-* 04:30:00 Europe/Berlin ",
    ):
        assert words in properties
    timers = redis.host.run(f"systemctl list-timers --output json {TIMER}", check=True)
    assert [timer["activates"] for timer in json.loads(timers.stdout)] == [UNIT]

    redis.host.run(f"systemctl start {UNIT}", check=True)
    (backup,) = redisctl(redis, "backup list")["backups"]
    assert backup["verified"]["verdict"] == "ok"
    assert [copy["id"] for copy in redisctl(redis, "backup list --offsite")["copies"]] == [backup["id"]]
    log = redis.host.run(f"journalctl --unit {UNIT} --output cat").stdout
    assert f"backup {backup['id']}: {backup['keys']} keys" in log
    assert redisctl(redis, "health")["verdict"] == "ok"


def test_fetched_copy_is_identical_and_good(redis: Instance) -> None:
    name = redisctl(redis, "backup list")["backups"][0]["id"]
    before = contents(redis.host, name)
    assert "exists already" in refused(redis, "backup fetch latest")
    redis.host.run(f"rm -r /srv/redis/backups/{name}", check=True)
    assert redisctl(redis, f"backup fetch {name[:12]}")["id"] == name
    assert contents(redis.host, name) == before
    assert redisctl(redis, "backup verify latest")["verified"]["verdict"] == "ok"
    redis.host.run("redisctl backup check", check=True)


def test_redis_cannot_change_its_backups(redis: Instance) -> None:
    name = redisctl(redis, "backup list")["backups"][0]["id"]
    for command in (f"rm /backups/{name}/dump.rdb", f"sh -c 'echo >/backups/{name}/dump.rdb'", "touch /backups/x"):
        result = redis.host.run(f"docker exec --env LC_ALL=C redis {command}")
        assert (result.returncode != 0, "Read-only file system" in result.stderr) == (True, True), result


def test_secrets_of_the_repository_are_only_roots(
    redis: Instance, deployer: Deployer, files: dict[str, str], neighbour: Host
) -> None:
    """Neither processes, logs nor other files of the two hosts contain them."""
    modes = redis.host.run(f"cd {SECRETS} && stat --format '%n %u:%g %a' . *", check=True).stdout.splitlines()
    assert modes == [". 0:0 700", *(f"{name} 0:0 400" for name in ("known", "known_hosts", "password", "ssh_key"))]
    secrets = known_secrets(redis.host, deployer.secrets_dir)
    repository = {"password": redis.secrets.repository, "ssh_key": Path(files["ssh_key"]).read_text().splitlines()[3]}
    assert redis.host.run(f"cat {SECRETS}/password").stdout == f"{repository['password']}\n"
    everything = KnownSecrets({**secrets.values, **repository})

    with watch_processes(redis.host) as recorded:
        redis.host.run(f"systemctl start {UNIT}", check=True)
        processes = recorded()
    assert all(words in processes for words in ("restic --repo sftp:", "ssh -F none -E", " backup --host"))
    log = redis.host.run("journalctl --all --output=cat --since -1hour", check=True).stdout
    for place, text in (("processes", processes), ("log", log)):
        assert everything.found_in(text) == [], place
    assert leaked_files(redis.host, everything) == []
    with broken(neighbour, "cat >/root/secret", "rm /root/secret", repository["password"]):
        assert leaked_files(neighbour, everything, known="/root/secret") == []


@contextmanager
def broken(host: Host, damage: str, repair: str, text: str = "") -> Iterator[None]:
    """Break something by a shell command, and repair it at the end.

    The command reads ``text``.
    """
    host.run(damage, input=text, check=True)
    try:
        yield
    finally:
        host.run(repair, check=True)


def test_unit_fails_while_copies_fail(redis: Instance, neighbour: Host) -> None:
    route = f"unreachable {neighbour.address}"
    with broken(redis.host, f"ip route add {route}", f"ip route del {route}"):
        assert redis.host.run(f"systemctl start {UNIT}").returncode == 1
        assert UNIT in redis.host.run("systemctl --failed --plain --no-legend").stdout
        log = redis.host.run(f"journalctl --unit {UNIT} --output cat --lines 5").stdout
        assert "was taken and is on this host, but was not copied off it: sftp:operator@" in log
        assert "No route to host" in log
        assert "No route to host" in refused(redis, "backup list --offsite")
        health = redis.host.run("redisctl health --json")
        observed = {check["name"]: check["observed"] for check in json.loads(health.stdout)["checks"]}
        assert health.returncode == 2
        assert "failed: backup 2" in observed["backup"]
        assert "No route to host" in observed["backup"]
    # The backup on this host is good.
    assert redisctl(redis, "backup verify latest")["verified"]["verdict"] == "ok"
    redis.host.run(f"systemctl start {UNIT}", check=True)
    assert redis.host.run("systemctl --failed --plain --no-legend").stdout == ""
    assert redisctl(redis, "health")["verdict"] == "ok"


@pytest.mark.parametrize(
    ("damage", "repair", "message"),
    [
        pytest.param(
            f"cp -p {SECRETS}/password /run/intact; echo of-another-repository-0123456789 >{SECRETS}/password",
            f"cp -p /run/intact {SECRETS}/password",
            "wrong password or no key found. Another instance created the repository",
            id="password",
        ),
        pytest.param(
            f"cp -p {SECRETS}/known_hosts /run/intact; ssh-keygen -q -t ed25519 -N '' -f /run/other; "
            f"sed 's/ .*//' /run/intact | tr '\\n' ' ' | cat - /run/other.pub >{SECRETS}/known_hosts",
            f"cp -p /run/intact {SECRETS}/known_hosts; rm /run/other*",
            "Host key verification failed.",
            id="host-key",
        ),
        pytest.param(
            f"cp -p {SECRETS}/ssh_key /run/intact; ssh-keygen -q -t ed25519 -N '' -f /run/other; "
            f"cat /run/other >{SECRETS}/ssh_key",
            f"cp -p /run/intact {SECRETS}/ssh_key; rm /run/other*",
            "Permission denied (publickey",
            id="key",
        ),
    ],
)
def test_failed_login_to_the_repository_is_explained(redis: Instance, damage: str, repair: str, message: str) -> None:
    with broken(redis.host, damage, f"{repair}; rm /run/intact"):
        # Only once: OpenSSH 9.8 and newer block a client for a while after several failures.
        assert message in refused(redis, "backup --no-verify")


def test_wrong_repository_password_lists_nothing(redis: Instance) -> None:
    with broken(
        redis.host,
        f"cp -p {SECRETS}/password /run/intact; echo of-another-repository-0123456789 >{SECRETS}/password",
        f"cp -p /run/intact {SECRETS}/password; rm /run/intact",
    ):
        for verb in ("backup list --offsite", "backup fetch latest", "backup check"):
            assert "wrong password or no key found" in refused(redis, verb)


def test_missing_repository_is_not_created_again(redis: Instance, neighbour: Host) -> None:
    """Its disk may just not be mounted."""
    with broken(neighbour, f"mv {COPIES} {COPIES}.aside", f"mv {COPIES}.aside {COPIES}"):
        assert "is gone: is its disk not mounted" in refused(redis, "backup --no-verify")
        assert neighbour.run(f"ls {COPIES}").returncode != 0


def test_killed_copy_does_not_block_the_next(redis: Instance, neighbour: Host) -> None:
    with redis.client("queues") as client:
        for number in range(2):
            client.set(f"rq:much:{number}", os.urandom(20_000_000))
    locks = f"ls {COPIES}/locks"
    redis.host.run(
        "{ redisctl backup --no-verify >/run/output 2>&1; echo $? >/run/code; } </dev/null >/dev/null 2>&1 &"
    )
    # restic holds its lock and copies.
    neighbour.run(f'for _ in $(seq 1000); do [ -z "$({locks})" ] || exit 0; sleep 0.02; done; exit 1', check=True)
    redis.host.run("kill -9 $(pidof restic)", check=True)
    wait_until(lambda: redis.host.run("cat /run/code").stdout == "3\n", "redisctl has exited", 20)
    assert "but was not copied off it" in redis.host.run("cat /run/output; rm /run/output /run/code").stdout
    assert neighbour.run(locks).stdout != "", "killed too late"
    count = len(redisctl(redis, "backup list --offsite")["copies"])

    redis.host.run("redisctl backup --no-verify", check=True)
    # Restic keeps the last one of an hour, and the oldest of all.
    assert len(redisctl(redis, "backup list --offsite")["copies"]) in (count, count + 1)
    newest = redisctl(redis, "backup list")["backups"][0]["id"]
    assert redisctl(redis, "backup list --offsite")["copies"][0]["id"] == newest
    assert neighbour.run(locks).stdout == ""


@pytest.mark.parametrize(
    ("calendar", "message"),
    [("25:00", "Failed to parse calendar specification '25:00'"), ("2020-01-01", "it never comes")],
)
def test_schedule_that_never_comes_is_refused(
    calendar: str, message: str, redis: Instance, deployer: Deployer, settings: dict[str, Any]
) -> None:
    result = deployer.deploy(redis.host, **{**settings, "redis_backup_schedule": calendar})
    assert result.returncode == 1
    assert f"redis_backup_schedule = '{calendar}': this host's systemd reports: {message}" in result.stderr
    assert "Nothing was changed on any host" in result.stderr


def test_repository_password_is_not_replaced(
    redis: Instance, deployer: Deployer, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Another password opens nothing, and the right one would be lost."""
    generation = "/srv/redis/secrets/server/generation"
    with broken(redis.host, f"mv {generation} {generation}.aside", f"mv {generation}.aside {generation}"):
        result = deployer.deploy(redis.host, **{**settings, "redis_secrets_dir": str(tmp_path / "lost")})
    assert result.returncode == 1
    assert "has no password for the backup repository" in result.stderr
    assert redis.host.run(f"cat {SECRETS}/password").stdout == f"{redis.secrets.repository}\n"


def test_backup_units_are_removed_when_not_configured(redis: Instance, deployer: Deployer) -> None:
    off: dict[str, Any] = {"redis_backup_schedule": "", "redis_health_interval": 1}
    result = deployer.deploy(redis.host, **off)
    assert result.returncode == 0, result.stderr
    assert result.changed[-2:] == ["Backup | Remove the backup schedule", "Record | Record the deployed settings"]
    assert f"{SECRETS}: no longer needed" in result.reasons
    leftovers = redis.host.run(
        f"ls -d /etc/systemd/system/redis-backup* /etc/systemd/system/*/redis-backup* {SECRETS} "
        "/var/lib/systemd/timers/*redis*; systemctl list-units --all --plain --no-legend 'redis-backup*'"
    )
    assert leftovers.stdout == ""
    # The copies are still there, and so is their password.
    assert deployer.secrets(redis.host).repository == redis.secrets.repository
