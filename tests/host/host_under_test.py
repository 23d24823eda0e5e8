"""A host under test: settings, secrets, and connections other than a deploy's."""

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
from testinfra.host import Host

from redoubt import acl, certificate_store, secret_store
from redoubt.certificates import Identity
from redoubt.secret_backends import SecretsError
from redoubt.secret_store import Secrets
from redoubt.settings.load import SettingsError, load
from redoubt.settings.model import Port, Settings
from tests.host.inventory import PROJECT, BridgeError, Entry

# Seconds. Every test waits this long for a Redis that hangs.
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
    # The address at which this machine reaches the host without SSH; None if it does not.
    outside: str | None = None
    # Marks what the tests write to Redis and its logs; different in each session.
    mark: str = field(default_factory=lambda: f"redoubt-test-{uuid4().hex[:12]}")
    clients: list["Redis"] = field(default_factory=list, repr=False)

    @cached_property
    def host(self) -> Host:
        """The host as testinfra knows it."""
        return testinfra.get_host(self.spec, ssh_config=str(self.ssh_config))

    def run(self, command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a shell command on the host.

        Pass secrets on standard input: other users can read argument lists.
        """
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
        """Return why the host cannot be tested; empty if it can.

        Only this function waits for a dead host.
        """
        try:
            result = self.host.run("id -u")
        except RuntimeError as error:
            # testinfra raises this if ssh itself failed.
            lines = error.args[0].stderr.strip().splitlines() or ["ssh gave no reason"]
            return f"does not answer ({lines[-1]})"
        if result.rc != 0:
            return f"root is needed, but sudo does not work without a password ({result.stderr.strip()})"
        if result.stdout.strip() != "0":
            return f"root is needed, but the login is uid {result.stdout.strip()}: set _sudo = True in the inventory"
        return ""

    # -- Redis

    def inspect(self) -> dict[str, Any]:
        """Return the container, as Docker inspects it now."""
        container: dict[str, Any] = self.host.docker(self.settings.redis_name).inspect()
        return container

    @cached_property
    def endpoint(self) -> dict[str, Any]:
        """redis-py's arguments for a connection from this machine.

        The connection to a remote host goes through SSH.
        """
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
        """redis-py's arguments for TLS.

        They check no name, because the certificate has no name for a tunnel.
        """
        assert self.identity is not None
        options: dict[str, Any] = {"ssl": True, "ssl_ca_data": self.identity.ca, "ssl_check_hostname": False}
        if self.settings.redis_tls_auth_clients == "yes":
            # The health check's.
            assert self.identity.client is not None
            own = self.identity.client
            for name, text in (("ssl_certfile", own.certificate), ("ssl_keyfile", own.key)):
                path = self.ssh_config.with_name(f"{self.entry.alias[:20]}.{name}")
                path.touch(mode=0o600)
                path.write_text(text)
                options[name] = str(path)
        return options

    def forwarded(self, destination: str) -> str:
        """Return a local socket that leads to an address:port or a socket of the host."""
        if self.entry.is_local:
            return destination
        path = self.ssh_config.with_name(f"{self.entry.alias[:20]}.{uuid4().hex[:6]}")
        # Opens the shared connection, which ends after a minute without use.
        self.run("true")
        self._control("forward", "-L", f"{path}:{destination}").check_returncode()
        return str(path)

    def forwarded_port(self, destination: str) -> int:
        """Return a loopback port of this machine that leads to ``destination``.

        It is for clients that cannot use a socket.
        """
        self.run("true")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        self._control("forward", "-L", f"127.0.0.1:{port}:{destination}").check_returncode()
        return port

    def reached(self, port: Port) -> tuple[str, int]:
        """Return the address and number at which the host itself reaches a port.

        They are the first published ones, if any.
        """
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
        """Return a new client of a user, which never retries.

        Without a user, it does not log in.
        """
        if user is not None:
            options["username"] = user
            options["password"] = self.secrets.passwords[user] if password is None else password
        elif password is not None:
            options["password"] = password
        if user in ("health", None):
            # These may not send their name or library.
            options["driver_info"] = None
        else:
            options.setdefault("client_name", self.mark)
        options.setdefault("decode_responses", True)
        client = Redis(**self.endpoint, retry=Retry(NoBackoff(), 0), socket_timeout=REDIS_TIMEOUT, **options)
        self.clients.append(client)
        return client

    @cached_property
    def users(self) -> tuple[str, ...]:
        """The ACL users of the settings."""
        return tuple(user.name for user in acl.users(self.settings))

    def admin_call(self, command: str, *arguments: str) -> Any:
        """Call a command as admin, by its name on this instance."""
        return self.admin.execute_command(self.secrets.renamed_command(command), *arguments)

    @cached_property
    def admin(self) -> Redis:
        """A client of the admin user. With RESP2 its answers are plain lists."""
        return self.client("admin", protocol=2)

    def config(self) -> dict[str, str]:
        """Return the running configuration, by CONFIG GET."""
        answer = self.admin_call("CONFIG", "GET", "*")
        return dict(zip(answer[::2], answer[1::2], strict=True))

    def denials(self) -> dict[tuple[str, str, str], int]:
        """Return how often Redis denied something to clients of this session.

        The counts are by user, reason and object. The clients have this session's mark.
        """
        entries = (dict(zip(entry[::2], entry[1::2], strict=True)) for entry in self.admin_call("ACL", "LOG"))
        return {
            (entry["username"], entry["reason"], entry["object"]): int(entry["count"])
            for entry in entries
            if self.mark in entry["client-info"]
        }

    def save(self) -> None:
        """Write an RDB snapshot and wait until it is on disk."""
        until(self._is_not_saving)
        self.admin_call("BGSAVE")
        until(self._is_not_saving)

    def _is_not_saving(self) -> bool:
        return bool(self.admin.info("persistence")["rdb_bgsave_in_progress"] == 0)

    # -- Disconnecting

    def hang_up(self) -> None:
        """Close all clients. After a restart the container may have another address."""
        for client in self.clients:
            client.close()
        self.clients.clear()
        for name in ("endpoint", "admin"):
            self.__dict__.pop(name, None)

    def close(self) -> None:
        """Close all connections to the host."""
        self.hang_up()
        if not self.entry.is_local:
            self._control("exit")

    def _ssh_command(self, *command: str) -> list[str]:
        return ["ssh", "-F", str(self.ssh_config), self.entry.alias, *command]

    def _control(self, *options: str) -> subprocess.CompletedProcess[bytes]:
        """Send a control command to the shared connection."""
        command = ["ssh", "-F", str(self.ssh_config), "-O", *options, self.entry.alias]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)

    def hidden(self) -> list[str]:
        """Return all secrets: passwords and their hashes, command names and keys.

        The hashes are those in the ACL file.
        """
        passwords = [*self.secrets.passwords.values(), *self.secrets.previous.values()]
        own = [self.identity, self.identity.client] if self.identity else []
        keys = [identity.key.splitlines()[1] for identity in own if identity]
        keys += [self.secrets.repository] if self.secrets.repository else []
        return [*passwords, *map(acl.password_hash, passwords), *self.secrets.commands.values(), *keys]


def expectations(entry: Entry) -> tuple[Settings, Secrets, Identity | None]:
    """Return the settings, secrets and certificate of a host.

    They are read from this machine. Raises BridgeError if they are missing or invalid.
    """
    with chdir(PROJECT):
        try:
            settings = load(entry.data)
            return settings, secret_store.load(settings, entry.name), certificate_store.load(settings, entry.name)
        except (SettingsError, SecretsError) as error:
            raise BridgeError(f"{entry.name}: {error}") from None


def listens(address: str, port: int, timeout: float = 2) -> bool:
    """Return whether a TCP connection from this machine is accepted."""
    try:
        with socket.create_connection((address, port), timeout=timeout):
            return True
    except OSError:
        return False


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Wait until a condition is true and return its value.

    Errors of Redis count as false. Raises AssertionError after ``seconds``.
    """
    start = time.monotonic()
    while True:
        try:
            value = condition()
            reason = ""
        except RedisError as error:
            value = None
            reason = f": {type(error).__name__}"
        if value:
            return value
        waited = time.monotonic() - start
        assert waited < seconds, f"not within {seconds} s{reason}"
        # A look costs time of the host, so a long wait has few.
        time.sleep(min(max(0.05, waited / 10), 2))


def refusal(client: Redis, *command: str) -> str:
    """Return the error with which Redis refuses a command, as 'Type: text'.

    It is empty if Redis accepts the command.
    """
    try:
        client.execute_command(*command)
    except RedisError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def quoted(*words: str) -> str:
    """Return words as one shell command."""
    return shlex.join(words)


def by_redis(settings: Settings, script: str, directory: str = "") -> str:
    """Return a command that runs a script as Redis's user, by default in the root.

    Redis may have replaced its files by anything: root would follow a link, and a FIFO would block for ever. The script
    has to bound what it prints.
    """
    user = f"--reuid {settings.redis_uid} --regid {settings.redis_gid} --clear-groups"
    return f"cd {quoted(directory or settings.root)} && timeout 60 setpriv {user} sh -c {quoted(script)}"


def listed(host: Host, find: str) -> list[str]:
    """Return the entries that a find prints, which end in NUL.

    A name can contain a line break, and bytes that are no text.
    """
    result = host.run(find)
    assert result.rc == 0, find
    text: str = result.stdout_bytes.decode(errors="backslashreplace")
    return text.split("\0")[:-1]
