"""A Docker whose container is a local Redis.

redisctl stops, starts and replaces that Redis. Docker's own behaviour, such as restarts after a crash and published
ports, needs a real one. ``local_containers.py`` has the other containers.
"""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from redisctl.core import process
from redisctl.core.instance import Instance
from tests.redisctl.local_containers import LocalContainers
from tests.redisctl.local_redis import LocalRedis

# The restart policy of compose.yml.
POLICY = "unless-stopped"
OLD_IMAGE, NEW_IMAGE = "sha256:old", "sha256:new"


@dataclass
class LocalDocker(LocalContainers):
    """Answers the Docker commands of redisctl, also those for the container of Redis.

    ``image`` is that of the container, and ``next_image`` the one of compose.yml. ``new_version_starts`` is False if
    the next image does not become healthy. ``before_stop`` runs once, when Docker gets the order not to start Redis.
    """

    server: LocalRedis = field(kw_only=True)
    policy: str = POLICY
    image: str = OLD_IMAGE
    next_image: str = OLD_IMAGE
    exists: bool = True
    new_version_starts: bool = True
    before_stop: Callable[[], None] | None = None

    @property
    def name(self) -> str:
        """The name of the container."""
        return self.server.settings.redis_name

    def run(
        self, command: Sequence[str], *, timeout: float | None = None, stdin: str | None = None, name: str = ""
    ) -> CompletedProcess[str]:
        """Run a command as ``process.run`` does."""
        output, code = "", 0
        match list(command):
            case ["docker", "container", "inspect", self.name]:
                output = json.dumps([self._inspect_server()] if self.exists else [])
            case ["docker", "image", "inspect", _]:
                output = json.dumps([{"Id": self.next_image}])
            case ["docker", "update", "--restart", policy, self.name]:
                self.policy, step = policy, self.before_stop
                self.before_stop = None
                if step:
                    step()
            case ["docker", "start", self.name]:
                self.server.launch()
            case ["docker", "stop", self.name]:
                self._stop()
            case ["docker", "kill", self.name]:
                self._end(signal.SIGKILL)
            case ["docker", "rm", "--force", self.name]:
                self._end(signal.SIGKILL)
                self.exists = False
            case ["docker", "exec", self.name, *_]:
                code = 0 if self.server.answers() else 1
            case ["docker", "compose", *arguments]:
                return self._compose(command, arguments)
            case ["docker", "version" | "tag", *_] | ["sync", *_]:
                pass
            case _:
                return super().run(command, timeout=timeout, stdin=stdin, name=name)
        return CompletedProcess(command, code, output, "")

    def _inspect_server(self) -> dict[str, Any]:
        server = self.server.process
        assert server is not None
        code = server.poll()
        state = {
            "Status": "running" if code is None else "exited",
            "Running": code is None,
            "Pid": server.pid if code is None else 0,
            "StartedAt": f"{server.pid}",
            "ExitCode": 0 if code is None else code if code >= 0 else 128 - code,
            "Health": {"Status": "healthy" if code is None and self.server.answers() else "unhealthy"},
        }
        return {
            "Id": f"{self.name}-{self.image}",
            "Name": f"/{self.name}",
            "Image": self.image,
            "State": state,
            "RestartCount": 0,
            "HostConfig": {"RestartPolicy": {"Name": self.policy}, "PortBindings": {}},
            "Config": {"Image": self.image, "Labels": {}},
        }

    def _compose(self, command: Sequence[str], arguments: list[str]) -> CompletedProcess[str]:
        """Create the container again if it has another image, and start it."""
        if "config" in arguments:
            return CompletedProcess(command, 0, json.dumps({"services": {self.name: {}}}), "")
        if "up" not in arguments:
            return CompletedProcess(command, 0, "", "")
        replaced = self.image != self.next_image or "--force-recreate" in arguments
        if replaced:
            self._stop()
            self.exists, self.image, self.policy = True, self.next_image, POLICY
        if self._is_running():
            return CompletedProcess(command, 0, "", "")
        if self.image == NEW_IMAGE and not self.new_version_starts:
            self.next_image = OLD_IMAGE
            return CompletedProcess(command, 1, "", "dependency failed to start: container is unhealthy")
        self.server.start()
        return CompletedProcess(command, 0, "", "")

    def _is_running(self) -> bool:
        return self.server.process is not None and self.server.process.poll() is None

    def _stop(self) -> None:
        """Stop the server, and kill it if it refuses."""
        self._end(signal.SIGTERM)
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        server = self.server.process
        if server is not None and self._is_running():
            server.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                server.wait(5)


@contextmanager
def local_docker(server: LocalRedis, logs: Path) -> Iterator[LocalDocker]:
    """Let redisctl run a local Redis as a container."""
    docker = LocalDocker(server.image_root, logs, server=server)
    server.instance_type = Instance
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "run", docker.run)
        yield docker
    assert not docker.running, "a scratch Redis was left"
