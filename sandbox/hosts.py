"""Disposable hosts, whatever they are made of.

A host is known by its name. `up` makes one and `load` finds those that were made; what a
kind of host has of its own is behind `Kind`, so that a system container and a virtual
machine are named, started, reached, listed and removed alike.
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
# What QEMU and the engines say of a port that somebody else listens on.
_PORT_TAKEN = ("Could not set up host forwarding rule", "port is already allocated", "address already in use")
# The kind of a host whose record cannot be read. Nobody knows what it was.
_DAMAGED = "damaged"


class Kind(Protocol):
    """What a kind of host has to be able to do. Implemented by modules: container.py and vm.py."""

    BOOT_TIMEOUT: float
    """How many seconds a host of this kind may take from its start until it can be worked with."""

    def create(self, host: Host, *, host_key: ssh.KeyPair, authorized_key: str) -> Host:
        """Make the host, not yet started; return it with what became known of it."""

    def start(self, host: Host) -> None:
        """Start a host that is made or stopped."""

    def stop(self, host: Host) -> None:
        """Shut the host down in good order."""

    def kill(self, host: Host) -> None:
        """Stop the host at once, as a power failure would."""

    def remove(self, host: Host) -> None:
        """Remove the host and its disks, running or not."""

    def is_running(self, host: Host) -> bool:
        """Whether the host is started."""

    def diagnose(self, host: Host) -> str:
        """The host's own last words, got without SSH."""


@dataclass(frozen=True)
class Host:
    """A disposable host. Reached over SSH on a port of 127.0.0.1, as root or as `operator`."""

    name: str
    kind: str
    image: str
    ssh_port: int
    address: str | None = None
    """Where other hosts reach it and, on Linux, the machine too."""

    def run(
        self,
        command: str,
        *,
        user: str = "root",
        check: bool = False,
        input: str | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the host. With `check`, a failure raises and shows its output."""
        done = subprocess.run(
            ssh.command(self.name, "--", command, user=user),
            env=ssh.environment(),
            stdin=subprocess.DEVNULL if input is None else None,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise SandboxError(f"{self.name}: exit code {done.returncode} from: {command}\n{done.stdout}{done.stderr}")
        return done

    def ssh_data(self) -> dict[str, str | int]:
        """The host's data for pyinfra's SSH connector."""
        return {
            "ssh_hostname": "127.0.0.1",
            "ssh_port": self.ssh_port,
            "ssh_user": "root",
            "ssh_key": str(ssh.KEY),
            "ssh_known_hosts_file": str(self.known_hosts),
            "ssh_strict_host_key_checking": "yes",
            # Else the operator's own ~/.ssh/config has a say in how 127.0.0.1 is reached.
            "ssh_config_file": str(ssh.CONFIG),
        }

    def deploy_data(self) -> dict[str, str | int | bool]:
        """The host's data for a deploy: how it is reached, and what a disposable host needs set."""
        return {
            **self.ssh_data(),
            # A container's kernel is the machine's.
            "redis_host_tuning": self.kind != "container",
            # A machine without a registry: the image is built from Debian's packages and pushed over SSH.
            "redis_image_source": "archive",
            "redis_image": images.redis_reference(),
            "redis_image_archive": str(images.redis_archive()),
        }

    @property
    def _is(self) -> Kind:
        kinds = _kinds()
        if self.kind not in kinds:
            raise SandboxError(
                f"the record of host {self.name} is damaged: `python -m sandbox down {self.name}` removes it"
                if self.kind == _DAMAGED
                else f"there are no hosts of kind {self.kind!r}, only: {', '.join(kinds)}"
            )
        return kinds[self.kind]

    @property
    def known_hosts(self) -> Path:
        """The file that holds this host's key."""
        return _DIRECTORY / self.name / "known_hosts"

    def is_running(self) -> bool:
        """Whether the host is started. Asks the engine."""
        return self.kind != _DAMAGED and self._is.is_running(self)

    def listens(self) -> bool:
        """Whether its port on this machine is open, as it is while the host runs. Quick: asks no engine."""
        return _is_open(self.ssh_port)

    def start(self) -> None:
        """Start the host if it is stopped, and wait until it can be worked with."""
        kind = self._is
        with lock():
            if not kind.is_running(self):
                say(self.name, "starting")
                kind.start(self)
            _write_ssh_config()  # with its directory for sockets, which a reboot of the machine removes
        self._wait(kind.BOOT_TIMEOUT)

    def stop(self) -> None:
        """Shut the host down in good order; what is on its disks stays."""
        say(self.name, "stopping")
        ssh.hang_up(self.name)
        self._is.stop(self)

    def restart(self) -> None:
        """Reboot the host, and wait until it can be worked with."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """Cut the host's power. It stays down until `start`."""
        ssh.hang_up(self.name)
        self._is.kill(self)

    def down(self) -> None:
        """Remove the host: its disks, its keys and its entry in ssh_config too."""
        with lock():
            say(self.name, "removing")
            ssh.hang_up(self.name)
            for kind in _kinds().values() if self.kind == _DAMAGED else [self._is]:
                kind.remove(self)
            shutil.rmtree(_DIRECTORY / self.name, ignore_errors=True)
            _write_ssh_config()

    def port_hint(self, why: str) -> str:
        """A further line for an error, where the reason is that the host's port is taken."""
        if not any(words in why for words in _PORT_TAKEN):
            return ""
        return f"\nIts port {self.ssh_port} is taken: `python -m sandbox down {self.name}` and `up` again."

    def _wait(self, timeout: float) -> None:
        """Wait for SSH, for systemd to have started everything, and for the engine if any.

        All of it within `timeout` seconds, and no longer than the host runs.
        """
        deadline = time.monotonic() + timeout
        error = ""

        def settled(command: str) -> bool:
            nonlocal error
            try:
                done = self.run(command, timeout=20)
            except subprocess.TimeoutExpired:
                error = "no answer"
            else:
                error = done.stderr.strip()
                if done.returncode == 0:
                    return True
            return not self.is_running()

        for what, test in (
            ("SSH", "true"),
            # "degraded" is up, too: some unit failed, which is for the tests to judge.
            ("systemd", "systemctl is-system-running | grep -qE 'running|degraded'"),
            ("its container engine", "! command -v docker || docker info"),
        ):
            left = deadline - time.monotonic()
            in_time = wait_until(self.name, f"waiting for {what}", partial(settled, test), left)
            if not self.is_running():
                with lock():  # which the one that removes it has
                    removed = not self.known_hosts.exists()
                if removed:
                    raise SandboxError(f"{self.name} was removed while it started")
                raise SandboxError(f"{self.name} went off while it started\n{self._is.diagnose(self)}")
            if not in_time:
                raise SandboxError(
                    f"{self.name} did not come up: {what} is not ready after {timeout:.0f} s: {error}\n"
                    f"{self._is.diagnose(self)}\n"
                    f"Look at it with `make ssh HOST={self.name}`, or start over with `make clean`."
                )


def load() -> list[Host]:
    """All hosts that were made, running or not, by name. Reads files; asks no engine.

    One whose record cannot be read is of a kind that can only be removed.
    """
    return [_read(record) for record in sorted(_DIRECTORY.glob("*/host.json"))]


def _read(record: Path) -> Host:
    try:
        return Host(**json.loads(record.read_text()))
    except (ValueError, TypeError):
        return Host(record.parent.name, _DAMAGED, image="?", ssh_port=0)


def without_stopped(found: Iterable[Host]) -> list[Host]:
    """Those hosts that run, by their ports. Says on stderr which do not, and how they are started."""
    there = [(host, host.listens()) for host in found]
    for host, running in there:
        if not running:
            say(host.name, f"is stopped, so it is left out; `python -m sandbox up {host.name}` starts it")
    return [host for host, running in there if running]


def get(name: str) -> Host:
    """The host of this name; an error says which there are."""
    found = load()
    for host in found:
        if host.name == name:
            return host
    there = ", ".join(host.name for host in found) or "none"
    raise SandboxError(f"there is no host {name} (there are: {there}); `python -m sandbox up {name}`")


def check_name(name: str) -> None:
    """Refuse a name that a host cannot have."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", name):
        raise SandboxError(f"{name!r} cannot name a host: use up to 40 lower-case letters, digits and hyphens")


def up(name: str = DEFAULT, *, kind: str = "", image: str = "") -> Host:
    """Make the host if there is none of this name, start it if it is stopped; wait for it.

    `kind` is `container` or `vm`. `image` is `host`, or `bare` for one without a container engine. By default it is
    a container of image `host`, and a virtual machine is `bare`. A host that is there stays what it is; one that is
    asked for as something else is an error. What a call that is interrupted has made or started is removed or
    switched off again.
    """
    check_name(name)
    with lock():
        host = next((host for host in load() if host.name == name), None)
        new = host is None
        if host is None:
            host = _create(name, kind or "container", image or ("bare" if kind == "vm" else "host"))
        elif host.kind != _DAMAGED and (kind or host.kind, image or host.image) != (host.kind, host.image):
            raise SandboxError(
                f"{name} is there already, as a {host.kind} of image `{host.image}`: "
                f"`python -m sandbox down {name}` first, or choose another name"
            )
    ran = host.is_running()
    try:
        host.start()
    except (KeyboardInterrupt, SystemExit):
        if new:
            say(name, "interrupted while it started, so it is removed again")
            host.down()
        elif not ran and host.is_running():
            say(name, "interrupted while it started, so its power is cut")
            host.kill()
        raise
    return host


def _create(name: str, kind: str, image: str) -> Host:
    pair = ssh.generate()
    host = Host(name, kind, image, ssh_port=_free_port(host.ssh_port for host in load()))
    say(name, f"making a {kind} from image `{image}`")
    try:
        host = host._is.create(host, host_key=pair, authorized_key=ssh.public_key())
    except (KeyboardInterrupt, SystemExit):
        say(name, "interrupted while it was made, so what there is of it is removed")
        host._is.remove(host)
        raise
    directory = _DIRECTORY / name
    directory.mkdir(parents=True, exist_ok=True)
    host.known_hosts.write_text(ssh.known_hosts_line(host.ssh_port, pair.public))
    write_whole(directory / "host.json", json.dumps(asdict(host), indent=2) + "\n")
    _write_ssh_config()
    return host


def _write_ssh_config() -> None:
    known = [host for host in load() if host.kind != _DAMAGED]
    ssh.write_config(ssh.Entry(host.name, host.ssh_port, host.known_hosts) for host in known)


def _kinds() -> dict[str, Kind]:
    # Not at the top: whoever only reads the list of hosts does not wait for an engine's SDK.
    from sandbox import container, vm

    return {"container": container, "vm": vm}


def _free_port(taken: Iterable[int]) -> int:
    """A free port below those that the kernel gives to outgoing connections.

    It has to stay free while its host is stopped.
    """
    used = set(taken)
    start = 22000 + int(ID, 16) % 500
    for port in range(start, start + 500):
        if port not in used and not _is_open(port):
            return port
    raise SandboxError(f"no port is free between {start} and {start + 500}")


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
