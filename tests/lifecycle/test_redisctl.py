"""redisctl on a host: it tells what is well from what is not, by words, JSON and exit codes."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer, remove_instance, remove_units
from tests.lifecycle.deployed_redis import Instance, wait_until

# What the engine says of a container that was paused holds until its next check.
SETTINGS: dict[str, Any] = {"redis_health_interval": 1}


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Instance:
    """The shared host, without the log and the data of others: health tells of what happened to them."""
    remove_instance(host, image=False)
    result = deployer.deploy(host, **SETTINGS)
    assert result.returncode == 0, result.stderr
    return Instance(host, deployer.secrets(host))


def health(redis: Instance) -> tuple[int, str, dict[str, str]]:
    """The exit code, the verdict, and the checks that are not ok with what was seen."""
    done = redis.host.run("redisctl health --json")
    told = json.loads(done.stdout)
    return done.returncode, told["verdict"], {c["name"]: c["observed"] for c in told["checks"] if c["verdict"] != "ok"}


def well_again(redis: Instance) -> None:
    wait_until(lambda: redis.health == "healthy", "Redis is healthy again", 20)


def test_what_is_well_is_ok(redis: Instance) -> None:
    assert health(redis) == (0, "ok", {})
    said = redis.host.run("redisctl health", check=True).stdout
    assert said.rstrip().endswith("redis is ok")
    taken = json.loads(redis.host.run("redisctl stats --json", check=True).stdout)
    assert (taken["instance"], taken["policy"], taken["memory_most"]) == ("redis", "volatile-lru", 1024**3)


@pytest.mark.parametrize(
    ("harm", "cure", "check", "seen"),
    [
        ("docker pause redis", "docker unpause redis", "container", "paused"),
        ("docker stop redis", "docker start redis", "ping", "the container is exited"),
        (
            "kill -STOP $(docker top redis -o pid,comm | awk '/redis-server/ { print $1 }')",
            "kill -CONT $(docker top redis -o pid,comm | awk '/redis-server/ { print $1 }')",
            "ping",
            "Timeout",
        ),
    ],
)
def test_a_redis_that_does_not_serve_is_critical(redis: Instance, harm: str, cure: str, check: str, seen: str) -> None:
    redis.host.run(harm, check=True)
    try:
        found = health(redis)
    finally:
        redis.host.run(cure, check=True)
        well_again(redis)
    assert found[:2] == (2, "critical")
    assert seen in found[2][check]


def test_a_memory_that_is_nearly_full_is_told_before_it_is(redis: Instance) -> None:
    config = redis.secrets.renamed_command("CONFIG")
    # Nothing is evicted meanwhile: that would be told for as long as Redis runs.
    assert redis.call(f"{config} SET maxmemory-policy noeviction") == ["OK"]
    used = int(redis.call("INFO memory")[1].partition(":")[2])
    for most, code, verdict in ((used * 5 // 4, 1, "warning"), (used * 21 // 20, 2, "critical")):
        redis.call(f"{config} SET maxmemory {most}")
        found = health(redis)
        assert (found[:2], set(found[2])) == ((code, verdict), {"memory"})
    assert redis.call(f"{config} SET maxmemory 1gb maxmemory-policy volatile-lru") == ["OK"]
    assert health(redis)[0] == 0


def test_who_is_not_root_is_told_so(redis: Instance) -> None:
    done = redis.host.run("setpriv --reuid 65534 --regid 65534 --clear-groups redisctl health")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "redisctl: redisctl reads passwords and the container: run it as root, or with sudo\n"


def test_all_hosts_are_asked_from_the_machine_that_deploys(redis: Instance, deployer: Deployer) -> None:
    def asked(line: str) -> Any:
        return deployer.deploy(
            redis.host, job="day2/redisctl.py", arguments=("-y", "--data", f"redis_run={line}"), **SETTINGS
        )

    well = asked("health")
    assert well.returncode == 0
    assert "redis is ok" in well.reasons
    redis.host.run("docker pause redis", check=True)
    try:
        ill = asked("health")
    finally:
        redis.host.run("docker unpause redis", check=True)
        well_again(redis)
    assert ill.returncode == 1
    assert "redis is critical" in ill.reasons
    # Of the words nothing is made by a shell.
    assert "No such command 'health;id'" in "".join(asked("health;id").reasons)


def test_two_instances_have_two_commands(redis: Instance, deployer: Deployer, start_host: Callable[..., Host]) -> None:
    second: dict[str, Any] = {
        "redis_name": "queue",
        "redis_port": 6380,
        "redis_maxmemory": "64mb",
        "redis_tls": "required",
    }
    assert deployer.deploy(redis.host, **second).returncode == 0
    try:
        told = json.loads(redis.host.run("redisctl-queue health --json", check=True).stdout)
        assert (told["instance"], told["verdict"]) == ("queue", "ok")
        assert "certificate" in {check["name"] for check in told["checks"]}
        assert health(redis) == (0, "ok", {})
    finally:
        redis.host.run("cd /srv/queue && docker compose down && rm -r /srv/queue")
        redis.host.run(f"rm /etc/logrotate.d/queue /usr/local/sbin/redisctl-queue; {remove_units('queue')}")


def test_its_modules_are_compiled_once_in_memory_and_it_runs_without_that(redis: Instance) -> None:
    run = redis.host.run
    kept = "/run/redoubt-srv-redis.modules"
    look = f"find {kept}/* -printf '%P %i %T@\\n' | sort"
    run(f"rm -rf {kept}; redisctl stats", check=True)
    first = run(look).stdout.splitlines()
    (place,) = run(f"ls {kept}").stdout.split()
    assert [line for line in first if re.match(r"redis/__pycache__/client\.\S+\.pyc ", line)]
    assert run(f"stat --format '%a %u' {kept} {kept}/{place}").stdout == "700 0\n700 0\n"
    assert run(f"findmnt --noheadings --output FSTYPE --target {kept}").stdout == "tmpfs\n"
    run("redisctl stats", check=True)
    assert run(look).stdout.splitlines() == first
    # Of another release, and of a call that was killed meanwhile.
    run(f"mv {kept}/{place} {kept}/other; mkdir {kept}/{place}.new; redisctl stats", check=True)
    assert run(f"ls {kept}").stdout.split() == [place]
    # While another one unpacks them.
    run(f"rm -r {kept}/*; flock {kept} redisctl stats", check=True)
    assert run(f"ls {kept}").stdout == ""
    # No room for all of them.
    run(f"mount -t tmpfs -o size=1m tmpfs {kept}", check=True)
    try:
        assert health(redis) == (0, "ok", {})
        assert run(f"ls {kept}").stdout == ""
    finally:
        run(f"umount {kept}", check=True)
    run("redisctl stats & redisctl stats; wait $!", check=True)
    assert run(f"ls {kept}").stdout.split() == [place]
