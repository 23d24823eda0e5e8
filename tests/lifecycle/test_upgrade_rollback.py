"""A new version that is not healthy: the previous one comes back by itself, with its data and its files.

The same holds if the upgrade is interrupted at any stage. The tests share one host and run in order.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redisctl.core.journal import Stage
from sandbox.hosts import Host
from tests.deployed_redis import Instance, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import remove_instance
from tests.lifecycle.interruption import (
    cut_power,
    is_recovered,
    pause_at,
    wait_until_paused,
    wait_until_recovered,
)
from tests.lifecycle.test_valkey import assert_no_change, assert_runs, settings_for

# Scripts that replace a program of a newer version. Each passes everything that is tried next to the running version.
BROKEN = {
    # It serves and writes its own format; only the health check does not reach it.
    "unhealthy": ("redis-cli", 'case "$*" in -s*) exec valkey-cli "$@" ;; esac; echo broken >&2; exit 1'),
    # As the service it exits at once.
    "ends": ("redis-server", '[ "$*" != /etc/redis/redis.conf ] || exit 1; exec valkey-server "$@"'),
}
# The version that runs, under another number: an upgrade that succeeds, and can be taken back.
RENUMBERED = (
    "redis-server",
    '[ "$*" != --version ] || { valkey-server --version | sed "s/v=8.1.[0-9]*/v=8.1.99/"; exit; }; '
    'exec valkey-server "$@"',
)
QUICK: dict[str, Any] = {"redis_health_interval": 2, "redis_health_retries": 3, "redis_health_start_period": 5}
FILES = "cd /srv/redis && find compose.yml config secrets -type f -exec sha256sum {} + | sort"
BACK = "the previous version is back and serves its data"


@pytest.fixture(scope="module")
def own(start_host: Callable[..., Host]) -> Iterator[Host]:
    """A host of its own, for data that another version wrote."""
    host = start_host("lifecycle-rollback")
    yield host
    host.down()


@pytest.fixture(scope="module")
def previous() -> dict[str, Any]:
    """Settings of the version that serves."""
    return {**settings_for("valkey"), **QUICK}


@pytest.fixture(scope="module")
def server(own: Host, deployer: Deployer, previous: dict[str, Any]) -> Instance:
    """The version that serves, on a host that also has broken images of a newer one."""
    newer = settings_for("valkey-testing")
    first = deployer.deploy(own, **newer, redis_allow_vulnerable_version=True)
    assert first.returncode == 0, first.stderr
    for name, (program, script) in BROKEN.items():
        make_image(own, newer["redis_image"], name, program, script)
    remove_instance(own, image=False)
    served = deployer.deploy(own, **previous)
    assert served.returncode == 0, served.stderr
    make_image(own, previous["redis_image"], "renumbered", *RENUMBERED)
    return Instance(own, deployer.secrets(own))


def make_image(host: Host, base: str, name: str, program: str, script: str) -> None:
    """Make an image in which a script replaces a program."""
    change = f'rm /usr/bin/{program}; printf "%s\\n" "#!/bin/sh" "$1" >/usr/bin/{program}; chmod 755 /usr/bin/{program}'
    host.run(
        f"docker run --network none --user 0 --name donor --entrypoint sh {base} -c '{change}' sh "
        f"\"$(cat)\" && docker commit --change 'ENTRYPOINT []' --change 'CMD [\"redis-server\"]' "
        f"--change 'USER root' donor {reference(name)} && docker rm donor",
        input=script,
        check=True,
    )


def reference(name: str) -> str:
    return f"registry.example.com/valkey:{name}"


def newer(name: str) -> dict[str, Any]:
    """Settings that deploy a newer version, and change what the previous one was created from and reads."""
    return {
        **QUICK,
        "redis_engine": "valkey",
        "redis_image": reference(name),
        "redis_image_source": "registry",
        "redis_image_archive": None,
        "redis_allow_vulnerable_version": True,
        "redis_maxmemory": "300mb",
        "redis_tcp_backlog": 300,
    }


def power_cut_settings(policy: str) -> dict[str, Any]:
    """Settings of the tests that cut the power. The backup before each upgrade is not loaded, to save time."""
    return {"redis_restart": policy, "redis_upgrade_verify": False}


def write(server: Instance, value: str) -> None:
    assert server.call(f"SET app:session:1 {value} EX 7200", user="sessions") == ["OK"]
    assert server.call("DEL rq:queue:default", f"RPUSH rq:queue:default {value}", user="queues")[1] == "1"


def read_files(server: Instance) -> str:
    """Return the digests of the configuration and the secrets."""
    return server.host.run(FILES, check=True).stdout


def answers(server: Instance) -> bool:
    output = server.host.run("docker exec redis redis-cli -s /run/redis/redis.sock PING").stdout
    return "PONG" in output or "NOAUTH" in output


def assert_back(server: Instance, value: str, files: str) -> None:
    """Check that everything is as it was, and that nothing is left of the upgrade except previous data."""
    assert_runs(server, "8.1")
    assert server.health == "healthy"
    assert server.call("GET app:session:1", user="sessions") == [value]
    assert server.call("LRANGE rq:queue:default 0 -1", user="queues") == [value]
    assert read_files(server) == files
    assert_nothing_kept(server)


def assert_nothing_kept(server: Instance) -> None:
    assert is_recovered(server.host)
    assert server.host.run("ls -d /srv/redis/rollback* /srv/redis/data/rollback*").stdout == ""


def discard_previous_data(server: Instance) -> None:
    server.host.run("rm -rf /srv/redis/data/previous", check=True)


@pytest.mark.parametrize("name", [pytest.param("unhealthy", marks=pytest.mark.core), "ends"])
def test_failed_upgrade_is_rolled_back(
    server: Instance, deployer: Deployer, previous: dict[str, Any], name: str
) -> None:
    write(server, name)
    server.host.run(": >/srv/redis/logs/redis.log", check=True)
    files = read_files(server)
    result = deployer.deploy(server.host, **newer(name))
    assert result.returncode == 1
    assert BACK in result.stderr, result.stderr
    # Only what was written after a rewrite is copied while Redis is down.
    log = server.host.run("cat /srv/redis/logs/redis.log", check=True).stdout
    assert "AOF rewrite terminated with success" in log.partition("User requested shutdown")[0], log
    assert_back(server, name, files)
    kept = server.host.run("find /srv/redis/data/previous -name '*.rdb'", check=True).stdout
    assert kept, "what the new version found and wrote is kept"
    assert_no_change(deployer, server.host, previous)
    discard_previous_data(server)


def interrupt(server: Instance, deployer: Deployer) -> None:
    """Deploy a new version, have it write, and kill on the host what waits for it to be healthy.

    systemd's recovery is switched off, so that the state in between can be examined.
    """
    before = server.inspect()["Id"]
    under_way = deployer.start(server.host, **newer("unhealthy"))
    wait_until(lambda: server.inspect().get("Id", before) != before, "the new version is started", 120)
    wait_until(lambda: answers(server), "the new version serves", 10)
    write(server, "newer")
    # Not before: the deploy starts the unit again.
    server.host.run("systemctl stop redis-recover.path redis-recover.service", check=True)
    kill_redisctl(server)
    assert under_way.wait().returncode != 0
    server.host.run("test -d /srv/redis/data/rollback && test -s /srv/redis/rollback/image", check=True)


def kill_redisctl(server: Instance) -> None:
    server.host.run("pkill -KILL -f '[r]edisctl deploy start-service'; pkill -KILL -f 'docker[- ]compose'", check=True)


def test_interrupted_upgrade_is_reported_and_finished(
    server: Instance, deployer: Deployer, previous: dict[str, Any]
) -> None:
    """The health check is critical, a removal is refused, and the next deploy finishes it."""
    host = server.host
    write(server, "reported")
    files = read_files(server)
    interrupt(server, deployer)
    health = host.run("redisctl health")
    assert (health.returncode, "CRITICAL" in health.stdout.upper()) == (2, True), health.stdout
    assert "the new version is not healthy yet" in health.stdout, health.stdout
    removal = deployer.deploy(host, job="day2/remove.py", **previous)
    assert (removal.returncode, "start of redis was interrupted" in removal.stderr) == (1, True), removal.stderr

    again = deployer.deploy(host, **newer("unhealthy"))
    assert again.returncode == 1
    assert "start of redis was interrupted: finishing it first" in again.stderr, again.stderr
    assert BACK in again.stderr, again.stderr
    assert_back(server, "reported", files)
    assert_no_change(deployer, host, previous)
    discard_previous_data(server)


def test_restore_finishes_an_interrupted_upgrade_first(
    server: Instance, deployer: Deployer, previous: dict[str, Any]
) -> None:
    host = server.host
    write(server, "restored")
    files = read_files(server)
    interrupt(server, deployer)
    restored = host.run("redisctl restore latest --yes")
    assert restored.returncode == 0, restored.stderr
    assert BACK in restored.stderr, restored.stderr
    host.run("systemctl start redis-recover.path", check=True)
    # Docker runs the health check of a Redis that a restore started only after an interval.
    wait_until(lambda: server.health == "healthy", "Docker calls the restored Redis healthy", 30)
    # The newest backup is the one that the upgrade took.
    assert_back(server, "restored", files)
    assert_no_change(deployer, host, previous)
    discard_previous_data(server)


def test_deploying_the_previous_version_gives_the_upgrade_up(
    server: Instance, deployer: Deployer, previous: dict[str, Any]
) -> None:
    """What the new version wrote stays as previous data."""
    host = server.host
    write(server, "older")
    files = read_files(server)
    interrupt(server, deployer)
    given_up = deployer.deploy(host, **previous)
    assert given_up.returncode == 0, given_up.stderr
    assert BACK in given_up.stderr, given_up.stderr
    assert_back(server, "older", files)
    assert host.run("cat /srv/redis/data/previous/*/appendonlydir/*.incr.aof", check=True).stdout.count("newer") >= 2
    assert_no_change(deployer, host, previous)
    discard_previous_data(server)


@pytest.mark.parametrize("policy", ["always", "unless-stopped"])
def test_power_cut_in_a_failing_upgrade_rolls_back(
    server: Instance, deployer: Deployer, previous: dict[str, Any], policy: str
) -> None:
    """At every stage, with a new version that is not healthy after the power cut either."""
    host, settings = server.host, power_cut_settings(policy)
    assert deployer.deploy(host, **previous, **settings).returncode == 0
    write(server, policy)
    files = read_files(server)
    stages = (
        *(Stage.PREPARED, Stage.STOPPED, Stage.STARTING),
        *(Stage.ROLLING_BACK, Stage.RESTARTING_OLD, Stage.FINISHING),
    )
    for stage in stages:
        pause_at(host, stage)
        under_way = deployer.start(host, **{**newer("unhealthy"), **settings})
        wait_until_paused(host, 180)
        host.run(": >/srv/redis/logs/redis.log", check=True)
        cut_power(host)
        assert under_way.wait().returncode == 1
        wait_until_recovered(host, 240)
        if stage in (Stage.STOPPED, Stage.STARTING):
            # What Docker's start of the previous version accepts from clients would be lost by the rollback.
            first = host.run("grep -m 1 -o 'version=[0-9.]*' /srv/redis/logs/redis.log", check=True).stdout
            assert not first.startswith("version=8.1"), first
        wait_until(lambda: server.health == "healthy", f"the previous version is back after {stage.value}", 60)
        if stage not in (Stage.RESTARTING_OLD, Stage.FINISHING):
            log = host.run("journalctl --boot --unit redis-recover.service", check=True).stdout
            assert BACK in log, log
        assert_back(server, policy, files)
        assert server.inspect()["HostConfig"]["RestartPolicy"]["Name"] == policy
        discard_previous_data(server)
    assert_no_change(deployer, host, {**previous, **settings})


@pytest.mark.parametrize("policy", ["always", "unless-stopped"])
def test_power_cut_in_an_upgrade_ends_in_the_new_version(
    server: Instance, deployer: Deployer, previous: dict[str, Any], policy: str
) -> None:
    """At every stage, with a new version that is healthy."""
    host, settings = server.host, power_cut_settings(policy)
    assert deployer.deploy(host, **previous, **settings).returncode == 0
    write(server, policy)
    for stage in (Stage.PREPARED, Stage.STOPPED, Stage.STARTING, Stage.FINISHING):
        pause_at(host, stage)
        under_way = deployer.start(host, **{**newer("renumbered"), **settings})
        wait_until_paused(host, 180)
        cut_power(host)
        assert under_way.wait().returncode == 1
        wait_until_recovered(host, 120)
        wait_until(lambda: server.health == "healthy", f"the new version is healthy after {stage.value}", 60)
        inspected = server.inspect()
        assert inspected["Config"]["Image"] == reference("renumbered")
        assert inspected["HostConfig"]["RestartPolicy"]["Name"] == policy
        assert server.call("GET app:session:1", user="sessions") == [policy]
        assert server.config("tcp-backlog") == "300"
        assert_nothing_kept(server)
        back = deployer.deploy(host, **previous, **settings)
        assert back.returncode == 0, back.stderr


@pytest.mark.parametrize(
    ("fills", "message"),
    [
        # Less than the AOF takes, in bytes and in files: the first is noticed before Redis stops, the second is not.
        (
            'head -c "$(($(df --output=avail --block-size=1 . | tail -n 1) - 2097152))" /dev/zero >.other',
            "was left alone",
        ),
        (
            "mount -o remount,nr_inodes=$(($(df --output=iused . | tail -n 1) + 5)) .",
            "the data cannot be kept for a rollback",
        ),
    ],
    ids=["bytes", "files"],
)
def test_full_disk_stops_an_upgrade_and_redis_runs(
    fills: str, message: str, server: Instance, deployer: Deployer, previous: dict[str, Any]
) -> None:
    host, data = server.host, "/srv/redis/data"
    small = {**previous, "redis_maxmemory": "40mb"}
    host.run(f"docker rm -f redis; rm -rf {data}/* && mount -t tmpfs -o size=256m,mode=700 tmpfs {data}", check=True)
    try:
        served = deployer.deploy(host, **small)
        assert served.returncode == 0, served.stderr
        write(server, "kept")
        # In an RDB snapshot it is compressed to almost nothing, in the AOF it is not.
        assert server.call(f"SET app:session:long {'a' * 5_000_000}") == ["OK"]
        files, before = host.run(FILES, check=True).stdout, server.inspect()["State"]["StartedAt"]
        under_way = deployer.start(host, **{**newer("unhealthy"), "redis_maxmemory": "48mb"})
        # A disk that is full before the backup is noticed there, and nothing begins.
        under_way.wait_for("Starting operation: Secrets | Write the secrets", 180)
        host.run(f"cd {data} && {fills}", check=True)
        result = under_way.wait()
        assert result.returncode == 1
        assert message in result.stderr, result.stderr
        assert (server.inspect()["State"]["StartedAt"] == before) == ("left alone" in message)
        wait_until(lambda: server.health == "healthy", "the previous version is back", 60)
        assert_back(server, "kept", files)
        assert server.call("STRLEN app:session:long") == ["5000000"]
        assert_no_change(deployer, host, small)
    finally:
        host.run(f"docker rm -f redis; umount {data}", check=True)
