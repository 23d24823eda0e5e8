"""The instance that this file was installed for, and ways to it that need no port and show no password.

Beside the file is ``redisctl.json``, written by the deploy: name, root, key patterns, nothing secret. Redis is reached
by its own socket, through the container's root directory in /proc, whatever its ports speak.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

SOCKET = "run/redis/redis.sock"
# A Redis that hangs must not hang whoever asks for its health.
TIMEOUT = 5


class Failure(Exception):
    """What cannot be done, why, and what to do; for people, on one line or a few."""


@dataclass(frozen=True)
class Instance:
    """One Redis on this host, as the deploy described it.

    ``session_keys`` and ``queue_keys`` are patterns; sizes are in bytes.
    """

    name: str
    root: Path
    session_keys: str
    queue_keys: str = "rq:*"

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

    def connect(self, user: str = "admin", **options: Any) -> Redis:
        """A client, logged in as a user of the instance. It never retries. Raises Failure when Redis is not running."""
        pid = self.container.get("State", {}).get("Pid", 0)
        if not pid:
            status = self.container.get("State", {}).get("Status", "gone: deploy again")
            raise Failure(f"the container {self.name} is {status}: cd {self.root} && docker compose up -d --wait")
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

    def name_of(self, command: str) -> str:
        """The name under which a command is called on this instance."""
        return self.renamed.get(command, command)

    def call(self, redis: Redis, command: str, *arguments: str) -> Any:
        """Call a command that may have another name here."""
        return redis.execute_command(self.name_of(command), *arguments)


def installed() -> Instance:
    """The instance that this file stands beside. Raises Failure."""
    if os.geteuid() != 0:
        raise Failure("redisctl reads passwords and the container: run it as root, or with sudo")
    place = Path(sys.argv[0]).resolve().with_name("redisctl.json")
    try:
        told = json.loads(place.read_text())
        return Instance(**{**told, "root": Path(told["root"])})
    except FileNotFoundError:
        raise Failure(f"{place} is missing: redisctl is run where a deploy put it") from None
    except (ValueError, KeyError, TypeError):
        raise Failure(f"{place} is not what a deploy writes: deploy again") from None


def in_words(error: RedisError) -> str:
    """Redis's refusal or silence, without the path of the socket."""
    return re.sub(r"/proc/\d+/root", "", str(error)) or type(error).__name__
