"""The login's environment on a host.

Nothing of it reaches Docker, Compose or the tools whose output is parsed.
"""

import subprocess
from collections.abc import Iterator

import pytest

from sandbox import ssh, tools
from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.deployer import Deployer
from tests.lifecycle.conftest import assert_no_change

# What provisioning tools have met: another project, another file, another Docker, a decimal comma.
HOSTILE = """\
COMPOSE_PROJECT_NAME=other
COMPOSE_FILE=/nonexistent.yml
COMPOSE_PROFILES=none
DOCKER_HOST=tcp://127.0.0.1:1
DOCKER_CONTEXT=nowhere
LC_ALL=de_DE.UTF-8
"""


def _new_login(host: Host, line: str) -> str:
    """Return what a command prints in a new login.

    The connection that tests share is older than the environment.
    """
    command = [*ssh.command(host.name, "-o", "ControlPath=none"), line]
    completed = subprocess.run(
        command, env=tools.environment(), capture_output=True, text=True, check=False, timeout=60
    )
    return completed.stdout + completed.stderr


@pytest.fixture
def hostile(without_traces: None, deployed: Host) -> Iterator[Host]:
    """The deployed host, with such an environment for every login."""
    deployed.run("cp -a /etc/environment /etc/environment.before 2>/dev/null || touch /etc/environment.before")
    try:
        deployed.run("cat >/etc/environment", input=HOSTILE, check=True)
        assert "COMPOSE_FILE=/nonexistent.yml" in _new_login(deployed, "env")
        yield deployed
    finally:
        deployed.run("mv /etc/environment.before /etc/environment", check=True)


def test_login_environment_changes_nothing(hostile: Host, deployer: Deployer) -> None:
    """A deploy, redisctl and a restart find the same project and Docker as before."""
    redis = Instance(hostile, deployer.secrets(hostile))
    before = redis.identity
    # It sees the same instance as without that environment.
    assert_no_change(deployer, hostile)
    assert redis.identity == before
    assert "redis is ok" in _new_login(hostile, "redisctl health")

    restarted = deployer.deploy(hostile, redis_databases=17)
    assert restarted.returncode == 0, restarted.stderr
    projects = hostile.run("docker ps --format '{{.Label \"com.docker.compose.project\"}}'", check=True).stdout
    assert projects.split() == ["redis"]
    stopped = deployer.deploy(hostile, job="day2/stop.py", redis_databases=17)
    assert stopped.returncode == 0, stopped.stderr
    started = deployer.deploy(hostile, job="day2/start.py", redis_databases=17)
    assert started.returncode == 0, started.stderr
