"""A machine on which no container engine can run: what make deploy does ends with a Redis all the same.

It is this machine, as root in an unprivileged container sees it: Docker's default capabilities and no engine's socket.
In a copy of the project, since an engine of the project's own may be running here.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.common import STATE
from tests.host.bridge import PROJECT

# https://docs.docker.com/engine/containers/run/#runtime-privilege-and-linux-capabilities
CAPABILITIES = (
    "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw,sys_chroot,mknod,"
    "audit_write,setfcap"
)
UNPRIVILEGED = (
    "[ ! -S /run/docker.sock ] || mount --bind /dev/null /run/docker.sock; "
    f'exec setpriv --bounding-set=-all,+{CAPABILITIES.replace(",", ",+")} --inh-caps=-all "$@"'
)


# Nobody's passwords, and nothing that was made.
LEFT_BEHIND = shutil.ignore_patterns(".sandbox", ".venv", ".git", "__pycache__", ".*_cache", "secrets")


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A copy of the project without anything that was made in it; whatever it makes is removed.

    Not in a directory for temporary files, which may be in memory: it makes a disk.
    """
    copy = STATE / "elsewhere"
    if copy.exists():
        _remove(copy)  # of a run that was broken off
    shutil.copytree(PROJECT, copy, ignore=LEFT_BEHIND)
    try:
        yield copy
    finally:
        _remove(copy)


def _remove(copy: Path) -> None:
    run(copy, sys.executable, "-m", "sandbox", "clean")
    shutil.rmtree(copy)


def run(directory: Path, *command: str) -> str:
    """Run a command as in an unprivileged container: all that it says. Fails when it does."""
    environment = {name: value for name, value in os.environ.items() if name != "DOCKER_HOST"}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", UNPRIVILEGED, "sh", *command],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_virtual_machine_takes_the_place_of_a_container(elsewhere: Path) -> None:
    """As make deploy does it; the environment with the libraries is this one."""
    assert "root may not mount" in run(elsewhere, sys.executable, "-m", "sandbox", "up")
    pyinfra = str(Path(sys.executable).with_name("pyinfra"))
    assert "Install the engine" not in run(elsewhere, pyinfra, "-y", "inventory", "deploy.py")
    assert "as a virtual machine" in run(elsewhere, sys.executable, "-m", "sandbox", "howto")
    listed = run(elsewhere, sys.executable, "-m", "sandbox", "list")
    assert listed.split()[:3] == ["redoubt-1", "running", "vm"]
    health = "docker inspect --format '{{.State.Health.Status}}' redis"
    assert run(elsewhere, sys.executable, "-m", "sandbox", "ssh", "redoubt-1", "--", health).strip() == "healthy"
