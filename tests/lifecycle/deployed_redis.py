"""A deployed instance as the lifecycle tests see it: by the engine's own word and by clients, not by the deploy's."""

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        """What the engine says of a container now, by default of Redis's; empty when there is none."""
        found: list[dict[str, Any]] = json.loads(self.host.run(f"docker inspect {container or self.name}").stdout)
        return found[0] if found else {}

    @property
    def health(self) -> str:
        """The engine's verdict, such as ``healthy``; empty when there is no container."""
        inspected = self.inspect()
        return str(inspected["State"]["Health"]["Status"]) if inspected else ""

    @property
    def identity(self) -> tuple[str, str]:
        """Tells a Redis that was restarted or replaced from one that was left alone."""
        inspected = self.inspect()
        return inspected["Id"], inspected["State"]["StartedAt"]

    def call(self, *commands: str, user: str = "admin", password: str | None = None) -> list[str]:
        """Lines that redis-cli in the container prints for commands. The password goes in on standard input."""
        secret = self.secrets.passwords[user] if password is None else password
        script = "\n".join([f"AUTH {user} {secret}", *commands, ""])
        done = self.host.run(f"docker exec -i {self.name} redis-cli -s /run/redis/redis.sock", input=script)
        lines = done.stdout.splitlines()
        # Not the script or the error: either would show the password.
        assert lines[:1] == ["OK"], f"{user} cannot log in to {self.name} on {self.host.name} ({done.returncode})"
        return lines[1:]

    def crash(self) -> None:
        """Kill Redis, so that it saves nothing, once what it acknowledged is in its log of writes.

        It keeps writes in memory while another flush is under way, on a slow disk for up to two seconds.
        """
        wait_until(lambda: "aof_buffer_length:0" in self.call("INFO persistence"), "the log has all writes", 10)
        self.host.run(f"docker kill {self.name}", check=True)

    @property
    def keys(self) -> int:
        """How many keys it has, but for the one that a health check writes for a moment."""
        said = self.call("MULTI", "DBSIZE", "SCAN 0 MATCH redoubt:health:* COUNT 10000000", "EXEC")
        # Before that come the answers to what was queued.
        return int(said[3]) - sum(line.startswith("redoubt:health:") for line in said[4:])

    def config(self, directive: str) -> str:
        """The value of a directive that runs, by CONFIG GET."""
        return self.call(f"{self.secrets.renamed_command('CONFIG')} GET {directive}")[1]

    def check_backup_and_restore(self) -> None:
        """Take a backup, alter data, and restore: by the backup, and to a moment between two writes."""
        self.call("SET app:session:back 1 EX 7200")
        taken = json.loads(self.host.run("redisctl backup --json", check=True).stdout)
        assert taken["verified"]["verdict"] == "ok"
        time.sleep(1)
        moment = int(self.call("TIME")[0])
        time.sleep(1.2)
        self.call("SET app:session:back 2 EX 7200")
        self.host.run(f"redisctl restore --to {moment} --yes", check=True)
        assert self.call("GET app:session:back") == ["1"]
        self.call("SET app:session:back 3 EX 7200")
        self.host.run(f"redisctl restore {taken['id']} --yes", check=True)
        assert self.call("GET app:session:back") == ["1"]
        self.host.run("redisctl restore --discard-previous --yes && rm -r /srv/redis/backups/2*", check=True)
        self.call("DEL app:session:back")

    @contextmanager
    def client(self, user: str | None = "admin", password: str | None = None, **options: Any) -> Iterator[Redis]:
        """A client on this machine, through SSH to the port published on the host's loopback.

        ``user=None`` is a client that knows only a password, or nothing. It never retries.
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


def redisctl(redis: Instance, line: str) -> dict[str, Any]:
    """What a verb says in JSON, without a word of complaint."""
    done = redis.host.run(f"redisctl {line} --json")
    assert (done.returncode, done.stderr) == (0, ""), (line, done.stderr)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def refused(redis: Instance, line: str) -> str:
    """What a verb says on standard error that cannot be done."""
    done = redis.host.run(f"redisctl {line}")
    assert (done.returncode, done.stdout) == (3, ""), (line, done.stdout, done.stderr)
    return done.stderr


@contextmanager
def tunnel(host: Host, address: str, port: int) -> Iterator[Path]:
    """A socket on this machine that leads to an address and port as the host itself reaches them."""
    with tempfile.TemporaryDirectory(prefix="rd-", dir="/tmp") as directory:
        path = Path(directory, "s")
        with _forwarding(host, str(path), f"{address}:{port}", path.exists):
            yield path


@contextmanager
def tcp_tunnel(host: Host, address: str, port: int) -> Iterator[int]:
    """A port on this machine's loopback that leads there, for clients that know no sockets."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
    with _forwarding(host, f"127.0.0.1:{number}", f"{address}:{port}", lambda: listens("127.0.0.1", number)):
        yield number


@contextmanager
def _forwarding(host: Host, listen: str, to: str, ready: Callable[[], bool]) -> Iterator[None]:
    # A connection of its own: a shared one would keep the forwarding after the tunnel's end.
    command = ssh.command(host.name, "-o", "ControlPath=none", "-N", "-L", f"{listen}:{to}")
    process = subprocess.Popen(command, env=tools.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until(ready, f"SSH forwards to {to}", 15)
        yield
    finally:
        process.terminate()
        process.wait(timeout=10)


def wait_until(true: Callable[[], object], what: str, seconds: float, pause: float = 0.2) -> float:
    """Wait until something holds and return how long that took; fail in words when it does not in time."""
    start = time.monotonic()
    while not true():
        waited = time.monotonic() - start
        assert waited < seconds, f"not within {seconds:.0f} s: {what}"
        time.sleep(pause)
    return time.monotonic() - start
