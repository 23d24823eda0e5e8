"""Whether hosts still are what the settings say is told for people and programs, and nothing is changed for it."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer, command
from tests.lifecycle.deployed_redis import Instance


def drift(inventory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command(sys.executable, "-m", "redoubt.drift_report", str(inventory), *arguments, timeout=120)


def test_each_difference_is_named_and_nothing_is_changed(
    deployed: Host, deployer: Deployer, fingerprint: Callable[[Host], list[str]]
) -> None:
    redis, inventory = Instance(deployed, deployer.secrets(deployed)), deployer.inventory(deployed)
    well = drift(inventory, "--json")
    assert (well.returncode, well.stderr) == (0, "")
    wanted = {"state": "as wanted", "differences": [], "operations": []}
    assert json.loads(well.stdout) == {"as_wanted": True, "hosts": {deployed.name: wanted}}

    redis.call(f"{redis.secrets.renamed_command('CONFIG')} SET slowlog-max-len 7")
    deployed.run("chmod 777 /srv/redis/secrets; echo '# by hand' >>/srv/redis/compose.yml", check=True)
    before = fingerprint(deployed)
    told = drift(inventory, "--json")
    assert (told.returncode, told.stderr) == (1, "")
    document: dict[str, Any] = json.loads(told.stdout)
    assert document["as_wanted"] is False
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
    words = drift(inventory)
    assert words.returncode == 1
    assert words.stdout.startswith(f"{deployed.name}: differs\n  /srv/redis/secrets: mode 0777")
    assert fingerprint(deployed) == before


def test_a_host_that_is_not_reached_is_not_called_well_and_hides_no_other(
    deployed: Host, deployer: Deployer, tmp_path: Path
) -> None:
    inventory = deployer.inventory(deployed)
    dead = ("lifecycle-dead", {"ssh_hostname": "127.0.0.1", "ssh_port": 1})
    inventory.write_text(f"{inventory.read_text()}hosts.append({dead!r})\n")
    told = drift(inventory, "--json")
    assert told.returncode == 2
    hosts = json.loads(told.stdout)["hosts"]
    assert {name: one["state"] for name, one in hosts.items()} == {
        deployed.name: "as wanted",
        "lifecycle-dead": "unknown",
    }
    assert re.search(r"\[lifecycle-dead\] +Could not connect", told.stderr)


def test_settings_that_cannot_be_deployed_are_said(deployed: Host, deployer: Deployer) -> None:
    told = drift(deployer.inventory(deployed, redis_maxmemory="1mb"))
    assert told.returncode == 2
    assert f"{deployed.name}: unknown" in told.stdout
    assert "redis_maxmemory" in told.stderr
