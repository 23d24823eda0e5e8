"""Fixtures of tests/lifecycle and tests/apps: disposable hosts, and deploys.

Deploys run as an operator runs them. These tests change, break and remove hosts of their own. They never use the user's
inventory: this module starts every host that they deploy to, with a name that begins with ``lifecycle-``, and removes
it at the end.
"""

import atexit
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from redoubt import secret_store
from redoubt.secret_store import Secrets
from redoubt.settings.load import load
from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.forked_pyinfra import ForkedProcess, ForkedPyinfra
from tests.host_pool import HostPool

ROOT = Path(__file__).resolve().parents[1]
PYINFRA = Path(sys.executable).with_name("pyinfra")
# The default of 03:00 may come during the tests, and a backup holds the lock. This time is at least six hours away.
BACKUP_SCHEDULE = "03:00 UTC" if 9 <= datetime.now(UTC).hour < 21 else "03:00 Etc/GMT-12"
FORKED = ForkedPyinfra()
atexit.register(FORKED.close)


def deploy_data(host: Host) -> dict[str, str | int | bool]:
    """Return a host's data for the deploys of tests."""
    return {**host.deploy_data(), "redis_backup_schedule": BACKUP_SCHEDULE}


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
    """A pyinfra command that is running, and its output so far.

    A fork, or the command itself if ``is_forked`` is false.
    """

    def __init__(self, arguments: tuple[str, ...], *, is_forked: bool) -> None:
        (stdout, its_stdout), (stderr, its_stderr) = os.pipe(), os.pipe()
        self.process: ForkedProcess | subprocess.Popen[bytes]
        if is_forked:
            self.process = FORKED.start(arguments, its_stdout, its_stderr)
        else:
            self.process = subprocess.Popen(
                [str(PYINFRA), *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=its_stdout, stderr=its_stderr
            )
        os.close(its_stdout)
        os.close(its_stderr)
        self._its_stdout, self._its_stderr = os.fdopen(stdout), os.fdopen(stderr)
        self._lines: list[str] = []
        self._has_ended = False
        self._new_line = threading.Condition()
        self._stdout = ""
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_stdout, self._read_stderr)]
        for reader in self._readers:
            reader.start()

    def _read_stdout(self) -> None:
        self._stdout = self._its_stdout.read()

    def _read_stderr(self) -> None:
        for line in self._its_stderr:
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

    def wait(self, seconds: float = 600) -> DeployResult:
        """Wait until it ends and return its result. Raises TimeoutExpired."""
        returncode = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(seconds)
        return DeployResult(returncode, self._stdout, self.stderr)


@dataclass(frozen=True)
class Deployer:
    """Deploys to hosts with settings: ``deployer.deploy(host, redis_port=6380)``.

    Every host keeps its secrets in ``secrets_dir`` and its data in ``data`` between deploys.
    """

    directory: Path
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    _started: list[tuple[BackgroundDeploy, tuple[Host, ...]]] = field(default_factory=list)

    @property
    def secrets_dir(self) -> Path:
        return self.directory / "secrets"

    def inventory(self, *targets: Host, **settings: Any) -> Path:
        """Write an inventory of these hosts, as a user would, and return its path."""
        entries = [
            (
                host.name,
                {
                    **deploy_data(host),
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
        known = {**deploy_data(host), **self.data.get(host.name, {}), **settings}
        return Instance(host, self.secrets(host, **known))

    def start(
        self,
        *targets: Host,
        job: str = "deploy.py",
        arguments: tuple[str, ...] = ("-y",),
        is_forked: bool = True,
        **settings: Any,
    ) -> BackgroundDeploy:
        """Start a deploy in the background."""
        running = BackgroundDeploy(self._arguments(targets, job, arguments, settings), is_forked=is_forked)
        self._started.append((running, targets))
        return running

    def kill_running(self) -> list[Host]:
        """Kill the deploys in the background that have not ended. Returns their hosts."""
        targets: list[Host] = []
        while self._started:
            running, its_targets = self._started.pop()
            if running.process.poll() is None:
                running.signal(signal.SIGKILL)
                running.wait()
                targets += its_targets
        return targets

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
def _pool() -> Iterator[HostPool]:
    pool = HostPool()
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def start_host(_pool: HostPool, request: pytest.FixtureRequest) -> Callable[..., Host]:
    """Return a function that starts disposable hosts by name.

    An example is ``start_host("lifecycle-2", image="bare")``. Modules share the hosts, but never get one on which a
    test has failed. The hosts are removed at the end. Each worker of a parallel run has its own hosts, such as
    ``lifecycle-2-gw1``.
    """
    # Here and not after the module: the report of a failed teardown comes after the last fixture.
    _pool.renew(request.session.testsfailed)
    return _pool.start
