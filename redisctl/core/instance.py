"""The instance of this program, reached without a port or a visible password.

``redisctl.json`` lies next to the program. The deploy writes it: name, root, key patterns, nothing secret. redisctl
reaches Redis by its own socket, through the container's root directory in /proc, whatever protocol its ports use.
"""

import math
import os
import re
import socket
import sys
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redisctl import paths, schema
from redisctl.core import docker, redis_socket
from redisctl.core.errors import Failure
from redisctl.core.formatting import printable
from redisctl.core.resp import RespClient, RespError
from redisctl.core.untrusted_files import UntrustedDirectory

# redis-py takes longer to import than a health check takes to run.
if TYPE_CHECKING:
    from redis import Redis

LOG_FILE = "redis.log"
# Bytes of the end of redis.log that are read: more than Redis logs in one start or stop.
LOG_LIMIT = 256 * 1024
# Seconds. A Redis that hangs must not hang its health check.
TIMEOUT = 5


class UnusableSecret(Failure):
    """A file of the password or of the renamed commands that cannot be used.

    It cannot be read, or is not what Redis started with.
    """


@dataclass(frozen=True)
class Instance(schema.Config):
    """One Redis on this host, as the deploy described it.

    ``image_override`` is another image, to load data with. ``config_override`` is the redis.conf of that image, empty
    if it is not known.
    """

    image_override: str = ""
    config_override: str = field(default="", repr=False)

    @property
    def backups(self) -> Path:
        """The directory of backups."""
        return self.root / paths.BACKUPS

    @property
    def data(self) -> Path:
        """Root's directory of data, on the file system of the data."""
        return self.root / paths.DATA

    @property
    def live(self) -> Path:
        """The directory that the container sees as /data."""
        return self.root / paths.LIVE

    @property
    def previous(self) -> Path:
        """The directory of data that was replaced."""
        return self.root / paths.PREVIOUS

    @property
    def owner(self) -> tuple[int, int]:
        """The uid and gid of Redis, on the host and in its containers."""
        return self.uid, self.gid

    def untrusted(self, directory: Path) -> UntrustedDirectory:
        """Return a directory in which Redis can write, for safe use of its files."""
        return UntrustedDirectory(directory, self.owner)

    @property
    def live_files(self) -> UntrustedDirectory:
        """The files of Redis's data."""
        return self.untrusted(self.live)

    @property
    def log_files(self) -> UntrustedDirectory:
        """The files of Redis's log."""
        return self.untrusted(self.root / paths.LOGS)

    def read_log(self, start: int = 0, limit: int = LOG_LIMIT) -> str:
        """Return redis.log from an offset on, at most its last ``limit`` bytes.

        Returns an empty string if it cannot be read.
        """
        try:
            return self.log_files.read_end(LOG_FILE, start, limit)
        except OSError:
            return ""

    def log_size(self) -> int:
        """Return the size of redis.log in bytes; 0 if it cannot be read."""
        try:
            return self.log_files.file_size(LOG_FILE)
        except OSError:
            return 0

    @property
    def image_id(self) -> str:
        """Return the image to load data with.

        It is the override, the one that runs, or the one of the deploy.
        """
        return self.image_override or str(self.container.get("Image") or self.image)

    @cached_property
    def container(self) -> dict[str, Any]:
        """What Docker reports of the container; empty if there is none. Raises Failure."""
        return docker.container(self.name)

    def know_container(self, inspected: dict[str, Any]) -> None:
        """Take what Docker has just reported of the container.

        It is not asked again.
        """
        self.__dict__["container"] = inspected

    def refresh_container(self) -> None:
        """Ask Docker again the next time that the container is read."""
        self.__dict__.pop("container", None)

    def config_value(self, name: str, default: str) -> str:
        """Return a directive of redis.conf, as Redis will read it when it starts."""
        text = (self.root / paths.CONFIG / "redis.conf").read_text()
        values = re.findall(rf"^{name} (\S+)", text, re.MULTILINE)
        return values[-1].strip('"') if values else default

    def connect_socket(self, timeout: float | None) -> socket.socket:
        """Connect to Redis's socket, without a login.

        ``timeout`` is in seconds. Raises OSError, and Failure if Redis is down or something else listens.
        """
        return redis_socket.connect(self._pid(), self.owner[0], timeout)

    def _pid(self) -> int:
        """Return the container's first process. Raises Failure if Redis is down."""
        state = self.container.get("State", {})
        pid = state.get("Pid", 0)
        if not pid:
            status = state.get("Status", "gone")
            remedy = "redisctl health explains why" if status == "restarting" else "redisctl start starts it"
            raise Failure(f"the container {self.name} is {status}: {remedy}")
        return int(pid)

    def connect(self, user: str = "admin", **options: Any) -> "Redis":
        """Return a client that is logged in as a user of the instance and never retries.

        ``options`` are redis-py's; times are seconds. Raises Failure if Redis does not run.
        """
        from redisctl.core.client import client

        defaults = {"decode_responses": True, "encoding_errors": "backslashreplace", "socket_timeout": TIMEOUT}
        self._pid()
        return client(
            connect=self.connect_socket,
            username=user,
            password=self.secret(user),
            client_name="redisctl",
            **{**defaults, **options},
        )

    def connect_quickly(self, timeout: float = TIMEOUT, deadline: float = math.inf) -> RespClient:
        """Return a small client that is logged in as admin.

        ``timeout`` is in seconds, for each command, and ``deadline`` a time of ``time.monotonic``, for all. Raises
        Failure if Redis does not run, and RespError.
        """
        try:
            client = RespClient(self.connect_socket(timeout), timeout, deadline)
        except OSError as error:
            raise RespError(f"Redis does not accept connections: {error.strerror or error}") from None
        try:
            client.execute("AUTH", "admin", self.secret("admin"))
            client.execute("CLIENT", "SETNAME", "redisctl")
        except BaseException:
            client.__exit__()
            raise
        return client

    def secret(self, name: str) -> str:
        """Return a user's password. Raises UnusableSecret."""
        try:
            return (self.root / paths.SECRETS / name).read_text().strip()
        except OSError as error:
            raise UnusableSecret(f"{error.filename}: {error.strerror}: deploy again") from None

    @cached_property
    def renamed(self) -> dict[str, str]:
        """The secret names of renamed commands, by command."""
        try:
            text = self._commands_file.read_text()
        except OSError as error:
            raise UnusableSecret(f"{error.filename}: {error.strerror}: deploy again") from None
        return dict(re.findall(r"^rename-command (\S+) ([^\s\"]+)$", text, re.MULTILINE))

    def renamed_command(self, command: str) -> str:
        """Return the name under which this instance knows a command."""
        return self.renamed.get(command, command)

    def execute_renamed(self, redis: "Redis | RespClient", command: str, *arguments: str) -> Any:
        """Run a command that this instance may know under another name.

        Raises UnusableSecret if Redis does not know that name, and what the client raises.
        """
        name = self.renamed_command(command)
        try:
            if isinstance(redis, RespClient):
                return redis.execute(name, *arguments)
            return redis.execute_command(name, *arguments)
        except Exception as error:
            if "unknown command" not in str(error).lower():
                raise
            # The error of Redis has the name, which is secret.
            raise UnusableSecret(
                f"Redis does not know {command} by its name in {self._commands_file}: that file is not the one that "
                "Redis started with. Deploy again"
            ) from None

    @property
    def _commands_file(self) -> Path:
        return self.root / paths.SERVER_SECRETS / "commands.conf"


def load_instance() -> Instance:
    """Return the instance whose redisctl.json lies next to this program.

    Raises Failure.
    """
    if os.geteuid() != 0:
        raise Failure("redisctl reads passwords and the container: run it as root, or with sudo")
    path = Path(sys.argv[0]).resolve().with_name(paths.PROGRAM_CONFIG)
    try:
        return schema.load(Instance, path.read_text())
    except FileNotFoundError:
        raise Failure(f"{path} is missing: run redisctl where a deploy installed it") from None
    except ValueError:
        raise Failure(f"{path} is not a valid redisctl.json: run the deploy again") from None


def with_present_owner(instance: Instance) -> Instance:
    """Return the instance with the user that Redis has now.

    A deploy may have changed it while the verb waited for the lock.
    """
    uid, gid = deployed_owner(instance.root) or instance.owner
    return replace(instance, uid=uid, gid=gid)


def deployed_owner(root: Path) -> tuple[int, int] | None:
    """Return the uid and gid of Redis by redisctl.json; None if it does not say."""
    try:
        config = schema.load(schema.Config, (root / paths.PROGRAM_CONFIG).read_text())
    except (OSError, ValueError):
        return None
    return config.uid, config.gid


def error_text(error: BaseException) -> str:
    """Return an error without details that help no operator.

    Leaves out the path of the socket and the number of the error.
    """
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(printable(str(part)) for part in (error.filename, error.strerror) if part)
    return re.sub(r"/proc/\d+/root", "", str(error)) or type(error).__name__
