"""Docker for redisctl: the containers of one project, and its Compose commands.

Every Compose command names the project and the file explicitly.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

# Bytes of a core dump, which would hold all data. The kernel writes no file below one page (4096). 1 also stops a pipe
# to a program, which 0 does not: core(5) and do_coredump() in the kernel's fs/coredump.c.
CORE_LIMIT = 1
# Options of a container that is removed soon.
CONFINEMENT = (
    *("--read-only", "--cap-drop", "ALL", "--ulimit", f"core={CORE_LIMIT}:{CORE_LIMIT}"),
    *("--security-opt", "no-new-privileges", "--security-opt", "label=disable"),
)

# Characters of a container's output that are returned: more than Redis prints before its log is open.
MAX_PRINTED = 256 * 1024
# Seconds to wait for Docker to come back after it stopped in the middle of a command.
RESTART_TIMEOUT = 120
_PID_FILE = Path("/run/docker.pid")


def private_program(image: str, *words: str) -> tuple[str, ...]:
    """Return the end of a ``docker run``: an image and a program of it.

    Only the container's user can read the files that the program creates.
    """
    return ("--entrypoint", "/bin/sh", image, "-c", 'umask 077; exec "$@"', "sh", *words)


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


@dataclass(frozen=True)
class Listed:
    """A container as ``docker ps`` lists it.

    ``definition`` is the label that the instances' containers have, ``one_off`` that of ``docker compose run``.
    """

    id: str
    names: tuple[str, ...]
    project: str
    definition: str
    one_off: bool


def listing() -> list[Listed] | None:
    """Return all containers of the host; None if Docker does not answer.

    Raises Failure if Docker answers other questions, but not this one.
    """
    # As JSON, because a label may contain anything.
    columns = (".ID", ".Names", *(f'(.Label "{label}")' for label in (PROJECT_LABEL, DEFINITION_LABEL, ONE_OFF_LABEL)))
    line = ",".join(f"{{{{json {column}}}}}" for column in columns)
    try:
        listed = process.check(["docker", "ps", "--all", "--no-trunc", "--format", f"[{line}]"])
    except Failure:
        if answers():
            raise
        return None
    rows = map(json.loads, listed.splitlines())
    return [
        Listed(id, tuple(names.split(",")), project, definition, one_off == "True")
        for id, names, project, definition, one_off in rows
    ]


def output(name: str, lines: int) -> list[str]:
    """Return the last lines that a container has printed. Raises Failure.

    Its process can have printed anything: escape it before a terminal gets it.
    """
    result = process.run(["docker", "logs", "--tail", str(lines), name])
    printed = result.stdout + result.stderr
    if result.returncode != 0:
        raise Failure(f"Docker does not say what {name} printed: {printed.strip()}")
    return printed[-MAX_PRINTED:].splitlines()[-lines:]


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
