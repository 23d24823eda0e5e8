"""Backups that a host takes by itself, and their copies on another host: there, whole, and opened by nobody else.

Copies go over SFTP to a second host, by the user operator, who may do no more there than any user.
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
from tests.lifecycle.conftest import Deployer
from tests.lifecycle.deployed_redis import Instance, refused, wait_until
from tests.lifecycle.test_secrets_exposure import KnownSecrets, known_secrets, leaked_files, watch_processes

UNIT, TIMER = "redis-backup.service", "redis-backup.timer"
SECRETS = "/srv/redis/secrets/repository"
# Below the home of the user who logs in.
COPIES = "/home/operator/redis-1"


@pytest.fixture(scope="module")
def neighbour(start_host: Callable[..., Host]) -> Iterator[Host]:
    """Where the copies go: it knows nothing of Redis."""
    neighbour = start_host("lifecycle-bare", image="bare")
    neighbour.run("cp -p /home/operator/.ssh/authorized_keys /run/authorized_keys", check=True)
    yield neighbour
    neighbour.run(f"cp -p /run/authorized_keys /home/operator/.ssh/authorized_keys; rm -rf {COPIES}", check=True)


@pytest.fixture(scope="module")
def files(neighbour: Host, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A key by which the backups' user is let in at the neighbour's, and what its SSH server is known by."""
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
    """Backups at another time than by default, and copied to the neighbour."""
    return {
        "redis_backup_schedule": "Mon..Fri 04:30 Europe/Berlin",
        "redis_backup_randomized_delay": 600,
        "redis_backup_restic_repository": f"sftp:operator@{neighbour.address}:redis-1",
        "redis_backup_repository_files": files,
        # Deploys that do not wait for others to be seen.
        "redis_health_interval": 1,
    }


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer, settings: dict[str, Any]) -> Iterator[Instance]:
    """The shared host with a schedule, no backups, and data of which restic cannot make less."""
    traces = "/srv/redis/backups/* /srv/redis/backups/.attempt.json /srv/redis/redisctl.lock"
    host.run(f"rm -rf {traces}")
    result = deployer.deploy(host, **settings)
    assert result.returncode == 0, result.stderr
    instance = Instance(host, deployer.secrets(host, **settings))
    with instance.client("queues") as client:
        client.set("rq:of-the-backup", os.urandom(2_000_000))
    yield instance
    with instance.client("queues") as client:
        client.delete("rq:of-the-backup", "rq:much")
    host.run(f"rm -rf {traces}; dpkg --purge restic")


def told(redis: Instance, line: str) -> Any:
    """What a verb says in JSON."""
    done = redis.host.run(f"redisctl {line} --json")
    assert (done.returncode, done.stderr) == (0, ""), (line, done.stderr)
    return json.loads(done.stdout)


def contents(host: Host, name: str) -> str:
    """Every file of a backup with owner, mode and digest."""
    return host.run(
        f"cd /srv/redis/backups/{name} && find . -printf '%p %U:%G %m\\n' | sort && "
        "find . -type f | sort | xargs sha256sum",
        check=True,
    ).stdout


def test_systemd_takes_backups_when_the_settings_say(
    redis: Instance, deployer: Deployer, settings: dict[str, Any]
) -> None:
    shown = redis.host.run(
        f"systemctl show {TIMER} --property ActiveState,UnitFileState,TimersCalendar,RandomizedDelayUSec,Persistent",
        check=True,
    ).stdout
    for words in (
        *("ActiveState=active", "UnitFileState=enabled", "RandomizedDelayUSec=10min", "Persistent=yes"),
        "OnCalendar=Mon..Fri *-*-* 04:30:00 Europe/Berlin ",
    ):
        assert words in shown
    listed = redis.host.run(f"systemctl list-timers --output json {TIMER}", check=True)
    assert [timer["activates"] for timer in json.loads(listed.stdout)] == [UNIT]
    again = deployer.deploy(redis.host, **settings)
    assert (again.returncode, again.changed) == (0, []), again.stderr

    redis.host.run(f"systemctl start {UNIT}", check=True)
    (taken,) = told(redis, "backup list")["backups"]
    assert taken["verified"]["verdict"] == "ok"
    assert [copy["id"] for copy in told(redis, "backup list --offsite")["copies"]] == [taken["id"]]
    assert (
        f"backup {taken['id']}: {taken['keys']} keys" in redis.host.run(f"journalctl --unit {UNIT} --output cat").stdout
    )
    assert told(redis, "health")["verdict"] == "ok"


def test_a_copy_comes_back_byte_for_byte_and_is_good(redis: Instance) -> None:
    name = told(redis, "backup list")["backups"][0]["id"]
    before = contents(redis.host, name)
    assert "is here already" in refused(redis, "backup fetch latest")
    redis.host.run(f"rm -r /srv/redis/backups/{name}", check=True)
    assert told(redis, f"backup fetch {name[:12]}")["id"] == name
    assert contents(redis.host, name) == before
    assert told(redis, "backup verify latest")["verified"]["verdict"] == "ok"
    redis.host.run("redisctl backup check", check=True)


def test_redis_cannot_touch_what_was_backed_up(redis: Instance) -> None:
    name = told(redis, "backup list")["backups"][0]["id"]
    for command in (f"rm /backups/{name}/dump.rdb", f"sh -c 'echo >/backups/{name}/dump.rdb'", "touch /backups/x"):
        done = redis.host.run(f"docker exec --env LC_ALL=C redis {command}")
        assert (done.returncode != 0, "Read-only file system" in done.stderr) == (True, True), done


def test_what_opens_the_copies_is_root_s_and_shown_to_nobody(
    redis: Instance, deployer: Deployer, files: dict[str, str], neighbour: Host
) -> None:
    """Processes, logs and files of both hosts; the neighbour is not told the password."""
    found = redis.host.run(f"cd {SECRETS} && stat --format '%n %u:%g %a' . *", check=True).stdout.splitlines()
    assert found == [". 0:0 700", *(f"{name} 0:0 400" for name in ("known", "known_hosts", "password", "ssh_key"))]
    secrets = known_secrets(redis.host, deployer.secrets_dir)
    more = {"repository": redis.secrets.repository, "ssh_key": Path(files["ssh_key"]).read_text().splitlines()[3]}
    assert redis.host.run(f"cat {SECRETS}/password").stdout == f"{more['repository']}\n"
    everything = KnownSecrets({**secrets.values, **more})

    with watch_processes(redis.host) as seen:
        redis.host.run(f"systemctl start {UNIT}", check=True)
        processes = seen()
    assert all(words in processes for words in ("restic --repo sftp:", "ssh -F none -E", " backup --host"))
    log = redis.host.run("journalctl --all --output=cat --since -1hour", check=True).stdout
    for place, text in (("processes", processes), ("log", log)):
        named = everything.found_in(text)
        assert named == [], place
    assert leaked_files(redis.host, everything) == []
    assert leaked_files(neighbour, everything) == []


@contextmanager
def harmed(host: Host, harm: str, cure: str) -> Iterator[None]:
    """Something is wrong meanwhile."""
    host.run(harm, check=True)
    try:
        yield
    finally:
        host.run(cure, check=True)


def test_a_copy_that_cannot_be_made_is_a_failed_unit_until_one_is(redis: Instance, neighbour: Host) -> None:
    route = f"unreachable {neighbour.address}"
    with harmed(redis.host, f"ip route add {route}", f"ip route del {route}"):
        assert redis.host.run(f"systemctl start {UNIT}").returncode == 1
        assert UNIT in redis.host.run("systemctl --failed --plain --no-legend").stdout
        log = redis.host.run(f"journalctl --unit {UNIT} --output cat --lines 5").stdout
        assert "was taken and is here, but not off this host: sftp:operator@" in log
        assert "No route to host" in log
        assert "No route to host" in refused(redis, "backup list --offsite")
        done = redis.host.run("redisctl health --json")
        seen = {check["name"]: check["observed"] for check in json.loads(done.stdout)["checks"]}
        assert done.returncode == 2
        assert "failed: backup 2" in seen["backup"]
        assert "No route to host" in seen["backup"]
    # What was taken here counts all the same.
    assert told(redis, "backup verify latest")["verified"]["verdict"] == "ok"
    redis.host.run(f"systemctl start {UNIT}", check=True)
    assert redis.host.run("systemctl --failed --plain --no-legend").stdout == ""
    assert told(redis, "health")["verdict"] == "ok"


@pytest.mark.parametrize(
    ("harm", "cure", "words"),
    [
        pytest.param(
            f"cp -p {SECRETS}/password /run/kept; echo of-another-repository-0123456789 >{SECRETS}/password",
            f"cp -p /run/kept {SECRETS}/password",
            "wrong password or no key found. Another instance made the repository",
            id="password",
        ),
        pytest.param(
            f"cp -p {SECRETS}/known_hosts /run/kept; ssh-keygen -q -t ed25519 -N '' -f /run/other; "
            f"sed 's/ .*//' /run/kept | tr '\\n' ' ' | cat - /run/other.pub >{SECRETS}/known_hosts",
            f"cp -p /run/kept {SECRETS}/known_hosts; rm /run/other*",
            "Host key verification failed.",
            id="host-key",
        ),
        pytest.param(
            f"cp -p {SECRETS}/ssh_key /run/kept; ssh-keygen -q -t ed25519 -N '' -f /run/other; "
            f"cat /run/other >{SECRETS}/ssh_key",
            f"cp -p /run/kept {SECRETS}/ssh_key; rm /run/other*",
            "Permission denied (publickey",
            id="key",
        ),
    ],
)
def test_who_does_not_get_in_is_told_why(redis: Instance, harm: str, cure: str, words: str) -> None:
    with harmed(redis.host, harm, f"{cure}; rm /run/kept"):
        # Once: a server of today shuts out for a while who fails more often.
        assert words in refused(redis, "backup --no-verify")


def test_a_password_that_is_wrong_lists_nothing(redis: Instance) -> None:
    with harmed(
        redis.host,
        f"cp -p {SECRETS}/password /run/kept; echo of-another-repository-0123456789 >{SECRETS}/password",
        f"cp -p /run/kept {SECRETS}/password; rm /run/kept",
    ):
        for verb in ("backup list --offsite", "backup fetch latest", "backup check"):
            assert "wrong password or no key found" in refused(redis, verb)


def test_a_repository_that_is_gone_is_not_made_anew(redis: Instance, neighbour: Host) -> None:
    """It may be a disk that is not mounted there."""
    with harmed(neighbour, f"mv {COPIES} {COPIES}.aside", f"mv {COPIES}.aside {COPIES}"):
        assert "has no repository any more: is it not mounted" in refused(redis, "backup --no-verify")
        assert neighbour.run(f"ls {COPIES}").returncode != 0


def test_a_copy_that_was_killed_is_not_in_the_way_of_the_next(redis: Instance, neighbour: Host) -> None:
    with redis.client("queues") as client:
        client.set("rq:much", os.urandom(40_000_000))
    locks = f"ls {COPIES}/locks"
    redis.host.run("{ redisctl backup --no-verify >/run/said 2>&1; echo $? >/run/ended; } </dev/null >/dev/null 2>&1 &")
    # restic's lock is there, and its copy is under way.
    neighbour.run(f'for _ in $(seq 1000); do [ -z "$({locks})" ] || exit 0; sleep 0.02; done; exit 1', check=True)
    redis.host.run("kill -9 $(pidof restic)", check=True)
    wait_until(lambda: redis.host.run("cat /run/ended").stdout == "3\n", "redisctl has ended", 20)
    assert "but not off this host" in redis.host.run("cat /run/said; rm /run/said /run/ended").stdout
    assert neighbour.run(locks).stdout != "", "killed too late"
    count = len(told(redis, "backup list --offsite")["copies"])

    redis.host.run("redisctl backup --no-verify", check=True)
    # Of one hour restic keeps the last, and the oldest of all.
    assert len(told(redis, "backup list --offsite")["copies"]) in (count, count + 1)
    newest = told(redis, "backup list")["backups"][0]["id"]
    assert told(redis, "backup list --offsite")["copies"][0]["id"] == newest
    assert neighbour.run(locks).stdout == ""


@pytest.mark.parametrize(
    ("calendar", "words"),
    [("25:00", "Failed to parse calendar specification '25:00'"), ("2020-01-01", "it never comes")],
)
def test_a_time_that_never_comes_is_refused_before_anything_is_changed(
    calendar: str, words: str, redis: Instance, deployer: Deployer, settings: dict[str, Any]
) -> None:
    result = deployer.deploy(redis.host, **{**settings, "redis_backup_schedule": calendar})
    assert result.returncode == 1
    assert f"redis_backup_schedule = '{calendar}': this host's systemd reports: {words}" in result.stderr
    assert "nothing was changed on any host" in result.stderr


def test_another_password_of_the_repository_is_not_put_in_its_place(
    redis: Instance, deployer: Deployer, settings: dict[str, Any], tmp_path: Path
) -> None:
    """It opens nothing, and the one that does would be lost."""
    generation = "/srv/redis/secrets/server/generation"
    with harmed(redis.host, f"mv {generation} {generation}.aside", f"mv {generation}.aside {generation}"):
        result = deployer.deploy(redis.host, **{**settings, "redis_secrets_dir": str(tmp_path / "lost")})
    assert result.returncode == 1
    assert "has no password of the repository of backups" in result.stderr
    assert redis.host.run(f"cat {SECRETS}/password").stdout == f"{redis.secrets.repository}\n"


def test_without_a_calendar_and_a_repository_nothing_of_them_is_left(redis: Instance, deployer: Deployer) -> None:
    off: dict[str, Any] = {"redis_backup_schedule": "", "redis_health_interval": 1}
    result = deployer.deploy(redis.host, **off)
    assert result.returncode == 0, result.stderr
    assert result.changed[-1] == "Backup | Remove the backup schedule"
    assert f"{SECRETS}: no longer needed" in result.reasons
    left = redis.host.run(
        f"ls -d /etc/systemd/system/redis-* /etc/systemd/system/*/redis-* {SECRETS} /var/lib/systemd/timers/*redis*; "
        "systemctl list-units --all --plain --no-legend 'redis-*'"
    )
    assert left.stdout == ""
    again = deployer.deploy(redis.host, **off)
    assert (again.returncode, again.changed) == (0, []), again.stderr
    # The copies are there, and what opens them.
    assert deployer.secrets(redis.host).repository == redis.secrets.repository
