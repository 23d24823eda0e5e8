"""The host before a deploy: the fact that asks it, and its answer as data."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from redoubt import kernel_tuning
from redoubt.facts.script import script
from redoubt.settings.types import TITLES, Engine


@dataclass(frozen=True)
class Neighbour:
    """Another instance on the host, running or not: its memory limit in bytes, and where it is published."""

    name: str
    root: str
    memory: int
    published: frozenset[tuple[str, int]]


@dataclass(frozen=True)
class Listener:
    """A TCP socket that listens on the host; ``process`` is empty where the kernel does not tell."""

    address: str
    port: int
    process: str = ""


@dataclass(frozen=True)
class Persistence:
    """What the instance's data is kept in.

    ``appendonly`` and ``save`` are what Redis runs with, None where it does not answer, and ``used_memory`` the bytes
    that it compares with ``maxmemory`` (0: no limit); ``configured`` is the ``appendonly`` of the redis.conf that is
    there. ``rdb`` and ``aof`` say what is on the disk, ``formats`` by which formats of snapshots, such as REDIS0012.
    """

    appendonly: str | None = None
    save: str | None = None
    configured: str = ""
    rdb: bool = False
    aof: bool = False
    formats: frozenset[str] = frozenset()
    used_memory: int | None = None
    maxmemory: int | None = None


Version = tuple[int, ...]


Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Build:
    """A server in an image: its engine and version, by its number or, with ``package``, by that of a package."""

    engine: Engine
    version: str
    package: str = ""

    def __str__(self) -> str:
        return f"{self.package} {self.version}" if self.package else f"{TITLES[self.engine]} {self.version}"

    @property
    def numbers(self) -> Numbers:
        """Upstream's version: (8, 0, 2) for 5:8.0.2-3+deb13u3. Empty when it is none of three numbers."""
        match = re.match(r"(?:\d+:)?(\d+)\.(\d+)\.(\d+)", self.version)
        return tuple(int(part) for part in match.groups()) if match else ()


@dataclass(frozen=True)
class HostFacts:
    """What the probe saw. Sizes are bytes; a version is None where the program is missing."""

    uid: int
    system: str
    system_id: tuple[str, str]
    codename: str
    memory: int
    # Tells it from all others, whatever the inventory calls it.
    machine: str
    # Other instances on it, running or not.
    neighbours: tuple[Neighbour, ...]
    disk_free: int
    disk_used_by_data: int
    docker: Version | None
    docker_answers: bool
    docker_at_boot: bool
    # docker.io is the distribution's engine and docker-ce Docker's own, both perhaps installed in part.
    docker_package: str
    compose: Version | None
    selinux: bool
    published: frozenset[tuple[str, int]]
    name_taken: bool
    # What the host is contained in (docker, lxc); empty for a machine, virtual or not.
    container: str
    # Values of the kernel by their paths, see redoubt/kernel_tuning.py.
    kernel: dict[str, str]
    # Where the instance's own container has its data; empty when there is none.
    data_dir: str
    persistence: "Persistence"
    # The server that answers, by its own word; None where none does. Whether it is of the image in the settings.
    running_build: Build | None
    runs_configured_image: bool
    # The settings of the last deploy that came to its end, as JSON holds them; none where there was none.
    deployed: dict[str, Any]
    # What was putting other data in the place of the instance's when it was broken off; empty where nothing was.
    interrupted_restore: str
    # Whether a filter before its published port is set up.
    network_filtered: bool
    # Whether there are units that take backups, and why its systemd refuses the calendar for them, in words.
    backup_scheduled: bool
    schedule_refused: str
    # Whether it has a password of copies off the host.
    repository_password: bool
    # Paths of its certificates and of what names them, and where those came from (redis_tls_source).
    certificates: frozenset[str]
    certificate_source: str
    # How often the passwords of the instance were changed; 0 where there is none.
    generation: int
    # Its own addresses; empty where it does not say, or may listen on others as well.
    addresses: frozenset[str]
    listeners: tuple[Listener, ...]
    has_logrotate: bool
    # A Python with all of its own library that redisctl runs on.
    has_python: bool


class HostProbe(FactBase[HostFacts]):
    """What must be known of a host before a deploy: system, room, engine, who listens where."""

    def command(self, instance: str, root: str, image: str, calendar: str) -> str:
        paths = " ".join(setting.path for setting in kernel_tuning.KERNEL_SETTINGS)
        return script("host-facts.sh", INSTANCE=instance, ROOT=root, IMAGE=image, KERNEL=paths, CALENDAR=calendar)

    def process(self, output: list[str]) -> HostFacts:
        try:
            return parse_host_facts(output)
        except ValueError as error:
            raise FactProcessError(str(error)) from error


class InstalledPackages(FactBase[set[str]]):
    """Which of some Debian packages are installed."""

    @staticmethod
    def default() -> set[str]:
        return set()

    def command(self, names: Iterable[str]) -> str:
        # A name that dpkg never heard of is an error on standard error.
        packages = " ".join(map(shlex.quote, names))
        return f"dpkg-query --show --showformat '${{db:Status-Status}} ${{Package}}\\n' {packages} 2>/dev/null; true"

    def process(self, output: list[str]) -> set[str]:
        found = [line.split(" ", 1) for line in output]
        return {name for status, name in found if status == "installed"}


def parse_neighbour(line: str) -> Neighbour:
    """A neighbour by what docker inspect prints of its container."""
    name, data, memory, bindings = json.loads(line)
    return Neighbour(name, str(PurePosixPath(data).parent), memory, published_ports(bindings))


def published_ports(bindings: Mapping[str, Any] | None) -> frozenset[tuple[str, int]]:
    """Addresses and ports on the host that a container publishes, by docker inspect."""
    return frozenset(
        (binding["HostIp"] or "0.0.0.0", int(binding["HostPort"]))
        for port in (bindings or {}).values()
        for binding in port or ()
    )


def parse_host_facts(lines: Iterable[str]) -> HostFacts:
    """The probe's output (``key value`` lines) as facts. Raises ValueError when a key is missing."""
    values: dict[str, str] = {}
    listeners = []
    addresses = set()
    published: set[tuple[str, int]] = set()
    kernel = {}
    formats = set()
    certificates = set()
    others = []
    for line in lines:
        key, _, value = line.partition(" ")
        if key == "listener":
            listeners.append(_listener(value))
        elif key == "address":
            addresses.add(value.strip())
        elif key == "published":
            published |= published_ports(json.loads(value))
        elif key == "format":
            formats.add(value.strip())
        elif key == "instance":
            others.append(parse_neighbour(value))
        elif key == "certificate":
            certificates.add(value)
        elif key == "kernel":
            path, _, shown = value.partition(" ")
            kernel[path] = shown
        else:
            values[key] = value.strip()
    try:
        return HostFacts(
            uid=int(values["uid"]),
            system=values["system"],
            system_id=(values["id"], values["version"]),
            codename=values["codename"],
            memory=int(values["memory_kib"]) * 1024,
            machine=values["machine"],
            neighbours=tuple(others),
            disk_free=int(values["disk_free_kib"]) * 1024,
            disk_used_by_data=int(values["data_kib"]) * 1024,
            docker=_version(values["engine_answers"]) or _version(values["engine_installed"]),
            docker_answers=bool(values["engine_answers"]),
            # An engine that is no unit of this name is started by something else.
            docker_at_boot=values["engine_enabled"] != "disabled",
            docker_package=values["engine_package"],
            compose=_version(values["compose"]),
            selinux=values["selinux"] in ("Enforcing", "Permissive"),
            published=frozenset(published),
            name_taken=bool(values["name_taken"]),
            container=values["container"].removeprefix("none"),
            kernel=kernel,
            data_dir=values["data_at"],
            persistence=Persistence(
                appendonly=values.get("running_appendonly"),
                save=values.get("running_save"),
                configured=values["configured_appendonly"],
                rdb="dump.rdb" in values["stored"].split(),
                aof=".manifest" in values["stored"],
                formats=frozenset(formats),
                used_memory=int(values["running_used"]) - int(values.get("running_uncounted", 0))
                if "running_used" in values
                else None,
                maxmemory=int(values["running_maxmemory"]) if "running_maxmemory" in values else None,
            ),
            running_build=_running_build(values),
            runs_configured_image=bool(values["image_runs"]),
            deployed=_deployed_settings(values["deployed"]),
            interrupted_restore=values["replacing"],
            network_filtered=bool(values["network_filtered"]),
            backup_scheduled=bool(values["backup_scheduled"]),
            schedule_refused=values["calendar_refused"],
            repository_password=bool(values["repository_password"]),
            certificates=frozenset(certificates),
            certificate_source=values["certificate_source"],
            generation=int(values["generation"] or 0),
            addresses=frozenset(addresses),
            listeners=tuple(listeners),
            has_logrotate=bool(values["logrotate"]),
            has_python=bool(values["python"]),
        )
    except KeyError as missing:
        raise ValueError(f"the probe did not answer {missing}") from None


def _running_build(values: Mapping[str, str]) -> Build | None:
    # Valkey tells a version of Redis, too.
    if "running_valkey" in values:
        return Build("valkey", values["running_valkey"])
    return Build("redis", values["running_redis"]) if "running_redis" in values else None


def _deployed_settings(text: str) -> dict[str, Any]:
    """Settings as the last deploy noted them; what cannot be read is as good as none, and is written anew."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _listener(value: str) -> Listener:
    """A line of ``ss -Hltnp``: state, queues, local address, peer, users."""
    fields = value.split()
    address, _, port = fields[3].rpartition(":")
    address = address.strip("[]").partition("%")[0]
    process = re.search(r'users:\(\("([^"]*)",pid=(\d+)', value)
    return Listener(
        "::" if address == "*" else address,
        int(port),
        f"{process[1]} (pid {process[2]})" if process else "",
    )


def _version(text: str) -> Version | None:
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in match.groups() if part is not None) if match else None
