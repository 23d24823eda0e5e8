"""Docker: new enough, started at boot, out of reach of the network and Redis."""

import json
from typing import Any

import pytest
from testinfra.host import Host

from redisctl import paths
from redoubt.settings.model import Settings

UNIT_PROPERTIES = ("Id", "LoadState", "UnitFileState", "ActiveState", "Before", "NeedDaemonReload")


def _active_units(settings: Settings) -> tuple[str, str]:
    return "docker.service", paths.unit(settings.redis_name, paths.LOG_TIMER)


def _recovery_units(settings: Settings) -> tuple[str, str, str]:
    name = settings.redis_name
    return (
        paths.unit(name, paths.RECOVER_PATH),
        paths.unit(name, paths.RECOVER_FILES_SERVICE),
        paths.unit(name, paths.RECOVER_SERVICE),
    )


@pytest.fixture(scope="module")
def units(host: Host, settings: Settings) -> dict[str, dict[str, str]]:
    """Return systemd's state of the units that a boot needs."""
    names = [*_active_units(settings), *_recovery_units(settings)]
    answer = host.check_output(f"systemctl show --property {','.join(UNIT_PROPERTIES)} " + " ".join(names))
    blocks = (dict(line.split("=", 1) for line in block.splitlines()) for block in answer.split("\n\n"))
    return {block["Id"]: block for block in blocks}


@pytest.fixture(scope="module")
def versions(host: Host) -> dict[str, tuple[int, ...]]:
    """Return the versions of the running Docker daemon and of Compose."""
    answer = host.check_output("docker version --format '{{json .Server.Version}}' && docker compose version --short")
    docker, compose = answer.splitlines()
    return {
        "docker": tuple(int(part) for part in json.loads(docker).split("+")[0].split(".")),
        "compose": tuple(int(part) for part in compose.lstrip("v").split("-")[0].split("+")[0].split(".")),
    }


@pytest.mark.parametrize(
    ("program", "oldest"),
    [
        # Has start_interval, so a deploy learns within a second that Redis is healthy.
        ("docker", (25, 0)),
        # The oldest Compose that supports start_interval and the limits under deploy.
        ("compose", (2, 24)),
    ],
    ids=["docker", "compose"],
)
def test_docker_and_compose_are_new_enough(
    versions: dict[str, tuple[int, ...]], program: str, oldest: tuple[int, ...]
) -> None:
    """Older versions silently ignore parts of the Compose file."""
    assert versions[program] >= oldest


def test_units_start_at_boot(units: dict[str, dict[str, str]], settings: Settings) -> None:
    """Docker starts Redis and the timer rotates its log, now and after the next boot."""
    for unit in _active_units(settings):
        assert (units[unit]["UnitFileState"], units[unit]["ActiveState"]) == ("enabled", "active"), unit


def test_interrupted_changes_are_recovered_at_boot(units: dict[str, dict[str, str]], settings: Settings) -> None:
    """systemd has the current recovery units.

    One watches for interrupted transactions, one repairs data before Docker starts.
    """
    watcher, files, recovery = (units[unit] for unit in _recovery_units(settings))
    assert (watcher["UnitFileState"], watcher["ActiveState"]) == ("enabled", "active")
    assert files["UnitFileState"] == "enabled"
    assert "docker.service" in files["Before"].split()
    assert {unit["LoadState"] for unit in (watcher, files, recovery)} == {"loaded"}
    assert {unit["NeedDaemonReload"] for unit in (watcher, files, recovery)} == {"no"}
    # A failed recovery means that Redis may be down or serve old data.
    assert "failed" not in {unit["ActiveState"] for unit in (watcher, files, recovery)}


@pytest.mark.security("network")
def test_docker_does_not_listen_on_the_network(host: Host) -> None:
    """A client of Docker's API is root on the host."""
    listeners = host.check_output("ss -Hltnp").splitlines()
    assert [line for line in listeners if "sshd" in line or "docker-proxy" in line], "ss does not show the processes"
    assert not [line for line in listeners if '"dockerd"' in line]


@pytest.mark.security("container isolation")
def test_redis_cannot_reach_docker(container: dict[str, Any]) -> None:
    """With Docker's socket mounted, a hole in Redis would be a hole in the host."""
    assert not [mount["Source"] for mount in container["Mounts"] if "docker.sock" in mount["Source"]]
