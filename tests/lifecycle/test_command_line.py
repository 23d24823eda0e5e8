"""The command line does what it was told or says in words why not, and its exit code tells which."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.hosts import Host
from tests.lifecycle.conftest import ROOT, Deployer, pyinfra
from tests.lifecycle.deployed_redis import Instance


@pytest.fixture
def inventory(host: Host, deployer: Deployer, tmp_path: Path) -> Path:
    """A directory as ``inventory/`` is one: hosts.py, an empty production.py and the group data."""
    directory = tmp_path / "inventory"
    shutil.copytree(ROOT / "inventory" / "group_data", directory / "group_data")
    shutil.copy(deployer.inventory(host), directory / "hosts.py")
    (directory / "production.py").write_text("redis = []\n")
    return directory


def test_the_directory_of_inventories_stands_for_the_hosts_in_hosts_py(inventory: Path, host: Host) -> None:
    done = pyinfra(str(inventory), "debug-inventory", "--json")
    assert done.returncode == 0, done.stderr
    assert [entry["name"] for entry in json.loads(done.stdout)] == [host.name]


def test_the_project_s_own_inventory_is_read_as_a_directory_too() -> None:
    """Looked at only: which disposable hosts run is not this test's business."""
    done = pyinfra("inventory", "debug-inventory", "--json")
    if done.returncode:
        assert "no disposable host is running; 'make deploy' starts one" in done.stderr
    else:
        assert json.loads(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param("{inventory}/prodution.py deploy.py", "there is no inventory {inventory}/prodution.py", id="file"),
        pytest.param("invntory deploy.py", "invntory is neither an inventory file nor a host", id="directory"),
        pytest.param("nowhere.invalid deploy.py", "nowhere.invalid is neither an inventory file nor a host", id="host"),
        pytest.param(
            "{inventory}/production.py deploy.py", "production.py names no host: add yours to the list", id="empty"
        ),
        pytest.param("{inventory} deply.py", "No deploy file: deply.py", id="deploy"),
        pytest.param(
            "{inventory} deploy.py --limit nobody",
            "--limit nobody matches no host or group; the hosts are: {host}",
            id="limit",
        ),
        pytest.param(
            "{inventory} deploy.py --limit {host} --limit nobody",
            "--limit nobody matches no host or group; the hosts are: {host}",
            id="one-of-two-limits",
        ),
        pytest.param(
            "{inventory} deploy.py --exclude nobody",
            "--exclude nobody matches no host or group; the hosts are: {host}",
            id="exclude",
        ),
        pytest.param(
            "{inventory} deploy.py --exclude {host}", "--limit and --exclude together leave no host", id="exclude-all"
        ),
        pytest.param(
            "{inventory} deploy.py --limit {host} --exclude life*",
            "--limit and --exclude together leave no host",
            id="exclude-the-limit",
        ),
    ],
)
def test_a_slip_of_the_pen_is_named_and_nothing_is_done(
    arguments: str, words: str, inventory: Path, host: Host
) -> None:
    """Every one of these but the last file name ends with success where pyinfra is left to itself."""
    names = {"inventory": str(inventory), "host": host.name}
    done = pyinfra("-y", *arguments.format(**names).split())
    assert words.format(**names) in done.stderr
    assert done.returncode == 1
    assert "Connecting" not in done.stderr


def test_a_first_connection_from_a_machine_that_never_used_ssh_learns_the_host_s_key(
    host: Host, deployer: Deployer, tmp_path: Path
) -> None:
    """As ssh does it; pyinfra by itself does not connect where ~/.ssh is missing."""
    path = tmp_path / "hosts.py"
    forget = "del hosts[0][1]['ssh_known_hosts_file'], hosts[0][1]['ssh_strict_host_key_checking']\n"
    path.write_text(deployer.inventory(host).read_text() + forget)
    home = tmp_path / "home"
    home.mkdir()
    done = pyinfra(str(path), "exec", "--", "true", env={"HOME": str(home)})
    assert done.returncode == 0, done.stderr
    assert f"[127.0.0.1]:{host.ssh_port} ssh-ed25519" in (home / ".ssh" / "known_hosts").read_text()
    assert (home / ".ssh").stat().st_mode & 0o777 == 0o700


def test_another_series_of_pyinfra_is_refused_before_its_private_names_are_touched(
    inventory: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata\n"
        "genuine = metadata.version\n"
        "metadata.version = lambda name: '3.11.0' if name == 'pyinfra' else genuine(name)\n"
    )
    done = pyinfra("-y", str(inventory), "deploy.py", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode != 0
    assert "pyinfra version requirement not met (requires ~=3.10.0, running 3.11.0)" in done.stderr
    assert "Connecting" not in done.stderr


def test_a_first_deploy_that_is_dry_says_what_it_would_do_and_leaves_the_host_alone(
    undeployed_host: Host, deployer: Deployer, fingerprint: Callable[[Host], list[str]]
) -> None:
    before = fingerprint(undeployed_host)
    result = deployer.deploy(undeployed_host, arguments=("--dry", "--json"))
    assert result.returncode == 0, result.stderr
    assert fingerprint(undeployed_host) == before
    planned = [entry["name"] for entry in json.loads(result.stdout)["plan"] if entry["hosts_with_change"]]
    assert "Image | Load the image from its archive" in planned
    assert "Service | Start Redis and wait until it is healthy" in planned
    assert "is up" not in result.stderr


def test_without_an_answer_nothing_is_changed_and_the_way_on_is_said(
    deployed: Host, deployer: Deployer, fingerprint: Callable[[Host], list[str]]
) -> None:
    """As in a cron job. pyinfra asks for Enter unless it is told -y."""
    before = fingerprint(deployed)
    result = deployer.deploy(deployed, arguments=(), redis_maxmemory="300mb")
    assert result.returncode == 1
    assert "no terminal to ask for confirmation: add -y" in result.stderr
    assert "Traceback" not in result.stderr
    assert fingerprint(deployed) == before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_deploy_says_so_fails_and_is_finished_by_the_next(
    signum: int, deployed: Host, deployer: Deployer
) -> None:
    backlog = 300 + signum
    running = deployer.start(deployed, redis_tcp_backlog=backlog)
    running.wait_for("redis starts anew for redis_tcp_backlog")
    running.signal(signum)
    result = running.wait()
    assert result.returncode == 128 + signum
    assert "interrupted: hosts may be changed in part; run the same command again to finish" in result.stderr
    assert "Traceback" not in result.stderr
    assert "is up" not in result.stderr

    assert deployer.deploy(deployed, redis_tcp_backlog=backlog).returncode == 0
    instance = Instance(deployed, deployer.secrets(deployed))
    assert instance.health == "healthy"
    assert instance.config("tcp-backlog") == str(backlog)


def test_a_host_that_cannot_be_reached_fails_the_deploy_and_the_others_are_deployed(
    undeployed_host: Host, deployer: Deployer, tmp_path: Path
) -> None:
    """Port 1 of this machine is the dead host: refused at once, as by a host that is switched off."""
    path = tmp_path / "two.py"
    dead = ("lifecycle-dead", {"ssh_hostname": "127.0.0.1", "ssh_port": 1, "redis_port": 6379})
    path.write_text(deployer.inventory(undeployed_host).read_text() + f"hosts.append({dead!r})\n")
    done = pyinfra("-y", "--json", "--group-data", "inventory/group_data", str(path), "deploy.py")
    assert done.returncode == 1
    assert re.search(r"\[lifecycle-dead\] +Could not connect", done.stderr)
    assert Instance(undeployed_host, deployer.secrets(undeployed_host)).health == "healthy"
    assert not os.path.exists(deployer.secrets_dir / "lifecycle-dead")


def test_what_the_acceptance_suite_leaves_out_is_said_where_it_says_little_else(
    deployed: Host, deployer: Deployer
) -> None:
    """With -q there is no header, and "9 deselected" would be all."""
    command = [sys.executable, "-m", "pytest", "tests/host/test_tuning.py", "-q", "--inventory"]
    done = subprocess.run(
        [*command, str(deployer.inventory(deployed))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    said = done.stdout.splitlines()
    assert f"left out on {deployed.name}: the kernel's settings (redis_host_tuning = False: nobody set them)" in said
