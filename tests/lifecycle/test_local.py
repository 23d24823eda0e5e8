"""A host that deploys itself with ``pyinfra @local deploy.py``.

It runs a copy of this project with its own virtualenv.
"""

import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from redoubt.secret_store import Secrets
from sandbox import images, ssh, tools
from sandbox.hosts import Host
from sandbox.util import STATE
from tests.deployed_redis import Instance, redisctl
from tests.deployer import ROOT, DeployResult
from tests.lifecycle.conftest import remove_instance

PROJECT = "/root/redoubt"
WHEELS = "/root/wheels"
DEPLOY = (
    f"cd {PROJECT} && .venv/bin/pyinfra -y --json @local deploy.py "
    f"--data redis_image={images.redis_reference()} --data redis_image_source=archive "
    "--data redis_image_archive=/root/redis.tar --data redis_host_tuning=false"
)


def wheels_for(host: Host) -> Path:
    """Return a directory with the locked wheels for the host's Python.

    Downloads them once to this machine: a server that deploys itself need not reach PyPI.
    """
    version = host.run("python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'", check=True).stdout.strip()
    machine = host.run("uname -m", check=True).stdout.strip()
    lock = ROOT / "requirements.txt"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    directory = STATE / "wheels" / f"{digest}-{version}-{machine}"
    environment = dict(os.environ)
    if importlib.util.find_spec("pip") is None:
        bundled = tools.unpack_one("python3-pip-whl") / "usr/share/python-wheels"
        environment["PYTHONPATH"] = str(next(bundled.glob("pip-*.whl")))
    if not (directory / "complete").exists():
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"),
            *("--python-version", version, "--implementation", "cp"),
            *(f"--platform=manylinux_2_{minor}_{machine}" for minor in (17, 28)),
            *("--require-hashes", "--requirement", str(lock), "--dest", str(directory)),
        ]
        completed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert completed.returncode == 0, completed.stderr
        (directory / "complete").touch()
    return directory


def send(host: Host, directory: str, paths: list[Path], below: Path) -> None:
    """Copy files to a directory of the host, with their paths relative to ``below``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in paths:
            archive.add(path, str(path.relative_to(below)), recursive=False)
    command = ssh.command(host.name, "--", f"mkdir -p {directory} && tar -x --no-same-owner -C {directory}")
    subprocess.run(command, env=tools.environment(), input=buffer.getvalue(), check=True, timeout=60)


@pytest.fixture(scope="module")
def itself(host: Host) -> Iterator[Host]:
    """Yield the shared host without an instance, prepared to deploy itself.

    It has this project, its wheels and the image's archive.
    """
    remove_instance(host)
    host.run("apt-get --quiet update && apt-get --quiet --yes --no-install-recommends install python3 make", check=True)
    parts = ("deploy.py", "config.py", "requirements.txt", "Makefile", "files/*", "templates/*", "redoubt/commands/*")
    packages = ("redisctl", "redoubt", "tasks", "day2", "inventory", "sandbox")
    patterns = (*parts, *(f"{package}/**/*.py" for package in packages))
    project = [path for pattern in patterns for path in ROOT.glob(pattern)]
    send(host, PROJECT, project, ROOT)
    wheels = wheels_for(host)
    send(host, WHEELS, list(wheels.glob("*.whl")), wheels)
    send(host, "/root", [images.redis_archive()], images.redis_archive().parent)
    host.run(f"mv /root/{images.redis_archive().name} /root/redis.tar", check=True)
    host.run(f"cd {PROJECT} && PIP_NO_INDEX=1 PIP_FIND_LINKS={WHEELS} make venv", check=True)
    yield host
    remove_instance(host)
    host.run(f"rm -rf {PROJECT} {WHEELS} /root/redis.tar")


def deploy(host: Host) -> DeployResult:
    completed = host.run(DEPLOY)
    return DeployResult(completed.returncode, completed.stdout, completed.stderr)


def test_host_deploys_itself_and_repeats_without_change(itself: Host) -> None:
    result = deploy(itself)

    assert result.returncode == 0, result.stderr
    assert "Service | Start Redis and wait until it is healthy" in result.changed
    stored = yaml.safe_load(itself.run(f"cat {PROJECT}/secrets/@local/redis.yml", check=True).stdout)
    redis = Instance(itself, Secrets(stored["passwords"], stored["commands"]))
    assert redis.health == "healthy"
    assert redis.call("SET app:session:local x EX 60", user="sessions") == ["OK"]
    again = deploy(itself)
    assert (again.returncode, again.changed) == (0, []), again.stderr
    deploys = redisctl(redis, "history")["deploys"]
    assert [deploy["result"] for deploy in deploys] == ["no change", "changed"]
    assert deploys[1]["changed"] == result.changed
