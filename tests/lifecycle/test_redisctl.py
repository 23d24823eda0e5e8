"""redisctl on a deployed host: every verb works there.

Health reports what Docker reports. What the verbs say about a Redis is tested in tests/redisctl.
"""

import json
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from sandbox import ssh
from sandbox.hosts import Host
from tests.deployed_redis import Instance, redisctl
from tests.deployer import Deployer
from tests.lifecycle.conftest import remove_units

# Docker's verdict about a container that was paused stays until its next check.
SETTINGS: dict[str, Any] = {"redis_health_interval": 1}
READING_VERBS = (
    "stats",
    "slowlog",
    "latency --seconds 1",
    "memory",
    "history",
    "log",
    "sessions",
    "queues",
    "backup list",
)


@pytest.fixture(scope="module")
def redis(host: Host, without_traces: None, deployer: Deployer) -> Instance:
    return deployer.instance(host, **SETTINGS)


def health(redis: Instance) -> tuple[int, str, dict[str, str]]:
    """Return the exit code, the verdict, and values of the checks that are not ok.

    The values are those that the checks observed.
    """
    completed = redis.host.run("redisctl health --json")
    report = json.loads(completed.stdout)
    checks = {check["name"]: check["observed"] for check in report["checks"] if check["verdict"] != "ok"}
    return completed.returncode, report["verdict"], checks


def wait_until_healthy(redis: Instance) -> None:
    redis.wait_until_healthy()


def test_deployed_redis_is_ok(redis: Instance) -> None:
    assert health(redis) == (0, "ok", {})
    assert redis.host.run("redisctl health", check=True).stdout.rstrip().endswith("redis is ok")


@pytest.mark.parametrize("verb", READING_VERBS)
def test_verb_works_on_a_deployed_host(redis: Instance, verb: str) -> None:
    """Every verb that reads works on a deployed host.

    This is the counterpart of tests/redisctl: Docker, the container's namespaces, and the host's own Python.
    """
    report = redisctl(redis, verb)
    assert report["instance"] == "redis"
    assert redis.host.run(f"redisctl {verb}", check=True).stdout
    denied = [line for line in redis.call("ACL LOG") if "name=redisctl" in line]
    assert denied == []


def test_top_works_in_a_terminal_over_ssh(redis: Instance) -> None:
    command = ssh.command(redis.host.name, "-o", "ControlPath=none", "-tt", "--", "redisctl top --interval 1 --count 2")
    environment = {**ssh.environment(), "TERM": "xterm-256color"}
    completed = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
    )
    assert completed.returncode == 0, completed
    assert completed.stdout.count(b"q quits") == 2


def test_help_lists_every_verb(redis: Instance) -> None:
    output = redis.host.run("redisctl --help", check=True).stdout
    verbs = re.findall(r"^  ([a-z]+)  ", output[output.index("Commands:") :], re.MULTILINE)
    reading = {verb.split()[0] for verb in READING_VERBS}
    assert {
        *reading,
        "health",
        "top",
        "restore",
        "repair",
        "import",
        "stop",
        "start",
        "restart",
        "recover",
        "remove",
    } == {*verbs}


@pytest.mark.parametrize(
    ("harm", "cure", "check", "observed"),
    [
        ("docker pause redis", "docker unpause redis", "container", "paused"),
        ("docker stop redis", "docker start redis", "ping", "the container is exited"),
    ],
)
def test_redis_that_does_not_serve_is_critical(
    redis: Instance, harm: str, cure: str, check: str, observed: str
) -> None:
    redis.host.run(harm, check=True)
    try:
        code, verdict, checks = health(redis)
    finally:
        redis.host.run(cure, check=True)
        wait_until_healthy(redis)
    assert (code, verdict) == (2, "critical")
    assert observed in checks[check]


def test_users_other_than_root_are_refused(redis: Instance) -> None:
    completed = redis.host.run("setpriv --reuid 65534 --regid 65534 --clear-groups redisctl health")
    assert (completed.returncode, completed.stdout) == (3, "")
    assert completed.stderr == "redisctl: redisctl reads passwords and the container: run it as root, or with sudo\n"


def test_verbs_run_on_all_hosts_from_one_machine(redis: Instance, deployer: Deployer) -> None:
    def run(line: str) -> Any:
        return deployer.deploy(
            redis.host, job="day2/redisctl.py", arguments=("-y", "--data", f"redis_run={line}"), **SETTINGS
        )

    healthy = run("health")
    assert healthy.returncode == 0
    assert "redis is ok" in healthy.reasons
    redis.host.run("docker pause redis", check=True)
    try:
        paused = run("health")
    finally:
        redis.host.run("docker unpause redis", check=True)
        wait_until_healthy(redis)
    assert paused.returncode == 1
    assert "redis is critical" in paused.reasons
    assert """redis_run = "health 'x": No closing quotation""" in run("health 'x").stderr
    # No shell interprets the words.
    assert "No such command 'health;id'" in "".join(run("health;id").reasons)


def test_two_instances_have_two_commands(redis: Instance, deployer: Deployer, start_host: Callable[..., Host]) -> None:
    second: dict[str, Any] = {
        "redis_name": "queue",
        "redis_port": 6380,
        "redis_maxmemory": "64mb",
        "redis_tls": "required",
    }
    assert deployer.deploy(redis.host, **second).returncode == 0
    try:
        report = json.loads(redis.host.run("redisctl-queue health --json", check=True).stdout)
        assert (report["instance"], report["verdict"]) == ("queue", "ok")
        assert "certificate" in {check["name"] for check in report["checks"]}
        assert health(redis) == (0, "ok", {})
    finally:
        redis.host.run("cd /srv/queue && docker compose down && rm -r /srv/queue")
        redis.host.run(f"rm /etc/logrotate.d/queue /usr/local/sbin/redisctl-queue; {remove_units('queue')}")


def test_compiled_modules_are_kept_in_memory(redis: Instance) -> None:
    """The modules of redisctl are compiled once a release, and kept in memory.

    Without space for them, redisctl runs from its file.
    """
    run = redis.host.run
    modules = "/run/redoubt-srv-redis.modules"
    listing = f"find {modules}/* -printf '%P %i %T@\\n' | sort"
    run(f"rm -rf {modules}; redisctl stats; redisctl memory", check=True)
    first = run(listing).stdout.splitlines()
    (release,) = run(f"ls {modules}").stdout.split()
    assert [line for line in first if re.match(r"redis/__pycache__/client\.\S+\.pyc ", line)]
    assert run(f"stat --format '%a %u' {modules} {modules}/{release}").stdout == "700 0\n700 0\n"
    assert run(f"findmnt --noheadings --output FSTYPE --target {modules}").stdout == "tmpfs\n"
    run("redisctl stats; redisctl memory", check=True)
    assert run(listing).stdout.splitlines() == first
    # Modules of another release, and of a call that was killed.
    run(f"mv {modules}/{release} {modules}/other; mkdir {modules}/{release}.new; redisctl stats", check=True)
    assert run(f"ls {modules}").stdout.split() == [release]
    # Another call unpacks them at the moment.
    run(f"rm -r {modules}/*; flock {modules} redisctl stats", check=True)
    assert run(f"ls {modules}").stdout == ""
    # There is not enough space.
    run(f"mount -t tmpfs -o size=1m tmpfs {modules}", check=True)
    try:
        assert health(redis) == (0, "ok", {})
        assert run(f"ls {modules}").stdout == ""
    finally:
        run(f"umount {modules}", check=True)
    run("redisctl stats & redisctl stats; wait $!", check=True)
    assert run(f"ls {modules}").stdout.split() == [release]
