"""A new version that starts and is not well: the former one is back by itself, with its data and its files."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer, remove_instance
from tests.lifecycle.deployed_redis import Instance, wait_until
from tests.lifecycle.test_valkey import assert_no_change, assert_runs, settings_for

# What stands in the place of a program of a newer version. Each passes all that is tried beside the one that serves.
BROKEN = {
    # It serves and writes its own format; the health check alone finds no way to it.
    "unhealthy": ("redis-cli", 'case "$*" in -s*) exec valkey-cli "$@" ;; esac; echo broken >&2; exit 1'),
    # As the service it ends at once.
    "ends": ("redis-server", '[ "$*" != /etc/redis/redis.conf ] || exit 1; exec valkey-server "$@"'),
}
QUICK: dict[str, Any] = {"redis_health_interval": 2, "redis_health_retries": 3, "redis_health_start_period": 5}
LOOKED = "cd /srv/redis && find compose.yml config secrets -type f -exec sha256sum {} + | sort"
BACK = "the former version is back and serves what it had"


@pytest.fixture(scope="module")
def own(start_host: Callable[..., Host]) -> Iterator[Host]:
    """A host of its own, for data that another version wrote."""
    host = start_host("lifecycle-way-back")
    yield host
    host.down()


@pytest.fixture(scope="module")
def former() -> dict[str, Any]:
    """Settings of the version that serves."""
    return {**settings_for("valkey"), **QUICK}


@pytest.fixture(scope="module")
def server(own: Host, deployer: Deployer, former: dict[str, Any]) -> Instance:
    """The version that serves, on a host with broken images of a newer one."""
    newer = settings_for("valkey-testing")
    first = deployer.deploy(own, **newer, redis_allow_vulnerable_version=True)
    assert first.returncode == 0, first.stderr
    for name, (program, script) in BROKEN.items():
        change = (
            f'rm /usr/bin/{program}; printf "%s\\n" "#!/bin/sh" "$1" >/usr/bin/{program}; chmod 755 /usr/bin/{program}'
        )
        own.run(
            f"docker run --network none --user 0 --name donor --entrypoint sh {newer['redis_image']} -c '{change}' sh "
            f"\"$(cat)\" && docker commit --change 'ENTRYPOINT []' --change 'CMD [\"redis-server\"]' "
            f"--change 'USER root' donor {reference(name)} && docker rm donor",
            input=script,
            check=True,
        )
    remove_instance(own, image=False)
    served = deployer.deploy(own, **former)
    assert served.returncode == 0, served.stderr
    return Instance(own, deployer.secrets(own))


def reference(name: str) -> str:
    return f"registry.example.com/valkey:{name}"


def broken(name: str) -> dict[str, Any]:
    """Settings that deploy a broken version, and change what the former one is made from and reads."""
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


def write(server: Instance, value: str) -> None:
    assert server.call(f"SET app:session:1 {value} EX 7200", user="sessions") == ["OK"]
    assert server.call("DEL rq:queue:default", f"RPUSH rq:queue:default {value}", user="queues")[1] == "1"


def answers(server: Instance) -> bool:
    said = server.host.run("docker exec redis redis-cli -s /run/redis/redis.sock PING").stdout
    return "PONG" in said or "NOAUTH" in said


def assert_back(server: Instance, value: str, files: str) -> None:
    """Everything is as it was, and nothing of the attempt is left but what the new version wrote."""
    assert_runs(server, "8.1")
    assert server.health == "healthy"
    assert server.call("GET app:session:1", user="sessions") == [value]
    assert server.call("LRANGE rq:queue:default 0 -1", user="queues") == [value]
    assert server.host.run(LOOKED, check=True).stdout == files
    assert server.host.run("ls -d /srv/redis/upgrade* /srv/redis/data/.upgrade*").stdout == ""


@pytest.mark.parametrize("name", BROKEN)
def test_the_former_version_is_back_with_its_data_and_its_files(
    server: Instance, deployer: Deployer, former: dict[str, Any], name: str
) -> None:
    write(server, name)
    files = server.host.run(f": >/srv/redis/logs/redis.log; {LOOKED}", check=True).stdout
    result = deployer.deploy(server.host, **broken(name))
    assert result.returncode == 1
    assert BACK in result.stderr, result.stderr
    # What is copied while it is down is what was written since.
    log = server.host.run("cat /srv/redis/logs/redis.log", check=True).stdout
    assert "AOF rewrite terminated with success" in log.partition("User requested shutdown")[0], log
    assert_back(server, name, files)
    aside = server.host.run("find /srv/redis/data/previous -name '*.rdb'", check=True).stdout
    assert aside, "what the new version found and wrote is kept"
    assert_no_change(deployer, server.host, former)
    server.host.run("rm -r /srv/redis/data/previous", check=True)


def broken_off(server: Instance, deployer: Deployer) -> None:
    """Deploy a new version, have it write, and kill on the host what waits for it to be healthy."""
    before = server.inspect()["Id"]
    under_way = deployer.start(server.host, **broken("unhealthy"))
    wait_until(lambda: server.inspect().get("Id", before) != before, "the new version is started", 120)
    wait_until(lambda: answers(server), "the new version serves", 10)
    write(server, "newer")
    server.host.run("pkill -KILL -f '^[s]h /srv/redis/start'; pkill -KILL -f '[d]ocker compose'", check=True)
    assert under_way.wait().returncode != 0
    server.host.run("test -d /srv/redis/data/.upgrade && test -s /srv/redis/upgrade/image", check=True)


# By hand, what a return that is broken off leaves.
ASIDE = "install -d -m 700 -o 999 -g 999 previous previous/20260101T000000Z"
STEPS = {
    "not begun": "true",
    "data half moved": f"echo away 20260101T000000Z >../upgrade/stage; {ASIDE}; "
    "mv appendonlydir previous/20260101T000000Z/",
    "former data half back": f"echo in 20260101T000000Z >../upgrade/stage; docker rm -f redis; {ASIDE}; "
    "mv appendonlydir dump.rdb previous/20260101T000000Z/; mv .upgrade/appendonlydir .",
}


@pytest.mark.parametrize("came", STEPS)
def test_an_upgrade_that_was_broken_off_is_told_and_ended_by_the_next_deploy(
    server: Instance, deployer: Deployer, former: dict[str, Any], came: str
) -> None:
    """And a return that was, at single steps of it."""
    host, value = server.host, came.replace(" ", "-")
    write(server, value)
    files = host.run(LOOKED, check=True).stdout
    broken_off(server, deployer)
    host.run(f"cd /srv/redis/data && {STEPS[came]}", check=True)
    told = host.run("redisctl health")
    assert (told.returncode, "the data of the former one is kept" in told.stdout) == (2, True), told.stdout
    assert "an upgrade is not ended" in host.run("redisctl restore latest --yes").stderr
    removal = deployer.deploy(host, job="day2/remove.py", **former)
    assert (removal.returncode, "an upgrade of redis was not ended" in removal.stderr) == (1, True), removal.stderr

    again = deployer.deploy(host, **broken("unhealthy"))
    assert again.returncode == 1
    assert BACK in again.stderr, again.stderr
    assert_back(server, value, files)
    assert_no_change(deployer, host, former)
    host.run("rm -r /srv/redis/data/previous", check=True)


def test_a_host_that_loses_power_in_an_upgrade_ends_it_by_itself(
    server: Instance, deployer: Deployer, former: dict[str, Any]
) -> None:
    """While the new version starts, which is not healthy afterwards either."""
    host = server.host
    write(server, "power")
    files = host.run(LOOKED, check=True).stdout
    under_way = deployer.start(host, **broken("unhealthy"))
    wait_until(lambda: not host.run("test -d /srv/redis/data/.upgrade").returncode, "the data is kept", 120)
    host.kill()
    assert under_way.wait().returncode == 1
    host.start()
    wait_until(lambda: host.run("test -e /srv/redis/start").returncode == 1, "the upgrade is given up", 120)
    told = host.run("journalctl --unit redis-start.service", check=True).stdout
    assert BACK in told, told
    assert_back(server, "power", files)
    assert_no_change(deployer, host, former)
    host.run("rm -r /srv/redis/data/previous", check=True)


def test_an_upgrade_that_was_broken_off_is_given_up_by_deploying_the_former_version(
    server: Instance, deployer: Deployer, former: dict[str, Any]
) -> None:
    """It goes on with what the new one wrote where it reads that, and with its own data where it does not."""
    host = server.host
    write(server, "older")
    files = host.run(LOOKED, check=True).stdout
    broken_off(server, deployer)
    given_up = deployer.deploy(host, **former)
    assert given_up.returncode == 0, given_up.stderr
    assert_back(server, "newer", files)
    assert_no_change(deployer, host, former)

    broken_off(server, deployer)
    write(server, "newest")
    # The new version's own format takes the place of what both read.
    rewritten = "aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0"
    server.call(server.secrets.renamed_command("BGREWRITEAOF"))
    wait_until(lambda: set(rewritten) <= set(server.call("INFO persistence")), "the log is rewritten", 30)
    given_up = deployer.deploy(host, **former)
    assert given_up.returncode == 1
    assert BACK in given_up.stderr, given_up.stderr
    assert_back(server, "newer", files)
    assert_no_change(deployer, host, former)
    host.run("rm -r /srv/redis/data/previous", check=True)


@pytest.mark.parametrize(
    ("fills", "told"),
    [
        # Less than the log takes, as bytes and as files: the first is seen beforehand, the second is not.
        (
            'head -c "$(($(df --output=avail --block-size=1 . | tail -n 1) - 2097152))" /dev/zero >.other',
            "was left alone: a",
        ),
        (
            "mount -o remount,nr_inodes=$(($(df --output=iused . | tail -n 1) + 2)) .",
            "redis was started again as it was",
        ),
    ],
    ids=["bytes", "files"],
)
def test_where_the_disk_gets_too_full_to_keep_the_data_the_version_that_serves_goes_on(
    fills: str, told: str, server: Instance, deployer: Deployer, former: dict[str, Any]
) -> None:
    host, data = server.host, "/srv/redis/data"
    host.run(f"docker rm -f redis; rm -rf {data}/* && mount -t tmpfs -o size=192m tmpfs {data}", check=True)
    try:
        assert deployer.deploy(host, **former).returncode == 0
        write(server, "kept")
        # In a snapshot it takes next to nothing, in the log of writes all of it.
        assert server.call(f"SET app:session:long {'a' * 5_000_000}") == ["OK"]
        files, before = host.run(LOOKED, check=True).stdout, server.inspect()["State"]["StartedAt"]
        under_way = deployer.start(host, **broken("unhealthy"))
        # Before the backup it would be found, and nothing would be begun.
        under_way.wait_for("Starting operation: Secrets | Write the secrets", 180)
        host.run(f"cd {data} && {fills}", check=True)
        result = under_way.wait()
        assert result.returncode == 1
        assert told in result.stderr, result.stderr
        assert (server.inspect()["State"]["StartedAt"] == before) == ("left alone" in told)
        wait_until(lambda: server.health == "healthy", "the version that served is back", 60)
        assert_back(server, "kept", files)
        assert server.call("STRLEN app:session:long") == ["5000000"]
        assert_no_change(deployer, host, former)
    finally:
        host.run(f"docker rm -f redis; umount {data}", check=True)
