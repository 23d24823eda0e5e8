"""A host under test: what was promised for it, and ways to it that a deploy does not use."""

import shlex
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import testinfra
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from redoubt import acl, certificate_store, secret_store
from redoubt.certificates import Identity
from redoubt.secret_backends import SecretsError
from redoubt.secret_store import Secrets
from redoubt.settings.load import SettingsError, load
from redoubt.settings.model import Port, Settings
from tests.host.inventory import PROJECT, BridgeError, Entry

# A Redis that hangs costs every test this long.
REDIS_TIMEOUT = 3


@dataclass
class Target:
    """One host of the inventory, its settings and secrets, and connections to it."""

    entry: Entry
    spec: str
    ssh_config: Path
    disposable: bool
    settings: Settings
    secrets: Secrets = field(repr=False)
    identity: Identity | None = field(repr=False)
    # Where others reach it, when the inventory's own address is a loopback port of this machine.
    outside: str | None = None
    # Names what the tests leave in Redis and in its logs; new in each session.
    mark: str = field(default_factory=lambda: f"redoubt-test-{uuid4().hex[:12]}")
    clients: list["Redis"] = field(default_factory=list, repr=False)

    @cached_property
    def host(self) -> testinfra.host.Host:
        """The host, through testinfra."""
        return testinfra.get_host(self.spec, ssh_config=str(self.ssh_config))

    def run(self, command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a shell command on the host with standard input: the way for secrets, which no argument list shows."""
        line = self.host.backend.get_command(command)
        local = ["/bin/sh", "-c", line]
        return subprocess.run(
            local if self.entry.is_local else self._ssh_command(line),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def check_reachable(self) -> str:
        """Why the host cannot be tested, or nothing. The one place that waits for a dead host."""
        try:
            done = self.host.run("id -u")
        except RuntimeError as error:
            # testinfra's way to say that ssh itself failed.
            said = error.args[0].stderr.strip().splitlines() or ["ssh gave no reason"]
            return f"does not answer ({said[-1]})"
        if done.rc != 0:
            return f"root is needed, and sudo does not work without a password ({done.stderr.strip()})"
        if done.stdout.strip() != "0":
            return f"root is needed, and the login is uid {done.stdout.strip()}: set _sudo = True in the inventory"
        return ""

    # -- Redis

    def inspect(self) -> dict[str, Any]:
        """What the engine says of the container now."""
        inspected: dict[str, Any] = self.host.docker(self.settings.redis_name).inspect()
        return inspected

    @cached_property
    def endpoint(self) -> dict[str, Any]:
        """How a client on this machine connects: redis-py's arguments. SSH carries the connection to a remote host."""
        address, port = self.reached(self.settings.ports[0])
        tls = self.tls if self.settings.ports[0].tls else {}
        if self.entry.is_local:
            return {"host": address, "port": port, **tls}
        bracketed = f"[{address}]" if ":" in address else address
        if tls:
            return {"host": "127.0.0.1", "port": self.forwarded_port(f"{bracketed}:{port}"), **tls}
        return {"unix_socket_path": self.forwarded(f"{bracketed}:{port}")}

    @cached_property
    def tls(self) -> dict[str, Any]:
        """redis-py's arguments for TLS. Its names are not checked here: a tunnel's end has none of them."""
        assert self.identity is not None
        options: dict[str, Any] = {"ssl": True, "ssl_ca_data": self.identity.ca, "ssl_check_hostname": False}
        if self.settings.redis_tls_auth_clients == "yes":
            # As the health check does: the server's own stands for a client as well.
            for name, text in (("ssl_certfile", self.identity.certificate), ("ssl_keyfile", self.identity.key)):
                path = self.ssh_config.with_name(f"{self.entry.alias[:20]}.{name}")
                path.touch(mode=0o600)
                path.write_text(text)
                options[name] = str(path)
        return options

    def forwarded(self, there: str) -> str:
        """A socket on this machine that leads to an address and port, or to a socket, as the host itself reaches it."""
        if self.entry.is_local:
            return there
        path = self.ssh_config.with_name(f"{self.entry.alias[:20]}.{uuid4().hex[:6]}")
        # The shared connection ends by itself when nobody uses it for a minute.
        self.run("true")
        self._control("forward", "-L", f"{path}:{there}").check_returncode()
        return str(path)

    def forwarded_port(self, there: str) -> int:
        """The same as a port on this machine's loopback, for clients that know no sockets."""
        self.run("true")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        self._control("forward", "-L", f"127.0.0.1:{port}:{there}").check_returncode()
        return port

    def reached(self, port: Port) -> tuple[str, int]:
        """The address and number by which the host itself reaches a port: the first published ones, if any is."""
        if not self.settings.redis_bind:
            return self._container_address(), port.inside
        unspecified = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        first = self.settings.redis_bind[0]
        return unspecified.get(first, first), port.published

    def _container_address(self) -> str:
        networks = self.inspect()["NetworkSettings"]["Networks"]
        address: str = networks[f"{self.settings.redis_name}_backend"]["IPAddress"]
        return address

    def client(self, user: str | None, password: str | None = None, **options: Any) -> Redis:
        """A new client for a user, by default with the user's password; None logs nobody in. It never retries."""
        if user is not None:
            options["username"] = user
            options["password"] = self.secrets.passwords[user] if password is None else password
        elif password is not None:
            options["password"] = password
        if user in ("health", None):
            # May name neither itself nor its library.
            options["driver_info"] = None
        else:
            options.setdefault("client_name", self.mark)
        options.setdefault("decode_responses", True)
        made = Redis(**self.endpoint, retry=Retry(NoBackoff(), 0), socket_timeout=REDIS_TIMEOUT, **options)
        self.clients.append(made)
        return made

    @cached_property
    def users(self) -> tuple[str, ...]:
        """The ACL users that the settings promise."""
        return tuple(user.name for user in acl.users(self.settings))

    def admin_call(self, command: str, *arguments: str) -> Any:
        """Call a command as admin by the name that it has on this instance."""
        return self.admin.execute_command(self.secrets.renamed_command(command), *arguments)

    @cached_property
    def admin(self) -> Redis:
        """A client that looks after the instance. RESP2: the answers are plain lists."""
        return self.client("admin", protocol=2)

    def config(self) -> dict[str, str]:
        """The configuration that runs, by CONFIG GET."""
        answer = self.admin_call("CONFIG", "GET", "*")
        return dict(zip(answer[::2], answer[1::2], strict=True))

    def denials(self) -> dict[tuple[str, str, str], int]:
        """What was denied to clients that carry the session's mark in their name: user, reason and object."""
        entries = (dict(zip(entry[::2], entry[1::2], strict=True)) for entry in self.admin_call("ACL", "LOG"))
        return {
            (entry["username"], entry["reason"], entry["object"]): int(entry["count"])
            for entry in entries
            if self.mark in entry["client-info"]
        }

    def save(self) -> None:
        """Write a snapshot, and wait until it is on disk."""
        until(self._no_save_runs)
        self.admin_call("BGSAVE")
        until(self._no_save_runs)

    def _no_save_runs(self) -> bool:
        return bool(self.admin.info("persistence")["rdb_bgsave_in_progress"] == 0)

    # -- Ending

    def hang_up(self) -> None:
        """Forget connections: after a restart the container may have another address."""
        for client in self.clients:
            client.close()
        self.clients.clear()
        for name in ("endpoint", "admin"):
            self.__dict__.pop(name, None)

    def close(self) -> None:
        """End all connections to the host."""
        self.hang_up()
        if not self.entry.is_local:
            self._control("exit")

    def _ssh_command(self, *command: str) -> list[str]:
        return ["ssh", "-F", str(self.ssh_config), self.entry.alias, *command]

    def _control(self, *options: str) -> subprocess.CompletedProcess[bytes]:
        """Tell the shared connection something."""
        command = ["ssh", "-F", str(self.ssh_config), "-O", *options, self.entry.alias]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)

    def hidden(self) -> list[str]:
        """What must be seen nowhere: passwords, their hashes as the ACL file holds them, names of commands, keys."""
        passwords = [*self.secrets.passwords.values(), *self.secrets.previous.values()]
        keys = [self.identity.key.splitlines()[1]] if self.identity else []
        keys += [self.secrets.repository] if self.secrets.repository else []
        return [*passwords, *map(acl.password_hash, passwords), *self.secrets.commands.values(), *keys]


def expectations(entry: Entry) -> tuple[Settings, Secrets, Identity | None]:
    """What the inventory, the secrets and the certificate on this machine promise for a host. Raises BridgeError."""
    with chdir(PROJECT):
        try:
            settings = load(entry.data)
            return settings, secret_store.load(settings, entry.name), certificate_store.load(settings, entry.name)
        except (SettingsError, SecretsError) as error:
            raise BridgeError(f"{entry.name}: {error}") from None


def listens(address: str, port: int, timeout: float = 2) -> bool:
    """Whether a TCP connection from this machine is accepted."""
    try:
        with socket.create_connection((address, port), timeout=timeout):
            return True
    except OSError:
        return False


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Wait for a condition: what it returns as soon as that is true. Redis may be away meanwhile."""
    end = time.monotonic() + seconds
    while True:
        try:
            found = condition()
            why = ""
        except RedisError as error:
            found = None
            why = f": {type(error).__name__}"
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds} s{why}"
        time.sleep(0.05)


def refusal(client: Redis, *command: str) -> str:
    """How Redis refuses a command: the code and the user-readable rest, or '' when it does not refuse."""
    try:
        client.execute_command(*command)
    except RedisError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def quoted(*words: str) -> str:
    """Words as one shell command."""
    return shlex.join(words)
