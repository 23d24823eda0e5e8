"""Docker for redisctl: the containers of one project, and its Compose commands.

Every Compose command names the project and the file explicitly.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from redisctl import paths
from redisctl.core import process
from redisctl.core.errors import Failure

T = TypeVar("T")

PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
HASH_LABEL = "com.docker.compose.config-hash"
ONE_OFF_LABEL = "com.docker.compose.oneoff"
DEFINITION_LABEL = "redoubt.definition"

# Seconds to wait for Docker to come back after it stopped in the middle of a command.
RESTART_TIMEOUT = 120
_PID_FILE = Path("/run/docker.pid")


def inspect(*names: str) -> list[dict[str, Any]]:
    """Return what Docker reports of the containers that exist.

    Leaves out the others. Raises Failure.
    """
    if not names:
        return []
    result = process.run(["docker", "container", "inspect", *names])
    if result.returncode != 0 and "No such container" not in result.stderr:
        raise Failure(f"Docker does not answer: {result.stderr.strip()}")
    containers: list[dict[str, Any]] = json.loads(result.stdout or "[]")
    return containers


def container(name: str) -> dict[str, Any]:
    """Return what Docker reports of a container; empty if there is none.

    Raises Failure.
    """
    return next(iter(inspect(name)), {})


def image(reference: str) -> dict[str, Any] | None:
    """Return what Docker reports of an image; None if the host does not have it.

    Raises Failure.
    """
    result = process.run(["docker", "image", "inspect", reference])
    if result.returncode != 0 and "No such image" not in result.stderr:
        raise Failure(f"Docker does not answer: {result.stderr.strip()}")
    images: list[dict[str, Any]] = json.loads(result.stdout or "[]")
    return images[0] if images else None


def project_containers(project: str, *, running_only: bool = False, status: str = "") -> list[str]:
    """Return the ids of a project's containers.

    Finds them by label, because a container may have been renamed.
    """
    command = ["docker", "ps", "--quiet", "--no-trunc", "--filter", f"label={PROJECT_LABEL}={project}"]
    command += [] if running_only else ["--all"]
    command += ["--filter", f"status={status}"] if status else []
    return process.check(command).split()


def compose(root: Path, project: str, *arguments: str, override: bool = False) -> list[str]:
    """Return a Compose command line for an instance's project.

    ``override`` adds the file that keeps what a running container was created with.
    """
    files = [paths.COMPOSE_FILE, *([paths.COMPOSE_OVERRIDE] if override else [])]
    named = [word for name in files for word in ("--file", str(root / name))]
    options = ["--ansi", "never", "--progress", "plain", "--project-directory", str(root), "--project-name", project]
    return ["docker", "compose", *options, *named, *arguments]


def run(command: Sequence[str]) -> str:
    """Run a command that may take long, without a timeout, and return its output.

    Raises Failure with the output.
    """
    result = process.run(command, timeout=None)
    output = (result.stdout + result.stderr).strip()
    if result.returncode != 0:
        # An empty message would look like success.
        raise Failure(output or f"{' '.join(command[:2])} failed without a message (exit code {result.returncode})")
    return output


def answers() -> bool:
    """Say whether Docker answers."""
    try:
        return process.run(["docker", "version"]).returncode == 0
    except Failure:
        return False


class RestartGuard:
    """Repeats work that failed because Docker restarted in the middle of it.

    A command fails if Docker stops, and Docker does not restart containers that were stopped by then. So the work is
    done once more when Docker is back.
    """

    def __init__(self) -> None:
        self._daemon = _daemon_id()

    def call(self, work: Callable[[], T]) -> T:
        """Do work that raises Failure if it fails, and once more if Docker restarted."""
        try:
            return work()
        except Failure:
            if not self._has_restarted():
                raise
        wait_until_answers()
        self._daemon = _daemon_id()
        return work()

    def run(self, command: Sequence[str]) -> tuple[bool, str]:
        """Run a command. Returns whether it succeeded, and its output."""
        try:
            return True, self.call(lambda: run(command))
        except Failure as error:
            return False, str(error)

    def _has_restarted(self) -> bool:
        # In this order: systemd holds Docker's socket, so the answer may be that of the next daemon.
        return not answers() or _daemon_id() != self._daemon


def wait_until_answers() -> None:
    """Wait until Docker answers again, at most RESTART_TIMEOUT seconds."""
    deadline = time.monotonic() + RESTART_TIMEOUT
    while not answers() and time.monotonic() < deadline:
        time.sleep(1)


def _daemon_id() -> str:
    try:
        return _PID_FILE.read_text().strip()
    except OSError:
        return ""
