"""Docker as redisctl uses it: containers of one project, and Compose with an explicit project name and file."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redisctl import paths
from redisctl.core import process
from redisctl.core.errors import Failure

PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
HASH_LABEL = "com.docker.compose.config-hash"
ONE_OFF_LABEL = "com.docker.compose.oneoff"
DEFINITION_LABEL = "redoubt.definition"

# Seconds to wait for Docker to come back after it stopped in the middle of a command.
RESTART_TIMEOUT = 120
_PID_FILE = Path("/run/docker.pid")


def inspect(*names: str) -> list[dict[str, Any]]:
    """Return what Docker reports of containers; those that do not exist are left out. Raises Failure."""
    if not names:
        return []
    result = process.run(["docker", "container", "inspect", *names])
    if result.returncode != 0 and "No such container" not in result.stderr:
        raise Failure(f"Docker does not answer: {result.stderr.strip()}")
    containers: list[dict[str, Any]] = json.loads(result.stdout or "[]")
    return containers


def container(name: str) -> dict[str, Any]:
    """Return what Docker reports of a container; empty if there is none. Raises Failure."""
    return next(iter(inspect(name)), {})


def image(reference: str) -> dict[str, Any] | None:
    """Return what Docker reports of an image; None if the host does not have it."""
    result = process.run(["docker", "image", "inspect", reference])
    images: list[dict[str, Any]] = json.loads(result.stdout or "[]") if result.returncode == 0 else []
    return images[0] if images else None


def project_containers(project: str, *, running_only: bool = False, status: str = "") -> list[str]:
    """Return the ids of a project's containers, by label: a container may have been renamed."""
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


def answers() -> bool:
    """Say whether Docker answers."""
    return process.run(["docker", "version"]).returncode == 0


class RestartGuard:
    """Runs commands that must survive a restart of Docker.

    If Docker stops in the middle of a command, the command fails and Docker does not restart containers that were
    stopped by then. So the command runs once more when Docker is back.
    """

    def __init__(self) -> None:
        self._daemon = _daemon_id()

    def run(self, command: Sequence[str], *, timeout: float | None = None) -> tuple[bool, str]:
        """Run a command. Returns whether it succeeded, and its output."""
        result = process.run(command, timeout=timeout)
        if result.returncode != 0 and self._restarted():
            wait_until_answers()
            self._daemon = _daemon_id()
            result = process.run(command, timeout=timeout)
        return result.returncode == 0, (result.stdout + result.stderr).strip()

    def _restarted(self) -> bool:
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
