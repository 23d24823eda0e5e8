"""Rollback of a new version that is not healthy.

The previous version comes back by itself, with its data and its files. The same holds if the upgrade is interrupted at
any stage. The tests share one host and run in order.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from redisctl.core.journal import Stage
from sandbox.hosts import Host
from tests.deployed_redis import Instance, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import assert_no_change, remove_instance, settings_for
from tests.lifecycle.interruption import cut_power, cut_power_in_deploy, is_finished
from tests.lifecycle.test_valkey import assert_runs

# Scripts that replace a program of a newer version. Each passes the checks that run next to the running version.
BROKEN = {
    # It serves and writes its own format; only the health check does not reach it.
    "unhealthy": ("redis-cli", 'case "$*" in -s*) exec valkey-cli "$@" ;; esac; echo broken >&2; exit 1'),
    # As the service it exits at once.
    "exits": ("redis-server", '[ "$*" != /etc/redis/redis.conf ] || exit 1; exec valkey-server "$@"'),
}
# The version that runs, under another number: an upgrade that succeeds, from which the tests can return.
RENUMBERED = (
    "redis-server",
    '[ "$*" != --version ] || { valkey-server --version | sed "s/v=8.1.[0-9]*/v=8.1.99/"; exit; }; '
    'exec valkey-server "$@"',
)
QUICK: dict[str, Any] = {"redis_health_interval": 2, "redis_health_retries": 3, "redis_health_start_period": 5}
# Docker acts on the restart policies of the containers that it finds at boot, so both are used. Up to the start, an
# upgrade that fails does the same as one that succeeds: only one of them is cut there.
CUTS_IN_FAILING_UPGRADES = {
    "always": (Stage.ROLLING_BACK,),
    "unless-stopped": (Stage.STARTING, Stage.RESTARTING_OLD),
}
CUTS_IN_UPGRADES = {
    "always": (Stage.PREPARED, Stage.STARTING),
    "unless-stopped": (Stage.STOPPED, Stage.FINISHING),
}
FILES = "cd /srv/redis && find compose.yml config secrets -type f -exec sha256sum {} + | sort"
BACK = "the previous version is back and serves its data"


@pytest.fixture(scope="module")
def own_host(start_host: Callable[..., Host]) -> Iterator[Host]:
    """A host of its own, for data that another version wrote."""
    host = start_host("lifecycle-rollback")
    yield host
    host.down()


@pytest.fixture(scope="module")
def previous() -> dict[str, Any]:
    """Settings of the version that serves."""
    return {**settings_for("valkey"), **QUICK}


@pytest.fixture(scope="module")
def server(own_host: Host, deployer: Deployer, previous: dict[str, Any]) -> Instance:
    """The version that serves, on a host that also has broken images of a newer one."""
    new_version = settings_for("valkey-testing")
    first = deployer.deploy(own_host, **new_version, redis_allow_vulnerable_version=True)
    assert first.returncode == 0, first.stderr
    for name, (program, script) in BROKEN.items():
        make_image(own_host, new_version["redis_image"], name, program, script)
    remove_instance(own_host)
    second = deployer.deploy(own_host, **previous)
    assert second.returncode == 0, second.stderr
    make_image(own_host, previous["redis_image"], "renumbered", *RENUMBERED)
    return Instance(own_host, deployer.secrets(own_host))


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
    """Return settings that deploy a newer version.

    They also change what the previous one was created from and reads.
    """
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
    """Return settings of the tests that cut the power.

    The backup before each upgrade is not loaded, to save time.
    """
    return {"redis_restart": policy, "redis_upgrade_verify": False}


def write(server: Instance, value: str) -> None:
    assert server.call(f"SET app:session:1 {value} EX 7200", user="sessions") == ["OK"]
    assert server.call("DEL rq:queue:default", f"RPUSH rq:queue:default {value}", user="queues")[1] == "1"


def answers(server: Instance) -> bool:
    output = server.host.run("docker exec redis redis-cli -s /run/redis/redis.sock PING").stdout
    return "PONG" in output or "NOAUTH" in output


@contextmanager
def rolled_back(server: Instance, value: str) -> Iterator[None]:
    """Write data, and check after an upgrade that the previous version serves it.

    The previous files must be back as well.
    """
    write(server, value)
    files = server.host.run(FILES, check=True).stdout
    yield
    assert_runs(server, "8.1")
    # Docker runs the health check of a Redis that a restore started only after an interval.
    server.wait_until_healthy()
    assert server.call("GET app:session:1", user="sessions") == [value]
    assert server.call("LRANGE rq:queue:default 0 -1", user="queues") == [value]
    assert server.host.run(FILES, check=True).stdout == files
    assert_upgrade_is_over(server)


def assert_upgrade_is_over(server: Instance) -> None:
    """Check that nothing is left of an upgrade except previous data, and remove that."""
    assert is_finished(server.host)
    assert server.host.run("ls -d /srv/redis/rollback* /srv/redis/data/rollback*").stdout == ""
    server.host.run("rm -rf /srv/redis/data/previous", check=True)


@pytest.mark.parametrize("name", [pytest.param("unhealthy", marks=pytest.mark.core), "exits"])
def test_failed_upgrade_is_rolled_back(
    server: Instance, deployer: Deployer, previous: dict[str, Any], name: str
) -> None:
    with rolled_back(server, name):
        server.host.run(": >/srv/redis/logs/redis.log", check=True)
        result = deployer.deploy(server.host, **newer(name))
        assert result.returncode == 1
        assert BACK in result.stderr, result.stderr
        # Redis rewrites its AOF before it stops, so that little has to be copied while it is down.
        log = server.host.run("cat /srv/redis/logs/redis.log", check=True).stdout
        assert "AOF rewrite terminated with success" in log.partition("User requested shutdown")[0], log
        new_data = server.host.run("find /srv/redis/data/previous -name '*.rdb'", check=True).stdout
        assert new_data, "the data of the new version is not kept"
    assert_no_change(deployer, server.host, **previous)


def kill_upgrade(server: Instance, deployer: Deployer) -> None:
    """Deploy a new version, have it write, and kill redisctl.

    redisctl is killed while it waits until Redis is healthy. systemd's recovery is switched off, so that the state in
    between can be examined.
    """
    before = server.inspect()["Id"]
    running = deployer.start(server.host, **newer("unhealthy"))
    wait_until(lambda: server.inspect().get("Id", before) != before, "the new version is started", 120)
    wait_until(lambda: answers(server), "the new version serves", 30)
    write(server, "newer")
    # Not before: the deploy starts the unit again.
    server.host.run("systemctl stop redis-recover.path redis-recover.service", check=True)
    server.host.run("pkill -KILL -f '[r]edisctl deploy start-service'", check=True)
    # redisctl waits for Redis itself, so Compose may not run: pkill exits with 1 if no process matches.
    assert server.host.run("pkill -KILL -f 'docker[- ]compose'").returncode in (0, 1)
    assert running.wait().returncode != 0
    server.host.run("test -d /srv/redis/data/rollback && test -s /srv/redis/rollback/image", check=True)


def test_interrupted_upgrade_is_reported_and_finished(
    server: Instance, deployer: Deployer, previous: dict[str, Any]
) -> None:
    """An interrupted upgrade makes health critical until the next deploy finishes it.

    A removal is refused before that.
    """
    host = server.host
    with rolled_back(server, "reported"):
        kill_upgrade(server, deployer)
        health = host.run("redisctl health")
        assert (health.returncode, "CRITICAL" in health.stdout.upper()) == (2, True), health.stdout
        assert "the new version is not healthy yet" in health.stdout, health.stdout
        removal = deployer.deploy(host, job="day2/remove.py", **previous)
        assert (removal.returncode, "start of redis was interrupted" in removal.stderr) == (1, True), removal.stderr

        again = deployer.deploy(host, **newer("unhealthy"))
        assert again.returncode == 1
        assert "start of redis was interrupted: finishing it first" in again.stderr, again.stderr
        assert BACK in again.stderr, again.stderr
    assert_no_change(deployer, host, **previous)


def test_restore_finishes_an_interrupted_upgrade_first(
    server: Instance, deployer: Deployer, previous: dict[str, Any]
) -> None:
    """The newest backup is the one that the upgrade took."""
    host = server.host
    with rolled_back(server, "restored"):
        kill_upgrade(server, deployer)
        restore = host.run("redisctl restore latest --yes")
        assert restore.returncode == 0, restore.stderr
        assert BACK in restore.stderr, restore.stderr
        host.run("systemctl start redis-recover.path", check=True)
    assert_no_change(deployer, host, **previous)


def test_deploying_the_previous_version_gives_the_upgrade_up(
    server: Instance, deployer: Deployer, previous: dict[str, Any]
) -> None:
    """What the new version wrote stays as previous data."""
    host = server.host
    with rolled_back(server, "older"):
        kill_upgrade(server, deployer)
        back = deployer.deploy(host, **previous)
        assert back.returncode == 0, back.stderr
        assert BACK in back.stderr, back.stderr
        new_data = host.run("cat /srv/redis/data/previous/*/appendonlydir/*.incr.aof", check=True).stdout
        assert new_data.count("newer") >= 2
    assert_no_change(deployer, host, **previous)


@pytest.mark.parametrize("policy", CUTS_IN_FAILING_UPGRADES)
def test_power_cut_in_a_failing_upgrade_rolls_back(
    server: Instance, deployer: Deployer, previous: dict[str, Any], policy: str
) -> None:
    """A power cut in a failing upgrade rolls the upgrade back.

    The new version is not healthy after the power cut either.
    """
    host, settings = server.host, power_cut_settings(policy)
    assert deployer.deploy(host, **previous, **settings).returncode == 0
    for stage in CUTS_IN_FAILING_UPGRADES[policy]:
        with rolled_back(server, f"{policy}-{stage.name}"):
            host.run(": >/srv/redis/logs/redis.log", check=True)
            cut_power_in_deploy(server, deployer, stage, 240, **{**newer("unhealthy"), **settings})
            if stage is not Stage.RESTARTING_OLD:
                log = host.run("journalctl --boot --unit redis-recover.service", check=True).stdout
                assert BACK in log, log
            if stage is Stage.STARTING:
                # What Docker's start of the previous version accepts from clients would be lost by the rollback.
                started = host.run("grep -o 'version=[0-9.]*' /srv/redis/logs/redis.log", check=True).stdout.split()
                assert not started[0].startswith("version=8.1"), started
            assert server.inspect()["HostConfig"]["RestartPolicy"]["Name"] == policy
    assert_no_change(deployer, host, **previous, **settings)


@pytest.mark.parametrize("policy", CUTS_IN_UPGRADES)
def test_power_cut_in_an_upgrade_ends_in_the_new_version(
    server: Instance, deployer: Deployer, previous: dict[str, Any], policy: str
) -> None:
    """At every stage, with a new version that is healthy."""
    host, settings = server.host, power_cut_settings(policy)
    for stage in CUTS_IN_UPGRADES[policy]:
        assert deployer.deploy(host, **previous, **settings).returncode == 0
        write(server, policy)
        cut_power_in_deploy(server, deployer, stage, **{**newer("renumbered"), **settings})
        inspected = server.inspect()
        assert inspected["Config"]["Image"] == reference("renumbered")
        assert inspected["HostConfig"]["RestartPolicy"]["Name"] == policy
        assert server.call("GET app:session:1", user="sessions") == [policy]
        assert server.config("tcp-backlog") == "300"
        assert_upgrade_is_over(server)
    assert deployer.deploy(host, **previous, **settings).returncode == 0


def test_power_cut_before_the_start_leaves_the_old_version(
    server: Instance, deployer: Deployer, previous: dict[str, Any]
) -> None:
    """The old version starts after a power cut before the start of the new one.

    Most files of the new version are written, and the old version would not start with them.
    """
    host = server.host
    assert deployer.deploy(host, **previous).returncode == 0
    settings = {**newer("renumbered"), "redis_extra_config": {"no-such-directive": "1"}, "redis_upgrade_verify": False}
    with rolled_back(server, "files"):
        container = server.inspect()["Id"]
        running = deployer.start(host, **settings)
        running.wait_for("Starting operation: Service | Write the Compose project", 180)
        running.signal(signal.SIGSTOP)
        host.run("grep no-such-directive /srv/redis/config/redis.conf", check=True)
        cut_power(host)
        running.signal(signal.SIGKILL)
        running.wait()
        server.wait_until_healthy()
        assert server.inspect()["Id"] == container
    assert_no_change(deployer, host, **previous)


@pytest.mark.parametrize(
    ("fill", "message"),
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
    fill: str, message: str, server: Instance, deployer: Deployer, previous: dict[str, Any]
) -> None:
    host, data = server.host, "/srv/redis/data"
    small = {**previous, "redis_maxmemory": "40mb"}
    host.run(f"docker rm -f redis; rm -rf {data}/* && mount -t tmpfs -o size=256m,mode=700 tmpfs {data}", check=True)
    try:
        assert deployer.deploy(host, **small, redis_allow_data_loss="empty").returncode == 0
        # In an RDB snapshot it is compressed to almost nothing, in the AOF it is not.
        assert server.call(f"SET app:session:long {'a' * 4_000_000}") == ["OK"]
        with rolled_back(server, "full"):
            before = server.identity
            running = deployer.start(host, **{**newer("unhealthy"), "redis_maxmemory": "48mb"})
            # A disk that is full before the backup is noticed there, and nothing begins.
            running.wait_for("Starting operation: Secrets | Write the secrets", 180)
            host.run(f"cd {data} && {fill}", check=True)
            result = running.wait()
            assert result.returncode == 1
            assert message in result.stderr, result.stderr
            assert (server.identity == before) == ("left alone" in message)
        assert server.call("STRLEN app:session:long") == ["4000000"]
        assert_no_change(deployer, host, **small)
    finally:
        host.run(f"docker rm -f redis; umount {data}; mkdir -p {data}/live", check=True)
