"""The container engine: new enough, there after a reboot, and no door of its own."""

import json
from typing import Any

import pytest
from testinfra.host import Host

from tests.host.host_under_test import Target


@pytest.fixture(scope="module")
def units(host: Host) -> dict[str, dict[str, str]]:
    """What systemd says of the units that a reboot needs."""
    names = ["docker.service", "logrotate.timer"]
    answer = host.check_output("systemctl show --property Id,UnitFileState,ActiveState " + " ".join(names))
    blocks = (dict(line.split("=", 1) for line in block.splitlines()) for block in answer.split("\n\n"))
    return {block["Id"]: block for block in blocks}


@pytest.fixture(scope="module")
def versions(host: Host) -> dict[str, tuple[int, ...]]:
    """Versions of the engine (the daemon's own answer) and of Compose."""
    answer = host.check_output("docker version --format '{{json .Server.Version}}' && docker compose version --short")
    engine, compose = answer.splitlines()
    return {
        "engine": tuple(int(part) for part in json.loads(engine).split("+")[0].split(".")),
        "compose": tuple(int(part) for part in compose.lstrip("v").split("-")[0].split("+")[0].split(".")),
    }


@pytest.mark.parametrize(
    ("program", "oldest"),
    [
        # start_interval: a deploy knows within a second that Redis is healthy.
        ("engine", (25, 0)),
        # The oldest Compose that passes that on, and honours limits under deploy.
        ("compose", (2, 24)),
    ],
    ids=["engine", "compose"],
)
def test_engine_and_compose_are_new_enough(
    versions: dict[str, tuple[int, ...]], program: str, oldest: tuple[int, ...]
) -> None:
    """Older ones read the Compose project and leave out what they do not know."""
    assert versions[program] >= oldest


@pytest.mark.parametrize("unit", ["docker.service", "logrotate.timer"])
def test_a_reboot_brings_it_back(units: dict[str, dict[str, str]], unit: str) -> None:
    """Docker starts Redis; the timer rotates its log. Running now says nothing about the next boot."""
    assert units[unit]["UnitFileState"] == "enabled"
    assert units[unit]["ActiveState"] == "active"


@pytest.mark.security("network")
def test_engine_is_not_open_to_the_network(host: Host) -> None:
    """Whoever reaches the engine's API is root on the host."""
    listeners = host.check_output("ss -Hltnp").splitlines()
    assert [line for line in listeners if "sshd" in line or "docker-proxy" in line], "ss must show who listens"
    assert not [line for line in listeners if '"dockerd"' in line]


@pytest.mark.security("container isolation")
def test_redis_has_no_door_to_the_engine(target: Target, container: dict[str, Any]) -> None:
    """A mounted engine socket would make any hole in Redis one in the host."""
    assert not [mount["Source"] for mount in container["Mounts"] if "docker.sock" in mount["Source"]]
