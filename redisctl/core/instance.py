"""The instance that this file was installed for, and ways to it that need no port and show no password.

Beside the file is ``redisctl.json``, written by the deploy: name, root, key patterns, nothing secret. Redis is reached
by its own socket, through the container's root directory in /proc, whatever its ports speak.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

SOCKET = "run/redis/redis.sock"
# A Redis that hangs must not hang whoever asks for its health.
TIMEOUT = 5


class Failure(Exception):
    """What cannot be done, why, and what to do; for people, on one line or a few."""


@dataclass(frozen=True)
class BackupConfig:
    """What the deploy says of backups; by default what an older deploy did not say.

    ``scheduled`` tells whether systemd takes them. ``verify``: load each one. ``max_age`` is in hours. ``keep`` counts
    those that stay, by period (hourly, daily, weekly, monthly). ``repository`` is restic's, empty where there is none.
    """

    scheduled: bool = False
    verify: bool = True
    max_age: int = 26
    keep: Mapping[str, int] = field(default_factory=lambda: {"hourly": 24, "daily": 7, "weekly": 4, "monthly": 6})
    repository: str = ""


@dataclass(frozen=True)
class Instance:
    """One Redis on this host, as the deploy described it.

    ``session_keys`` and ``queue_keys`` are patterns; ``image`` is its reference; ``settings`` is a digest of the
    settings. Sizes are in bytes. ``image_override`` is another image, to load data with instead of its own.
    """

    name: str
    root: Path
    session_keys: str
    queue_keys: str = "rq:*"
    image: str = ""
    settings: str = ""
    image_override: str = ""
    backup: BackupConfig = field(default_factory=BackupConfig)

    @property
    def backups(self) -> Path:
        """Where backups are."""
        return self.root / "backups"

    @property
    def data(self) -> Path:
        """Where Redis keeps its data files."""
        return self.root / "data"

    @property
    def image_id(self) -> str:
        """The image that runs, or that a deploy named where nothing does; before both, the one that is tried."""
        return self.image_override or str(self.container.get("Image") or self.image)

    @cached_property
    def container(self) -> dict[str, Any]:
        """What the engine says of the container now; empty when there is none. Raises Failure."""
        try:
            done = subprocess.run(
                ["docker", "container", "inspect", self.name],
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        except FileNotFoundError:
            raise Failure("there is no docker on this host: was Redis deployed here?") from None
        except subprocess.TimeoutExpired:
            raise Failure(f"the engine did not answer within {TIMEOUT} s: systemctl status docker") from None
        if done.returncode != 0 and "No such container" not in done.stderr:
            raise Failure(f"the engine does not answer: {done.stderr.strip()}")
        found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
        return found[0] if found else {}

    def refresh_container(self) -> None:
        """Ask the engine anew when next somebody wants to know of the container."""
        self.__dict__.pop("container", None)

    def connect(self, user: str = "admin", **options: Any) -> Redis:
        """A client, logged in as a user of the instance. It never retries. Raises Failure when Redis is not running."""
        pid = self.container.get("State", {}).get("Pid", 0)
        if not pid:
            status = self.container.get("State", {}).get("Status", "gone")
            do = f"cd {self.root} && docker compose up -d --wait"
            if status == "restarting":
                do = "redisctl health says why it does not stay up"
            raise Failure(f"the container {self.name} is {status}: {do}")
        options.setdefault("decode_responses", True)
        return Redis(
            unix_socket_path=f"/proc/{pid}/root/{SOCKET}",
            username=user,
            password=self.secret(user),
            socket_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            client_name="redisctl",
            protocol=2,
            **options,
        )

    def secret(self, name: str) -> str:
        """A user's password, from its file. Raises Failure when it cannot be read."""
        try:
            return (self.root / "secrets" / name).read_text().strip()
        except OSError as error:
            raise Failure(f"{error.filename}: {error.strerror}: deploy again") from None

    @cached_property
    def renamed(self) -> dict[str, str]:
        """The names under which renamed commands are called on this instance, which nobody else shall know."""
        text = (self.root / "secrets/server/commands.conf").read_text()
        return dict(re.findall(r"^rename-command (\S+) ([^\s\"]+)$", text, re.MULTILINE))

    def renamed_command(self, command: str) -> str:
        """The name under which a command is called on this instance."""
        return self.renamed.get(command, command)

    def execute_renamed(self, redis: Redis, command: str, *arguments: str) -> Any:
        """Call a command that may have another name here."""
        return redis.execute_command(self.renamed_command(command), *arguments)


def load_instance() -> Instance:
    """The instance that this file stands beside. Raises Failure."""
    if os.geteuid() != 0:
        raise Failure("redisctl reads passwords and the container: run it as root, or with sudo")
    place = Path(sys.argv[0]).resolve().with_name("redisctl.json")
    try:
        told = json.loads(place.read_text())
        backup = BackupConfig(**told.pop("backup", {}))
        return Instance(**{**told, "root": Path(told["root"]), "backup": backup})
    except FileNotFoundError:
        raise Failure(f"{place} is missing: redisctl is run where a deploy put it") from None
    except (ValueError, KeyError, TypeError):
        raise Failure(f"{place} is not what a deploy writes: deploy again") from None


def error_text(error: Exception) -> str:
    """An error without what nobody can do anything with: the path of the socket, the number of what the system says."""
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(one) for one in (error.filename, error.strerror) if one)
    return re.sub(r"/proc/\d+/root", "", str(error)) or type(error).__name__
