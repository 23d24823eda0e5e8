"""Disposable hosts: system containers and virtual machines.

A host has a name. `up` creates a host and `load` returns all of them. `Kind` is what differs between containers and
virtual machines, so that both are started, reached, listed and removed in the same way.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from sandbox import images, ssh
from sandbox.util import ID, STATE, SandboxError, lock, say, wait_until, write_whole

DEFAULT = "redoubt-1"
_DIRECTORY = STATE / "hosts"
# Messages of QEMU and Docker about a port that is in use.
_PORT_TAKEN = ("Could not set up host forwarding rule", "port is already allocated", "address already in use")
# The kind of a host whose record cannot be read.
_DAMAGED = "damaged"


class Kind(Protocol):
    """The interface of a kind of host, implemented by container.py and vm.py."""

    BOOT_TIMEOUT: float
    """Seconds from the start of a host until it must be ready."""

    def create(self, host: Host, *, host_key: ssh.KeyPair, authorized_key: str) -> Host:
        """Create the host without starting it. Return it with its address, if it has one."""

    def start(self, host: Host) -> None:
        """Start a host that does not run."""

    def stop(self, host: Host) -> None:
        """Shut the host down cleanly."""

    def kill(self, host: Host) -> None:
        """Stop the host at once, like a power cut."""

    def remove(self, host: Host) -> None:
        """Remove the host and its disks, running or not."""

    def is_running(self, host: Host) -> bool:
        """Return whether the host runs."""

    def diagnose(self, host: Host, *, lines: int = ..., priority: str = ...) -> str:
        """Return the end of the host's logs, without SSH.

        `priority` is the lowest one that a journal shows.
        """


@dataclass(frozen=True)
class Host:
    """A disposable host.

    SSH reaches it on a port of 127.0.0.1, as root or as `operator`.
    """

    name: str
    kind: str
    image: str
    ssh_port: int
    address: str | None = None
    """Where other hosts reach it, and on Linux this machine as well."""

    def run(
        self,
        command: str,
        *,
        user: str = "root",
        check: bool = False,
        input: str | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the host.

        `timeout` is in seconds. With `check`, a failure raises SandboxError with the command's output.
        """
        result = subprocess.run(
            ssh.command(self.name, "--", command, user=user),
            env=ssh.environment(),
            stdin=subprocess.DEVNULL if input is None else None,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and result.returncode != 0:
            output = f"{result.stdout}{result.stderr}"
            raise SandboxError(f"{self.name}: exit code {result.returncode} from: {command}\n{output}")
        return result

    def ssh_data(self) -> dict[str, str | int]:
        """Return the host's data for pyinfra's SSH connector."""
        return {
            "ssh_hostname": "127.0.0.1",
            "ssh_port": self.ssh_port,
            "ssh_user": "root",
            "ssh_key": str(ssh.KEY),
            "ssh_known_hosts_file": str(self.known_hosts),
            "ssh_strict_host_key_checking": "yes",
            # The operator's ~/.ssh/config may change how 127.0.0.1 is reached.
            "ssh_config_file": str(ssh.CONFIG),
        }

    def deploy_data(self) -> dict[str, str | int | bool]:
        """Return the host's data for a deploy.

        These are the connection, and settings that a disposable host needs.
        """
        return {
            **self.ssh_data(),
            # A container shares the kernel of this machine.
            "redis_host_tuning": self.kind != "container",
            # There may be no registry, so the image is built from Debian's packages and goes over SSH.
            "redis_image_source": "archive",
            "redis_image": images.redis_reference(),
            "redis_image_archive": str(images.redis_archive()),
        }

    @property
    def _is(self) -> Kind:
        kinds = _kinds()
        if self.kind not in kinds:
            raise SandboxError(
                f"the record of host {self.name} is damaged: `python -m sandbox down {self.name}` removes the host"
                if self.kind == _DAMAGED
                else f"there are no hosts of kind {self.kind!r}, only: {', '.join(kinds)}"
            )
        return kinds[self.kind]

    @property
    def known_hosts(self) -> Path:
        """The file with the host's public key."""
        return _DIRECTORY / self.name / "known_hosts"

    def is_running(self) -> bool:
        """Return whether the host runs, by Docker or by the process of QEMU."""
        return self.kind != _DAMAGED and self._is.is_running(self)

    def listens(self) -> bool:
        """Return whether the host's SSH port on this machine is open.

        This is quick and needs no Docker.
        """
        return _is_open(self.ssh_port)

    def start(self) -> None:
        """Start the host if it is stopped, and wait until it is ready."""
        kind = self._is
        with lock():
            if not kind.is_running(self):
                say(self.name, "starting")
                kind.start(self)
            # Also creates the directory for sockets, which a reboot of this machine removes.
            _write_ssh_config()
        self._wait(kind.BOOT_TIMEOUT)

    def stop(self) -> None:
        """Shut the host down cleanly. Its disks stay."""
        say(self.name, "stopping")
        ssh.hang_up(self.name)
        self._is.stop(self)

    def restart(self) -> None:
        """Reboot the host and wait until it is ready."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """Cut the host's power."""
        ssh.hang_up(self.name)
        self._is.kill(self)

    def down(self) -> None:
        """Remove the host with its disks, keys and entry in ssh_config."""
        with lock():
            say(self.name, "removing")
            ssh.hang_up(self.name)
            for kind in _kinds().values() if self.kind == _DAMAGED else [self._is]:
                kind.remove(self)
            shutil.rmtree(_DIRECTORY / self.name, ignore_errors=True)
            _write_ssh_config()

    def save_log(self, directory: Path) -> None:
        """Append the end of the host's log to a file in a directory, without SSH."""
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / f"{self.name}.log").open("a") as file:
            file.write(f"{self._is.diagnose(self, lines=2000, priority='info')}\n\n")

    def port_hint(self, error: str) -> str:
        """Return what to do if an error says that the host's port is in use.

        The text is a line to append to the error. It is empty for other errors.
        """
        if not any(message in error for message in _PORT_TAKEN):
            return ""
        return f"\nIts port {self.ssh_port} is taken: run `python -m sandbox down {self.name}`, then `up` again."

    def _wait(self, timeout: float) -> None:
        """Wait for SSH, the end of systemd's startup, and Docker if it is installed.

        Raises SandboxError after `timeout` seconds altogether, or if the host stops.
        """
        deadline = time.monotonic() + timeout
        error = ""

        def is_settled(command: str) -> bool:
            nonlocal error
            try:
                result = self.run(command, timeout=20)
            except subprocess.TimeoutExpired:
                error = "no answer"
            else:
                error = result.stderr.strip()
                if result.returncode == 0:
                    return True
            return not self.is_running()

        for part, test in (
            ("SSH", "true"),
            # In the state "degraded" a unit has failed, which the tests may check.
            ("systemd", "timeout 15 systemctl is-system-running --wait | grep -qE 'running|degraded'"),
            ("Docker", "! command -v docker || docker info"),
        ):
            left = deadline - time.monotonic()
            in_time = wait_until(self.name, f"waiting for {part}", partial(is_settled, test), left)
            if not self.is_running():
                # A removal holds the lock until it has finished.
                with lock():
                    is_removed = not self.known_hosts.exists()
                if is_removed:
                    raise SandboxError(f"{self.name} was removed while it started")
                raise SandboxError(f"{self.name} stopped while it started\n{self._is.diagnose(self)}")
            if not in_time:
                raise SandboxError(
                    f"{self.name} did not start: {part} is not ready after {timeout:.0f} s: {error}\n"
                    f"{self._is.diagnose(self)}\n"
                    f"Inspect it with `make ssh HOST={self.name}`, or start over with `make clean`."
                )


def load() -> list[Host]:
    """Return all hosts by name, running or not. This reads only files.

    A host whose record cannot be read can only be removed.
    """
    return [_read(record) for record in sorted(_DIRECTORY.glob("*/host.json"))]


def _read(record: Path) -> Host:
    try:
        return Host(**json.loads(record.read_text()))
    except (ValueError, TypeError):
        return Host(record.parent.name, _DAMAGED, image="?", ssh_port=0)


def without_stopped(all_hosts: Iterable[Host]) -> list[Host]:
    """Return the running hosts.

    Name the others on stderr, with the command that starts them.
    """
    states = [(host, host.listens()) for host in all_hosts]
    for host, running in states:
        if not running:
            say(host.name, f"is stopped, so it is left out; `python -m sandbox up {host.name}` starts it")
    return [host for host, running in states if running]


def get(name: str) -> Host:
    """Return the host with this name. Raises SandboxError with all names."""
    all_hosts = load()
    for host in all_hosts:
        if host.name == name:
            return host
    names = ", ".join(host.name for host in all_hosts) or "none"
    raise SandboxError(f"there is no host {name} (hosts: {names}): `python -m sandbox up {name}` creates it")


def check_name(name: str) -> None:
    """Raise SandboxError for an invalid name of a host."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", name):
        raise SandboxError(f"{name!r} is no valid name of a host: use up to 40 lower-case letters, digits and hyphens")


def up(name: str = DEFAULT, *, kind: str = "", image: str = "") -> Host:
    """Create the host if it does not exist, start it, and wait until it is ready.

    `kind` is `container` (default) or `vm`. `image` is `host`, or `bare` without Docker; the default is `host` for a
    container and `bare` for a virtual machine. Raises SandboxError if the host exists with another kind or image. An
    interrupted call removes the host that it created, or kills the host that it started.
    """
    check_name(name)
    with lock():
        host = next((host for host in load() if host.name == name), None)
        is_new = host is None
        if host is None:
            host = _create(name, kind or "container", image or ("bare" if kind == "vm" else "host"))
        elif host.kind != _DAMAGED and (kind or host.kind, image or host.image) != (host.kind, host.image):
            raise SandboxError(
                f"{name} exists as a {host.kind} of image `{host.image}`: "
                f"run `python -m sandbox down {name}` first, or choose another name"
            )
    was_running = host.is_running()
    try:
        host.start()
    except (KeyboardInterrupt, SystemExit):
        if is_new:
            say(name, "interrupted while it started, so it is removed")
            host.down()
        elif not was_running and host.is_running():
            say(name, "interrupted while it started, so its power is cut")
            host.kill()
        raise
    return host


def _create(name: str, kind: str, image: str) -> Host:
    pair = ssh.generate()
    host = Host(name, kind, image, ssh_port=_free_port(host.ssh_port for host in load()))
    say(name, f"creating a {kind} from image `{image}`")
    try:
        host = host._is.create(host, host_key=pair, authorized_key=ssh.public_key())
    except (KeyboardInterrupt, SystemExit):
        say(name, "interrupted while it was created, so it is removed")
        host._is.remove(host)
        raise
    directory = _DIRECTORY / name
    directory.mkdir(parents=True, exist_ok=True)
    host.known_hosts.write_text(ssh.known_hosts_line(host.ssh_port, pair.public))
    write_whole(directory / "host.json", json.dumps(asdict(host), indent=2) + "\n")
    _write_ssh_config()
    return host


def _write_ssh_config() -> None:
    valid = [host for host in load() if host.kind != _DAMAGED]
    ssh.write_config(ssh.Entry(host.name, host.ssh_port, host.known_hosts) for host in valid)


def _kinds() -> dict[str, Kind]:
    # Imported here, because the list of hosts does not need Docker's SDK, which is slow to import.
    from sandbox import container, vm

    return {"container": container, "vm": vm}


def _free_port(taken: Iterable[int]) -> int:
    """Return a free port that stays free while its host is stopped.

    It is below the range of outgoing connections.
    """
    used = set(taken)
    start = 22000 + int(ID, 16) % 500
    for port in range(start, start + 500):
        if port not in used and not _is_open(port):
            return port
    raise SandboxError(f"no port is free between {start} and {start + 500}: free one of them")


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
