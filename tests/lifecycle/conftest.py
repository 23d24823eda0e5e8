"""What the lifecycle tests stand on: disposable hosts of their own, and deploys as an operator runs them.

These tests change hosts, break them and remove them. They never touch an inventory of the user's: every host
they deploy to is started here, under a name that begins with ``lifecycle-``, and removed at the end.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from redoubt import secretstore
from redoubt.secretstore import Secrets
from redoubt.settings import load
from sandbox import hosts, images
from sandbox.hosts import Host

ROOT = Path(__file__).resolve().parents[2]
PYINFRA = Path(sys.executable).with_name("pyinfra")


def pyinfra(
    *arguments: str, timeout: float = 600, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the pyinfra command in the project, as an operator does. Never raises for its exit code."""
    return subprocess.run(
        [str(PYINFRA), *arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@dataclass(frozen=True)
class Result:
    """How a deploy ended. ``changed`` and ``failed`` are names of operations."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def operations(self) -> list[dict[str, Any]]:
        if not self.stdout.startswith("{"):
            return []
        found: list[dict[str, Any]] = json.loads(self.stdout)["results"]["operations"]
        return found

    @property
    def changed(self) -> list[str]:
        return [operation["name"] for operation in self.operations if operation["success"]]

    @property
    def failed(self) -> list[str]:
        return [operation["name"] for operation in self.operations if operation["error"]]


@dataclass(frozen=True)
class Deployer:
    """Deploys to hosts with settings: ``deployer.deploy(host, redis_port=6380)``.

    Every host keeps its secrets in ``secrets_dir`` and its data in ``data`` between deploys.
    """

    directory: Path
    data: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def secrets_dir(self) -> Path:
        return self.directory / "secrets"

    def inventory(self, *targets: Host, **settings: Any) -> Path:
        """An inventory file of these hosts, as a user would write it."""
        entries = [
            (
                host.name,
                {
                    **host.ssh_data(),
                    "redis_image_source": "archive",
                    "redis_image": images.redis_reference(),
                    "redis_image_archive": str(images.redis_archive()),
                    "redis_secrets_dir": str(self.secrets_dir),
                    **self.data.get(host.name, {}),
                    **settings,
                },
            )
            for host in targets
        ]
        path = self.directory / "inventory.py"
        path.write_text(f"hosts = {entries!r}\n")
        return path

    def deploy(self, *targets: Host, arguments: tuple[str, ...] = ("-y", "--json"), **settings: Any) -> Result:
        """Run ``pyinfra <inventory> deploy.py`` for these hosts."""
        path = self.inventory(*targets, **settings)
        done = pyinfra(*arguments, "--group-data", "inventory/group_data", str(path), "deploy.py")
        return Result(done.returncode, done.stdout, done.stderr)

    def secrets(self, host: Host, **settings: Any) -> Secrets:
        """The secrets that a deploy to the host made."""
        return secretstore.load(load({"redis_secrets_dir": str(self.secrets_dir), **settings}), host.name)


@pytest.fixture(scope="session")
def deployer(tmp_path_factory: pytest.TempPathFactory) -> Deployer:
    """Deploys with secrets of their own, so that the user's are never touched."""
    return Deployer(tmp_path_factory.mktemp("deployer"))


@pytest.fixture(scope="session")
def start_host() -> Iterator[Callable[..., Host]]:
    """Start disposable hosts by name (``start_host("lifecycle-2", image="bare")``); removed at the end."""
    started: dict[str, Host] = {}

    def start(name: str, **options: Any) -> Host:
        assert name.startswith("lifecycle-"), name
        if name not in started:
            started[name] = hosts.up(name, **options)
        return started[name]

    yield start
    for host in started.values():
        host.down()


@pytest.fixture(scope="session")
def host(start_host: Callable[..., Host]) -> Host:
    """The host that most lifecycle tests share. A test leaves it deployed with default settings, or deploys anew."""
    return start_host("lifecycle-1")


@pytest.fixture
def deployed(host: Host, deployer: Deployer) -> Host:
    """The shared host, deployed with default settings whatever the test before left behind."""
    result = deployer.deploy(host)
    assert result.returncode == 0, result.stderr
    return host
