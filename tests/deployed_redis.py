"""A deployed instance, inspected through Docker and real clients.

The inspection does not depend on the deploy.
"""

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from redoubt.secret_store import Secrets
from sandbox import ssh, tools
from sandbox.hosts import Host
from tests.host.host_under_test import listens


@dataclass(frozen=True)
class Instance:
    """One Redis on one host."""

    host: Host
    secrets: Secrets = field(repr=False)
    name: str = "redis"
    port: int = 6379

    def inspect(self, container: str | None = None) -> dict[str, Any]:
        """Return what Docker reports of a container, by default that of Redis.

        The result is empty if there is no container.
        """
        containers: list[dict[str, Any]] = json.loads(self.host.run(f"docker inspect {container or self.name}").stdout)
        return containers[0] if containers else {}

    @property
    def health(self) -> str:
        """Return the container's health in Docker, such as ``healthy``.

        It is empty if there is no container.
        """
        inspected = self.inspect()
        return str(inspected["State"]["Health"]["Status"]) if inspected else ""

    def wait_until_healthy(self, seconds: float = 120) -> None:
        """Wait until Docker reports Redis healthy.

        Docker checks a started container for the first time after redis_health_interval, which is 30 s by default.
        After a power cut, Docker itself has to start before that.
        """
        wait_until(lambda: self.health == "healthy", "Redis is healthy", seconds)

    @property
    def identity(self) -> tuple[str, str]:
        """The container and its start time. It changes if Redis is restarted or replaced."""
        inspected = self.inspect()
        return inspected["Id"], inspected["State"]["StartedAt"]

    def call(self, *commands: str, user: str = "admin", password: str | None = None) -> list[str]:
        """Return the lines that redis-cli in the container prints for commands.

        redis-cli reads the password from stdin. nsenter starts it in the container: docker exec takes ten times as much
        of the processor's time.
        """
        secret = self.secrets.passwords[user] if password is None else password
        script = "\n".join([f"AUTH {user} {secret}", *commands, ""])
        pid = f"$(docker inspect --format '{{{{.State.Pid}}}}' {self.name})"
        inside = f'nsenter --target "{pid}" --mount redis-cli -s /run/redis/redis.sock'
        completed = self.host.run(inside, input=script)
        lines = completed.stdout.splitlines()
        # The script and the error may contain the password, so the message contains neither.
        assert lines[:1] == ["OK"], f"{user} cannot log in to {self.name} on {self.host.name} ({completed.returncode})"
        return lines[1:]

    def crash(self) -> None:
        """Kill Redis without a save, as soon as all acknowledged writes are in the AOF.

        Redis keeps writes in memory while another flush runs, on a slow disk for up to two seconds.
        """
        wait_until(lambda: "aof_buffer_length:0" in self.call("INFO persistence"), "the AOF has all writes", 30)
        self.host.run(f"docker kill {self.name}", check=True)

    @property
    def keys(self) -> int:
        """The number of keys without the temporary key of a health check."""
        lines = self.call("MULTI", "DBSIZE", "SCAN 0 MATCH redoubt:health:* COUNT 10000000", "EXEC")
        # The answers of MULTI and of the two queued commands come first.
        return int(lines[3]) - sum(line.startswith("redoubt:health:") for line in lines[4:])

    def config(self, directive: str) -> str:
        """Return the current value of a directive, from CONFIG GET."""
        return self.call(f"{self.secrets.renamed_command('CONFIG')} GET {directive}")[1]

    def check_backup_and_restore(self) -> None:
        """Take a backup, change data, and restore.

        The data is restored to a moment between two writes, and to the backup itself.
        """
        self.call("SET app:session:back 1 EX 7200")
        backup = json.loads(self.host.run("redisctl backup --json", check=True).stdout)
        assert backup["verified"]["verdict"] == "ok"
        time.sleep(1)
        moment = int(self.call("TIME")[0])
        time.sleep(1.2)
        self.call("SET app:session:back 2 EX 7200")
        self.host.run(f"redisctl restore --to {moment} --yes", check=True)
        assert self.call("GET app:session:back") == ["1"]
        self.call("SET app:session:back 3 EX 7200")
        self.host.run(f"redisctl restore {backup['id']} --yes", check=True)
        assert self.call("GET app:session:back") == ["1"]
        self.host.run("redisctl restore --discard-previous --yes && rm -r /srv/redis/backups/2*", check=True)
        self.call("DEL app:session:back")

    @contextmanager
    def client(self, user: str | None = "admin", password: str | None = None, **options: Any) -> Iterator[Redis]:
        """Yield a client on this machine, connected through SSH.

        It connects to the port published on the host's loopback. With ``user=None`` the client sends only a password,
        or none. It never retries.
        """
        secret = self.secrets.passwords[user] if password is None and user else password
        with (
            tunnel(self.host, "127.0.0.1", self.port) as path,
            Redis(
                unix_socket_path=str(path),
                username=user,
                password=secret,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=30,
                **options,
            ) as client,
        ):
            yield client


Connect = Callable[..., Redis]


@contextmanager
def clients(redis: Instance) -> Iterator[Connect]:
    """Yield a function that connects a client as a user, with options of redis-py.

    The clients never retry.
    """
    with tunnel(redis.host, "127.0.0.1", redis.port) as path, ExitStack() as connected:

        def connect(user: str, **options: Any) -> Redis:
            client = Redis(
                unix_socket_path=str(path),
                username=user,
                password=redis.secrets.passwords[user],
                retry=Retry(NoBackoff(), 0),
                socket_timeout=10,
                **options,
            )
            connected.callback(client.close)
            return client

        yield connect


def redisctl(redis: Instance, line: str) -> dict[str, Any]:
    """Run a verb, which must succeed without warnings, and return its JSON."""
    completed = redis.host.run(f"redisctl {line} --json")
    assert (completed.returncode, completed.stderr) == (0, ""), (line, completed.stderr)
    document: dict[str, Any] = json.loads(completed.stdout)
    return document


def refused(redis: Instance, line: str) -> str:
    """Run a verb, which must be refused, and return its standard error."""
    completed = redis.host.run(f"redisctl {line}")
    assert (completed.returncode, completed.stdout) == (3, ""), (line, completed.stdout, completed.stderr)
    return completed.stderr


@contextmanager
def tunnel(host: Host, address: str, port: int) -> Iterator[Path]:
    """Forward a socket on this machine to an address and port, as seen from the host."""
    with tempfile.TemporaryDirectory(prefix="rd-", dir="/tmp") as directory:
        path = Path(directory, "s")
        with _forwarding(host, str(path), f"{address}:{port}", path.exists):
            yield path


@contextmanager
def tcp_tunnel(host: Host, address: str, port: int) -> Iterator[int]:
    """Forward a free port on this machine's loopback to an address and a port.

    Yields the free port. It is for clients that cannot use a Unix socket.
    """
    with socket.create_server(("127.0.0.1", 0)) as free_port:
        number: int = free_port.getsockname()[1]
    with _forwarding(host, f"127.0.0.1:{number}", f"{address}:{port}", lambda: listens("127.0.0.1", number)):
        yield number


@contextmanager
def _forwarding(host: Host, listen: str, to: str, is_ready: Callable[[], bool]) -> Iterator[None]:
    # Use a separate connection: a shared one would keep the forwarding after the tunnel is closed.
    command = ssh.command(host.name, "-o", "ControlPath=none", "-N", "-L", f"{listen}:{to}")
    process = subprocess.Popen(command, env=tools.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until(is_ready, f"SSH forwards to {to}", 15)
        yield
    finally:
        process.terminate()
        process.wait(timeout=10)


def wait_until(condition: Callable[[], object], what: str, seconds: float, pause: float = 0.2) -> float:
    """Wait for a condition, and return the seconds that it took.

    Fails with ``what`` after ``seconds``. ``pause`` is the shortest one between two looks. A long wait has longer ones,
    because each look costs time of the machine that is waited for; 0 is always 0.
    """
    start = time.monotonic()
    while not condition():
        waited = time.monotonic() - start
        assert waited < seconds, f"not within {seconds:.0f} s: {what}"
        time.sleep(min(max(pause, waited / 10), 2) if pause else 0)
    return time.monotonic() - start
