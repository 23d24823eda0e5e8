"""The drift report, which compares hosts with their settings.

It serves people and programs, and changes nothing.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.deployer import Deployer, command

UP_TO_DATE = {"state": "up to date", "differences": [], "operations": []}


@pytest.fixture(scope="module")
def deployed(host: Host, deployer: Deployer) -> Host:
    """Deploy the shared host once: only the last test changes it."""
    result = deployer.deploy(host)
    assert result.returncode == 0, result.stderr
    return host


def drift(inventory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command(sys.executable, "-m", "redoubt.drift_report", str(inventory), *arguments, timeout=120)


def test_unreachable_host_is_unknown_and_hides_no_other(deployed: Host, deployer: Deployer) -> None:
    inventory = deployer.inventory(deployed)
    dead = ("lifecycle-dead", {"ssh_hostname": "127.0.0.1", "ssh_port": 1})
    inventory.write_text(f"{inventory.read_text()}hosts.append({dead!r})\n")
    result = drift(inventory, "--json")
    assert result.returncode == 2
    hosts = json.loads(result.stdout)["hosts"]
    assert hosts == {deployed.name: UP_TO_DATE, "lifecycle-dead": {**UP_TO_DATE, "state": "unknown"}}
    assert re.search(r"\[lifecycle-dead\] +Could not connect", result.stderr)


def test_invalid_settings_are_reported(deployed: Host, deployer: Deployer) -> None:
    result = drift(deployer.inventory(deployed, redis_maxmemory="1mb"))
    assert result.returncode == 2
    assert f"{deployed.name}: unknown" in result.stdout
    assert "redis_maxmemory" in result.stderr


def test_differences_are_named_and_nothing_changes(
    deployed: Host, deployer: Deployer, fingerprint: Callable[[Host], list[str]]
) -> None:
    redis, inventory = Instance(deployed, deployer.secrets(deployed)), deployer.inventory(deployed)
    sound = drift(inventory, "--json")
    assert (sound.returncode, sound.stderr) == (0, "")
    assert json.loads(sound.stdout) == {"up_to_date": True, "hosts": {deployed.name: UP_TO_DATE}}

    redis.call(f"{redis.secrets.renamed_command('CONFIG')} SET slowlog-max-len 7")
    deployed.run("chmod 777 /srv/redis/secrets; echo '# by hand' >>/srv/redis/compose.yml", check=True)
    before = fingerprint(deployed)
    result = drift(inventory, "--json")
    assert (result.returncode, result.stderr) == (1, "")
    document: dict[str, Any] = json.loads(result.stdout)
    assert document["up_to_date"] is False
    assert document["hosts"][deployed.name] == {
        "state": "differs",
        "differences": [
            "/srv/redis/secrets: mode 0777, should be 0700",
            "redis runs with slowlog-max-len = '7', the settings say '256'",
            "/srv/redis/compose.yml: content differs",
        ],
        "operations": [
            "Directories | Create the directories",
            "Service | Change the running Redis",
            "Service | Write the Compose project",
        ],
    }
    text = drift(inventory)
    assert text.returncode == 1
    assert text.stdout.startswith(f"{deployed.name}: differs\n  /srv/redis/secrets: mode 0777")
    assert fingerprint(deployed) == before
