"""`make deploy` uses a virtual machine where Docker cannot run.

The tests run in mount namespaces of this machine, without a Docker socket: as root in an unprivileged container (with
Docker's default capabilities), and on machines that lack only one thing. They use a copy of the project, because the
project's own Docker may be running.
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
# All files of a container, except for its volumes, are on overlays.
ON_OVERLAYS = """
mount -t tmpfs tmpfs /mnt
for path in /var/lib "$PWD"; do
  mkdir -p "/mnt$path/upper" "/mnt$path/work"
  mount -t overlay overlay -o "lowerdir=$path,upperdir=/mnt$path/upper,workdir=/mnt$path/work" "$path"
done
cd "$PWD"
exec "$@"
"""

# Not copied: secrets and everything that was built.
NOT_COPIED = shutil.ignore_patterns(".sandbox", ".venv", ".git", "__pycache__", ".*_cache", "secrets")


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Path]:
    """Return a copy of the project.

    It shares QEMU and the disks of virtual machines with the project. In a fresh checkout the unprivileged root builds
    these. The copy is removed afterwards. It is not in a temporary directory, because that may be in memory.
    """
    copy = STATE / "elsewhere"
    if copy.exists():
        # An interrupted run left it.
        _remove(copy)
    shutil.copytree(PROJECT, copy, ignore=NOT_COPIED)
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
    """Run a command in an unprivileged container, or on another ``machine``.

    Return its output; fails if it fails.
    """
    hidden = "set -e; [ ! -S /run/docker.sock ] || mount --bind /dev/null /run/docker.sock; "
    environment = {name: value for name, value in os.environ.items() if name != "DOCKER_HOST"}
    result = subprocess.run(
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
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        pytest.param(WITHOUT_NETWORKS, "root may not set up networks", id="networks"),
        pytest.param(ON_OVERLAYS, "can hold overlay layers", id="overlays"),
    ],
)
def test_virtual_machine_is_chosen_if_docker_cannot_run(machine: str, reason: str, elsewhere: Path) -> None:
    """This only chooses; the next test also starts one."""
    choose = "from sandbox.__main__ import choose; print('chosen:', *choose('redoubt-1', '', ''))"
    output = run(elsewhere, sys.executable, "-c", choose, machine=machine)
    assert reason in output
    assert "chosen: vm host" in output


def test_make_deploy_uses_a_virtual_machine(elsewhere: Path) -> None:
    """Starts it with Docker, where the deploy of make deploy can begin.

    test_smoke.py deploys to a virtual machine. An emulated one takes minutes for that, so this does not repeat it.
    """
    assert "root may not mount" in run(elsewhere, sys.executable, "-m", "sandbox", "up")
    assert "as a virtual machine" in run(elsewhere, sys.executable, "-m", "sandbox", "howto")
    hosts = run(elsewhere, sys.executable, "-m", "sandbox", "list")
    assert hosts.split()[:3] == ["redoubt-1", "running", "vm"]
    version = "docker version --format '{{.Server.Version}}'"
    assert run(elsewhere, sys.executable, "-m", "sandbox", "ssh", "redoubt-1", "--", version).strip()
