"""Attacks on root by the files of a Redis that was taken over.

The attacks run in the container of Redis, as its user. The tests share one host. Further attacks, which need no host:
tests/redisctl/test_hostile_files.py and tests/unit/test_hostile_data.py.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sandbox.hosts import Host
from tests.deployed_redis import Instance, redisctl, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import empty_instance

ROOT = "/srv/redis"
AOF, MANIFEST = f"{ROOT}/data/live/appendonlydir", "appendonly.aof.manifest"
# Names below which root works, or worked, on data.
WORKING_NAMES = "previous staging staging/new rollback rollback.partial new journal.json import"
# Every file of root that an attack could reach.
ROOTS_FILES = "find /etc /root /usr/local -xdev ! -path '*/redisctl*' -printf '%p %y %U:%G %m %s %T@ %l\\n' | sort"
# Records what somebody connects with and sends. Another user of the host could run it.
LISTENER = """
import os, socket
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind("/tmp/attacker/socket")
    listener.listen()
    connection, _ = listener.accept()
    open("/tmp/attacker/heard", "wb").write(connection.recv(1000))
"""


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """Give the shared host with some sessions and one good backup."""
    with empty_instance(host, deployer, "/tmp/attacker", "/tmp/fifo") as instance:
        instance.call(*(f"SET app:session:{number} x EX 72000" for number in range(50)))
        host.run("redisctl backup", check=True)
        yield instance


@pytest.fixture(autouse=True)
def _harms_no_file_of_root(redis: Instance) -> Iterator[None]:
    """Check that each attack leaves the files of root, and the lock free."""
    before = redis.host.run(ROOTS_FILES, check=True).stdout
    yield
    assert redis.host.run(ROOTS_FILES, check=True).stdout == before
    assert redis.host.run(f"flock --nonblock /run/redoubt-{redis.name}.lock true").returncode == 0
    assert redis.host.run(f"ls -A {ROOT}/backups | grep partial").stdout == ""
    assert redis.call("DBSIZE") == ["50"]


def attack(redis: Instance, script: str) -> None:
    """Run a script as Redis, in its container."""
    redis.host.run("docker exec -i redis sh -e", input=f"cd /data\n{script}\n", check=True)


@contextmanager
def timed(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def backups(redis: Instance) -> list[str]:
    return redis.host.run(f"ls -A {ROOT}/backups", check=True).stdout.split()


def test_prepared_links_lead_root_nowhere(redis: Instance) -> None:
    """A restore and its undo move data through no link that Redis has prepared."""
    attack(redis, f"mkdir staging; for name in {WORKING_NAMES}; do [ -e $name ] || ln -s /etc $name; done")
    attack(redis, "rmdir staging 2>/dev/null || { rm staging/new; rmdir staging; }; ln -s /etc staging")
    redisctl(redis, "restore latest --yes")
    redisctl(redis, "restore --undo --yes")
    assert "rollback.partial" in redis.host.run(f"ls {ROOT}/data/live", check=True).stdout, "the attacked data is back"
    redisctl(redis, "restore --undo --yes")
    redisctl(redis, "restore --discard-previous --yes")
    assert redis.host.run(f"ls -A {ROOT}/data/previous").stdout == ""


@pytest.mark.parametrize(
    ("make", "reason"),
    [("ln -s /etc/shadow", "symbolic link"), ("mkfifo", "not a regular file"), ("truncate -s 8T", "free some space")],
)
def test_scheduled_backup_takes_no_other_file(redis: Instance, make: str, reason: str) -> None:
    """A manifest names a file that Redis cannot read, a FIFO, or a file of terabytes.

    Redis can read its backups. The backup unit fails, and leaves nothing.
    """
    before = backups(redis)
    attack(
        redis,
        f"cd appendonlydir; cp {MANIFEST} /data/kept; {make} evil.incr.aof; "
        f"echo 'file evil.incr.aof seq 99 type i' >> {MANIFEST}",
    )
    try:
        with timed(60):
            assert redis.host.run("systemctl start redis-backup.service").returncode != 0
        log = redis.host.run("journalctl --unit redis-backup.service --lines 12 --output cat", check=True).stdout
        assert reason in log
        assert backups(redis) == before
    finally:
        attack(redis, f"cat kept > appendonlydir/{MANIFEST}; rm kept appendonlydir/evil.incr.aof")
    redis.host.run("systemctl reset-failed redis-backup.service; redisctl backup", check=True)


def test_hard_links_to_files_of_root_cannot_be_made(redis: Instance) -> None:
    """The kernel makes none between two mounts."""
    result = redis.host.run("docker exec redis sh -c 'ln /etc/redis/users.acl /data/link || ln /etc/passwd /data/link'")
    assert result.returncode != 0
    assert result.stderr.count("Invalid cross-device link") == 2, result.stderr
    assert redis.host.run(f"test -e {ROOT}/data/live/link").returncode != 0


def test_linked_aof_is_not_followed(redis: Instance) -> None:
    """Health and repair read no other directory. A restore replaces the link."""
    attack(redis, "mv appendonlydir real; ln -s /etc appendonlydir")
    health = redis.host.run("redisctl health").stdout
    assert "symbolic link" in health
    redis.host.run("docker kill redis", check=True)
    repair = redis.host.run("redisctl repair --yes")
    assert repair.returncode == 3
    assert "symbolic link" in repair.stderr
    redisctl(redis, "restore latest --yes")
    assert redis.host.run(f"test -d {AOF} -a ! -L {AOF}").returncode == 0
    redisctl(redis, "restore --discard-previous --yes")


def test_linked_socket_gets_no_password(redis: Instance) -> None:
    """A link to a socket of another user replaces the socket of Redis."""
    redis.host.run("install -d -m 777 /tmp/attacker", check=True)
    redis.host.run(f"nohup python3 -c '{LISTENER}' >/dev/null 2>&1 &", check=True)
    wait_until(lambda: redis.host.run("test -S /tmp/attacker/socket").returncode == 0, "the attacker listens", 10)
    attack(redis, "cd /run/redis; mv redis.sock kept; ln -s /tmp/attacker/socket redis.sock")
    try:
        for verb in ("health", "backup", "stats"):
            result = redis.host.run(f"redisctl {verb}")
            assert result.returncode != 0, verb
        assert "symbolic link" in redis.host.run("redisctl backup").stderr
    finally:
        attack(redis, "cd /run/redis; mv kept redis.sock")
    assert redis.host.run("test -e /tmp/attacker/heard").returncode != 0, "redisctl connected to the attacker"
    # The listener does record what it gets.
    redis.host.run(
        "python3 -c \"import socket; s = socket.socket(socket.AF_UNIX); s.connect('/tmp/attacker/socket'); "
        "s.send(b'x')\"; sleep 1; grep x /tmp/attacker/heard",
        check=True,
    )


@pytest.mark.parametrize("make", ["ln -s /etc/passwd", "mkfifo", "truncate -s 8T"])
def test_replaced_log_is_neither_read_nor_rotated(redis: Instance, make: str) -> None:
    """Root's tools read no other file, wait for no FIFO, and compress nothing."""
    attack(redis, f"cd /var/log/redis; mv redis.log kept; {make} redis.log; {make} redis.log.1; {make} redis.log.2")
    rotate = "logrotate --force --state /run/attack.logrotate /etc/logrotate.d/redis; rm /run/attack.logrotate"
    try:
        with timed(45):
            for command in ("redisctl log", "redisctl health", rotate, "redisctl health --json"):
                output = redis.host.run(f"timeout 30 sh -c '{command}'")
                assert output.returncode != 124, f"{command} hangs"
                assert "root:x:0" not in output.stdout + output.stderr
    finally:
        attack(redis, "cd /var/log/redis; rm -f redis.log*; mv kept redis.log")
    assert "Ready to accept connections" in redis.host.run("redisctl log", check=True).stdout


def test_container_output_cannot_control_the_terminal(redis: Instance) -> None:
    """Redis can print what it likes, also without line breaks."""
    attack(redis, r"printf '\033]0;owned\007 [red]x[/x]\n' >/proc/1/fd/1; yes | tr -d '\n' | head -c 2M >/proc/1/fd/1")
    attack(redis, r"printf '\n\033[31mlast\n' >/proc/1/fd/1")
    for options in ("--last 1000", "--last 1000 --json"):
        shown = redis.host.run(f"redisctl log --container {options}", check=True).stdout
        assert not set(shown) & set("\x1b\x07")
        assert "[31mlast" in shown
        assert len(shown) < 600_000
    assert "[31mlast" in redis.host.run("redisctl log --container --last 1", check=True).stdout


def test_filled_log_is_rotated_within_an_hour(redis: Instance) -> None:
    """A log that Redis fills does not wait for the host's daily rotation."""
    timer = redis.host.run("systemctl show redis-logs.timer --property TimersCalendar,ActiveState", check=True).stdout
    assert "OnCalendar=*-*-* *:17:00" in timer
    assert "ActiveState=active" in timer
    attack(redis, "head -c 30M /dev/zero >> /var/log/redis/redis.log")
    assert "redis.log has 30" in redis.host.run("redisctl health").stdout
    redis.host.run("systemctl start redis-logs.service", check=True)
    assert "redis.log has 30" not in redis.host.run("redisctl health").stdout
    assert int(redis.host.run(f"stat -c %s {ROOT}/logs/redis.log.1", check=True).stdout) > 30 * 1024**2
    # A log below the size waits for the rotation of the day.
    attack(redis, "echo small >> /var/log/redis/redis.log")
    redis.host.run("systemctl start redis-logs.service", check=True)
    assert redis.host.run(f"grep -c small {ROOT}/logs/redis.log", check=True).stdout == "1\n"


def test_fifo_as_restore_input_is_refused(redis: Instance) -> None:
    redis.host.run("rm -rf /tmp/fifo; mkdir /tmp/fifo; mkfifo /tmp/fifo/dump.rdb", check=True)
    redis.host.run("mkdir /tmp/fifo/aof; mkfifo /tmp/fifo/aof/appendonly.aof.manifest", check=True)
    redis.host.run("mkdir /tmp/fifo/backup; mkfifo /tmp/fifo/backup/backup.json", check=True)
    for name in ("dump.rdb", "aof", "backup"):
        result = redis.host.run(f"timeout 20 redisctl restore /tmp/fifo/{name} --yes")
        assert (result.returncode, "not a regular file" in result.stderr) == (3, True), result.stderr
    redis.host.run("rm -r /tmp/fifo", check=True)


def test_masses_of_files_stop_no_verb(redis: Instance) -> None:
    """100,000 names in a directory, directories 2000 deep, a name with escapes."""
    nest = "import os\\nfor _ in range(2000): os.mkdir('d'); os.chdir('d')"
    as_redis = "setpriv --reuid 999 --regid 999 --clear-groups"
    redis.host.run(f'cd {ROOT}/data/live && printf "{nest}" | {as_redis} python3 -', check=True)
    attack(redis, "cd appendonlydir; seq -f %.0f.base.rdb 100000 | xargs touch; touch \"$(printf 'x\\n\\033[2J')\"")
    with timed(90):
        health = redis.host.run("redisctl health")
        assert "more than 10000 files" in health.stdout
        assert "\033" not in health.stdout
        redis.host.run(f'printf \'%s\' \'{{"name": "redis", "root": "{ROOT}"}}\' | redisctl state', check=True)
        redisctl(redis, "restore latest --yes")
        redisctl(redis, "restore --discard-previous --yes")
    assert redis.host.run(f"ls -A {ROOT}/data/previous").stdout == ""
