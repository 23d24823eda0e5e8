"""The pyinfra command: it does what its arguments say, or fails.

A failure has a clear error and a non-zero exit code.
"""

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
from tests.deployed_redis import Instance
from tests.deployer import FORKED, ROOT, Deployer, pyinfra
from tests.lifecycle.conftest import remove_instance


@pytest.fixture
def inventory(host: Host, deployer: Deployer, tmp_path: Path) -> Path:
    """Return a directory like ``inventory/``.

    It has hosts.py, an empty production.py and the group data.
    """
    directory = tmp_path / "inventory"
    shutil.copytree(ROOT / "inventory" / "group_data", directory / "group_data")
    shutil.copy(deployer.inventory(host), directory / "hosts.py")
    (directory / "production.py").write_text("redis = []\n")
    return directory


def test_inventory_directory_means_its_hosts_py(inventory: Path, host: Host) -> None:
    completed = pyinfra(str(inventory), "debug-inventory", "--json")
    assert completed.returncode == 0, completed.stderr
    assert [entry["name"] for entry in json.loads(completed.stdout)] == [host.name]


def test_project_inventory_directory_is_read() -> None:
    """Which disposable hosts run does not matter here."""
    completed = pyinfra("inventory", "debug-inventory", "--json")
    if completed.returncode:
        assert "no disposable host is running; 'make deploy' starts one" in completed.stderr
    else:
        assert json.loads(completed.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param("{inventory}/prodution.py deploy.py", "there is no inventory {inventory}/prodution.py", id="file"),
        pytest.param("invntory deploy.py", "invntory is neither an inventory file nor a host", id="directory"),
        pytest.param("nowhere.invalid deploy.py", "nowhere.invalid is neither an inventory file nor a host", id="host"),
        pytest.param(
            "{inventory}/production.py deploy.py", "production.py names no host: add yours to the list", id="empty"
        ),
        pytest.param("{inventory} deply.py", "No deploy file: deply.py", id="deploy"),
        pytest.param(
            "{inventory} deploy.py --limit unknown",
            "--limit unknown matches no host or group; the hosts are: {host}",
            id="limit",
        ),
        pytest.param(
            "{inventory} deploy.py --limit {host} --limit unknown",
            "--limit unknown matches no host or group; the hosts are: {host}",
            id="one-of-two-limits",
        ),
        pytest.param(
            "{inventory} deploy.py --exclude unknown",
            "--exclude unknown matches no host or group; the hosts are: {host}",
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
def test_misspelt_argument_is_reported_and_nothing_runs(
    arguments: str, message: str, inventory: Path, host: Host
) -> None:
    """Without our patches, all of these but a misspelt deploy file end with success."""
    names = {"inventory": str(inventory), "host": host.name}
    words = ("-y", *arguments.format(**names).split())
    # One case runs the command itself. The others need not wait for its imports.
    completed = pyinfra(*words) if arguments.startswith("invntory") else FORKED.run(words)
    assert message.format(**names) in completed.stderr
    assert completed.returncode == 1
    assert "Connecting" not in completed.stderr


def test_first_connection_stores_the_host_key(host: Host, deployer: Deployer, tmp_path: Path) -> None:
    """As with ssh. pyinfra alone does not connect if ~/.ssh is missing."""
    path = tmp_path / "hosts.py"
    forget = "del hosts[0][1]['ssh_known_hosts_file'], hosts[0][1]['ssh_strict_host_key_checking']\n"
    path.write_text(deployer.inventory(host).read_text() + forget)
    home = tmp_path / "home"
    home.mkdir()
    completed = pyinfra(str(path), "exec", "--", "true", env={"HOME": str(home)})
    assert completed.returncode == 0, completed.stderr
    assert f"[127.0.0.1]:{host.ssh_port} ssh-ed25519" in (home / ".ssh" / "known_hosts").read_text()
    assert (home / ".ssh").stat().st_mode & 0o777 == 0o700


def test_other_pyinfra_series_is_refused_before_patching(inventory: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata\n"
        "version = metadata.version\n"
        "metadata.version = lambda name: '3.11.0' if name == 'pyinfra' else version(name)\n"
    )
    completed = pyinfra("-y", str(inventory), "deploy.py", env={"PYTHONPATH": str(tmp_path)})
    assert completed.returncode != 0
    assert "pyinfra version requirement not met (requires ~=3.10.0, running 3.11.0)" in completed.stderr
    assert "Connecting" not in completed.stderr


def test_first_dry_run_plans_and_changes_nothing(
    host: Host, deployer: Deployer, fingerprint: Callable[[Host], list[str]]
) -> None:
    remove_instance(host, image=True)
    before = fingerprint(host)
    result = deployer.deploy(host, arguments=("--dry", "--json"))
    assert result.returncode == 0, result.stderr
    assert fingerprint(host) == before
    planned = [entry["name"] for entry in json.loads(result.stdout)["plan"] if entry["hosts_with_change"]]
    assert "Image | Load the image from its archive" in planned
    assert "Service | Start Redis and wait until it is healthy" in planned
    assert "is up" not in result.stderr


def test_no_terminal_fails_without_changes(
    deployed: Host, deployer: Deployer, fingerprint: Callable[[Host], list[str]]
) -> None:
    """As in a cron job. pyinfra asks for confirmation without -y."""
    before = fingerprint(deployed)
    result = deployer.deploy(deployed, arguments=(), redis_maxmemory="300mb")
    assert result.returncode == 1
    assert "no terminal to ask for confirmation: add -y" in result.stderr
    assert "Traceback" not in result.stderr
    assert fingerprint(deployed) == before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_fails_deploy_and_next_one_finishes(signum: int, deployed: Host, deployer: Deployer) -> None:
    backlog = 300 + signum
    running = deployer.start(deployed, is_forked=False, redis_tcp_backlog=backlog)
    running.wait_for("redis restarts because of redis_tcp_backlog")
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


def test_unreachable_host_fails_but_others_are_deployed(
    undeployed_host: Host, deployer: Deployer, tmp_path: Path
) -> None:
    """The deploy fails for an unreachable host and deploys the other one.

    Port 1 of this machine acts as a host that is switched off: it refuses the connection at once.
    """
    path = tmp_path / "two.py"
    dead = ("lifecycle-dead", {"ssh_hostname": "127.0.0.1", "ssh_port": 1, "redis_port": 6379})
    path.write_text(deployer.inventory(undeployed_host).read_text() + f"hosts.append({dead!r})\n")
    completed = pyinfra("-y", "--json", "--group-data", "inventory/group_data", str(path), "deploy.py")
    assert completed.returncode == 1
    assert re.search(r"\[lifecycle-dead\] +Could not connect", completed.stderr)
    assert Instance(undeployed_host, deployer.secrets(undeployed_host)).health == "healthy"
    assert not os.path.exists(deployer.secrets_dir / "lifecycle-dead")


def test_quiet_host_suite_reports_what_it_leaves_out(deployed: Host, deployer: Deployer) -> None:
    """With -q there is no header, and pytest would print only "9 deselected"."""
    command = [sys.executable, "-m", "pytest", "tests/host/test_tuning.py", "-q", "--inventory"]
    completed = subprocess.run(
        [*command, str(deployer.inventory(deployed))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout
    lines = completed.stdout.splitlines()
    reason = "the kernel and AppArmor (redis_host_tuning = False: the deploy leaves the kernel alone)"
    assert f"left out on {deployed.name}: {reason}" in lines
