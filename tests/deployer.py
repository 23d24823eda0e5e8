"""Fixtures of tests/lifecycle and tests/apps: disposable hosts, and deploys.

Deploys run as an operator runs them. These tests change, break and remove hosts of their own. They never use the user's
inventory: this module starts every host that they deploy to, with a name that begins with ``lifecycle-``, and removes
it at the end.
"""

import atexit
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from redoubt import secret_store
from redoubt.secret_store import Secrets
from redoubt.settings.load import load
from sandbox import hosts
from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.forked_pyinfra import ForkedPyinfra

ROOT = Path(__file__).resolve().parents[1]
PYINFRA = Path(sys.executable).with_name("pyinfra")
FORKED = ForkedPyinfra()
atexit.register(FORKED.close)


def pyinfra(
    *arguments: str, timeout: float = 600, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the pyinfra command in the project, as an operator does.

    Never raises for its exit code.
    """
    return command(str(PYINFRA), *arguments, timeout=timeout, env=env)


def command(
    *words: str, timeout: float = 600, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in the project, without a terminal.

    Never raises for its exit code.
    """
    return subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@dataclass(frozen=True)
class DeployResult:
    """The result of a deploy. ``changed`` and ``failed`` are names of operations."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def operations(self) -> list[dict[str, Any]]:
        if not self.stdout.startswith("{"):
            return []
        operations: list[dict[str, Any]] = json.loads(self.stdout)["results"]["operations"]
        return operations

    @property
    def changed(self) -> list[str]:
        return [operation["name"] for operation in self.operations if operation["success"]]

    @property
    def failed(self) -> list[str]:
        return [operation["name"] for operation in self.operations if operation["error"]]

    @property
    def reasons(self) -> list[str]:
        """The messages about single hosts: the reasons for changes, and what was refused."""
        return re.findall(r"^    \[[^]]+\] (.*)$", self.stderr, re.MULTILINE)

    @property
    def ssh_commands(self) -> int:
        """The number of SSH commands that the last line reports."""
        match = re.search(r"^--> (\d+) SSH commands, [\d.]+ s$", self.stderr, re.MULTILINE)
        assert match, self.stderr
        return int(match[1])


class BackgroundDeploy:
    """A pyinfra command that is running, and its output so far."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self.process = subprocess.Popen(
            [str(PYINFRA), *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: list[str] = []
        self._has_ended = False
        self._new_line = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._new_line:
                self._lines.append(line)
                self._new_line.notify_all()
        with self._new_line:
            self._has_ended = True
            self._new_line.notify_all()

    @property
    def stderr(self) -> str:
        return "".join(self._lines)

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Return as soon as the command has printed a text."""
        with self._new_line:
            self._new_line.wait_for(lambda: self._has_ended or text in self.stderr, seconds)
            assert text in self.stderr, f"not printed within {seconds:.0f} s: {text!r}. Output:\n{self.stderr}"

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def wait(self, seconds: float = 120) -> DeployResult:
        """Wait until it ends and return its result."""
        assert self.process.stdout is not None
        stdout = self.process.stdout.read()
        returncode = self.process.wait(seconds)
        self._reader.join(seconds)
        return DeployResult(returncode, stdout, self.stderr)


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
        """Write an inventory of these hosts, as a user would, and return its path."""
        entries = [
            (
                host.name,
                {
                    **host.deploy_data(),
                    "redis_secrets_dir": str(self.secrets_dir),
                    **self.data.get(host.name, {}),
                    **settings,
                },
            )
            for host in targets
        ]
        group_data = self.directory / "group_data"
        if not group_data.exists():
            group_data.symlink_to(ROOT / "inventory" / "group_data")
        path = self.directory / f"{'+'.join(host.name for host in targets)}.py"
        path.write_text(f"hosts = {entries!r}\n")
        return path

    def deploy(
        self, *targets: Host, job: str = "deploy.py", arguments: tuple[str, ...] = ("-y", "--json"), **settings: Any
    ) -> DeployResult:
        """Run ``pyinfra <inventory> deploy.py`` for these hosts, or another ``job``."""
        completed = FORKED.run(self._arguments(targets, job, arguments, settings))
        return DeployResult(completed.returncode, completed.stdout, completed.stderr)

    def instance(self, host: Host, **settings: Any) -> Instance:
        """Deploy to one host, which must succeed, and return its instance."""
        result = self.deploy(host, **settings)
        assert result.returncode == 0, result.stderr
        known = {**host.deploy_data(), **self.data.get(host.name, {}), **settings}
        return Instance(host, self.secrets(host, **known))

    def start(
        self, *targets: Host, job: str = "deploy.py", arguments: tuple[str, ...] = ("-y",), **settings: Any
    ) -> BackgroundDeploy:
        """Start a deploy in the background."""
        return BackgroundDeploy(self._arguments(targets, job, arguments, settings))

    def _arguments(
        self, targets: tuple[Host, ...], job: str, arguments: tuple[str, ...], settings: dict[str, Any]
    ) -> tuple[str, ...]:
        path = self.inventory(*targets, **settings)
        return (*arguments, str(path), job)

    def secrets(self, host: Host, **settings: Any) -> Secrets:
        """Return the secrets that a deploy to the host created."""
        return secret_store.load(load({"redis_secrets_dir": str(self.secrets_dir), **settings}), host.name)


@pytest.fixture(scope="session")
def deployer(tmp_path_factory: pytest.TempPathFactory) -> Deployer:
    """Give a deployer with a separate secret store, so that the user's is never used."""
    return Deployer(tmp_path_factory.mktemp("deployer"))


@pytest.fixture(scope="session")
def start_host() -> Iterator[Callable[..., Host]]:
    """Yield a function that starts disposable hosts by name.

    An example is ``start_host("lifecycle-2", image="bare")``. The hosts are removed at the end. Each worker of a
    parallel run has its own hosts, such as ``lifecycle-2-gw1``.
    """
    started: dict[str, Host] = {}
    worker = os.environ.get("PYTEST_XDIST_WORKER")

    def start(name: str, **options: Any) -> Host:
        assert name.startswith("lifecycle-"), name
        if name not in started:
            started[name] = hosts.up(f"{name}-{worker}" if worker else name, **options)
        return started[name]

    yield start
    for host in started.values():
        host.down()
