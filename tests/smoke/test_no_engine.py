"""A machine on which no container engine can run: what make deploy does ends with a Redis all the same.

It is this machine without any engine's socket, as root sees it in an unprivileged container (Docker's default
capabilities), and in those that lack one thing alone. In a copy of the project, since an engine of the project's own
may be running here.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import disk
from sandbox.util import STATE
from tests.host.inventory import PROJECT

# https://docs.docker.com/engine/containers/run/#runtime-privilege-and-linux-capabilities
CAPABILITIES = (
    "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw,sys_chroot,mknod,"
    "audit_write,setfcap"
)
UNPRIVILEGED = f'exec setpriv --bounding-set=-all,+{CAPABILITIES.replace(",", ",+")} --inh-caps=-all "$@"'
WITHOUT_NETWORKS = 'exec setpriv --bounding-set=-net_admin --inh-caps=-net_admin "$@"'
# As all files of a container are, but for its volumes.
ON_OVERLAYS = """
mount -t tmpfs tmpfs /mnt
for path in /var/lib "$PWD"; do
  mkdir -p "/mnt$path/upper" "/mnt$path/work"
  mount -t overlay overlay -o "lowerdir=$path,upperdir=/mnt$path/upper,workdir=/mnt$path/work" "$path"
done
cd "$PWD"
exec "$@"
"""

# Nobody's passwords, and nothing that was made.
LEFT_BEHIND = shutil.ignore_patterns(".sandbox", ".venv", ".git", "__pycache__", ".*_cache", "secrets")


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Path]:
    """A copy of the project without anything that was made in it but what all virtual machines start from.

    Disks and QEMU it shares with the project, either way: in a fresh checkout it is the unprivileged root that makes
    them. Whatever else it makes is removed. Not in a directory for temporary files, which may be in memory.
    """
    copy = STATE / "elsewhere"
    if copy.exists():
        _remove(copy)  # of a run that was broken off
    shutil.copytree(PROJECT, copy, ignore=LEFT_BEHIND)
    disk.SHARED.mkdir(exist_ok=True)
    state = copy / STATE.relative_to(PROJECT)
    state.mkdir(mode=0o700)
    (state / disk.SHARED.relative_to(STATE)).symlink_to(disk.SHARED)
    try:
        yield copy
    finally:
        _remove(copy)


def _remove(copy: Path) -> None:
    run(copy, sys.executable, "-m", "sandbox", "clean")
    shutil.rmtree(copy)


def run(directory: Path, *command: str, machine: str = UNPRIVILEGED) -> str:
    """Run a command as in an unprivileged container, or on another machine: all that it says. Fails when it does."""
    hidden = "set -e; [ ! -S /run/docker.sock ] || mount --bind /dev/null /run/docker.sock; "
    environment = {name: value for name, value in os.environ.items() if name != "DOCKER_HOST"}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hidden + machine, "sh", *command],
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


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        pytest.param(WITHOUT_NETWORKS, "root may not set up networks", id="networks"),
        pytest.param(ON_OVERLAYS, "can hold overlay layers", id="overlays"),
    ],
)
def test_whatever_keeps_an_engine_from_running_a_virtual_machine_is_chosen(
    machine: str, reason: str, elsewhere: Path
) -> None:
    """Chosen and no more: below it is also started."""
    choose = "from sandbox.__main__ import choose; print('chosen:', *choose('redoubt-1', '', ''))"
    said = run(elsewhere, sys.executable, "-c", choose, machine=machine)
    assert reason in said
    assert "chosen: vm host" in said


def test_a_virtual_machine_takes_the_place_of_a_container(elsewhere: Path) -> None:
    """As make deploy does it; the environment with the libraries is this one."""
    assert "root may not mount" in run(elsewhere, sys.executable, "-m", "sandbox", "up")
    pyinfra = str(Path(sys.executable).with_name("pyinfra"))
    assert "Install Docker" not in run(elsewhere, pyinfra, "-y", "inventory", "deploy.py")
    assert "as a virtual machine" in run(elsewhere, sys.executable, "-m", "sandbox", "howto")
    listed = run(elsewhere, sys.executable, "-m", "sandbox", "list")
    assert listed.split()[:3] == ["redoubt-1", "running", "vm"]
    health = "docker inspect --format '{{.State.Health.Status}}' redis"
    assert run(elsewhere, sys.executable, "-m", "sandbox", "ssh", "redoubt-1", "--", health).strip() == "healthy"
