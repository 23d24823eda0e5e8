"""The host before a deploy: the facts that inspect it, and their answer as data."""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from pathlib import PurePosixPath
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from redisctl import paths
from redisctl.schema import InstanceState
from redoubt import kernel_tuning
from redoubt.facts.script import pinned, script
from redoubt.settings.types import TITLES, Engine

Version = tuple[int, ...]
Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Neighbour:
    """Another instance on the host, running or not.

    ``memory`` is its limit in bytes, ``published`` are its addresses and ports, ``edge_subnet`` is the network of its
    edge bridge, empty if it is unknown.
    """

    name: str
    root: str
    memory: int
    published: frozenset[tuple[str, int]]
    edge_subnet: str = ""


@dataclass(frozen=True)
class Listener:
    """A TCP socket that listens on the host.

    ``process`` is empty if the kernel does not name it.
    """

    address: str
    port: int
    process: str = ""


@dataclass(frozen=True)
class Route:
    """An IPv4 route of the host, other than a default route, with its interface."""

    network: IPv4Network
    device: str


@dataclass(frozen=True)
class Persistence:
    """Where the instance's data is.

    ``appendonly`` and ``save`` are what Redis runs with, None where it does not answer. ``used_memory`` is what it
    compares with ``maxmemory``, in bytes (0: no limit). It runs with ``databases`` databases, and the highest one with
    keys is number ``used_databases`` - 1. ``configured`` is the ``appendonly`` of the present redis.conf.
    ``rdb`` and ``aof`` say what is on the disk, ``formats`` in which RDB formats, such as REDIS0012.
    """

    appendonly: str | None = None
    save: str | None = None
    configured: str = ""
    rdb: bool = False
    aof: bool = False
    formats: frozenset[str] = frozenset()
    used_memory: int | None = None
    maxmemory: int | None = None
    databases: int | None = None
    used_databases: int = 0


@dataclass(frozen=True)
class Build:
    """A server in an image: its engine and version.

    With ``package`` it is the package's version, without it the server's own number.
    """

    engine: Engine
    version: str
    package: str = ""

    def __str__(self) -> str:
        return f"{self.package} {self.version}" if self.package else f"{TITLES[self.engine]} {self.version}"

    @property
    def numbers(self) -> Version:
        """Return upstream's version: (8, 0, 2) for 5:8.0.2-3+deb13u3.

        Empty if the version does not have three numbers.
        """
        match = re.match(r"(?:\d+:)?(\d+)\.(\d+)\.(\d+)", self.version)
        return tuple(int(part) for part in match.groups()) if match else ()


@dataclass(frozen=True)
class HostFacts:
    """A host before a deploy.

    Sizes are bytes; a version is None if the program is missing. ``machine`` identifies it, whatever the inventory
    calls it. ``docker_package`` is docker.io (the distribution's) or docker-ce (Docker's), even if only a part is
    installed. ``container`` is what the host runs in (docker, lxc), empty for a machine. ``kernel`` are kernel settings
    by path. ``schedule_refused`` is why systemd refuses the backup schedule. ``addresses`` are the host's own, empty
    where any may be used. ``owner_account`` is the account that has the number of Redis's user, empty without one;
    ``free_id`` is a number that no account and no group has. ``has_python`` says that redisctl can run. ``redisctl`` is
    the digest of the installed redisctl. ``root_owner`` is the instance that the root belongs to by its marker.
    ``root_entries`` is what the root contains, without empty disks. ``root_resolved`` is the root without links in its
    path, and ``root_access`` its owner, group and mode, as in ``0:0 755``. ``foreign_files`` are files of others under
    names that a deploy uses outside the root. ``instance`` is what redisctl reports.
    """

    uid: int
    system: str
    system_id: tuple[str, str]
    codename: str
    memory: int
    machine: str
    disk_free: int
    docker: Version | None
    docker_answers: bool
    docker_at_boot: bool
    docker_package: str
    compose: Version | None
    selinux: bool
    container: str
    kernel: dict[str, str]
    schedule_refused: str
    addresses: frozenset[str]
    listeners: tuple[Listener, ...]
    owner_account: str
    free_id: int
    has_logrotate: bool
    has_nft: bool
    has_python: bool
    routes: tuple[Route, ...] = ()
    has_root: bool = False
    root_owner: str = ""
    root_entries: tuple[str, ...] = ()
    root_resolved: str = ""
    root_access: str = ""
    foreign_files: tuple[str, ...] = ()
    redisctl: str = ""
    instance: InstanceState = field(default_factory=InstanceState)

    def with_instance(self, instance: InstanceState) -> "HostFacts":
        """Return these facts with what redisctl reports."""
        return replace(self, instance=instance)

    @property
    def has_redisctl_config(self) -> bool:
        """Say whether the host has a redisctl.json."""
        return self.instance.configured

    @property
    def neighbours(self) -> tuple[Neighbour, ...]:
        """Other instances on the host."""
        return tuple(
            Neighbour(other.name, _root_of(other.data_dir), other.memory, frozenset(other.ports), other.edge_subnet)
            for other in self.instance.other_instances
        )

    @property
    def published(self) -> frozenset[tuple[str, int]]:
        """The addresses and ports that the instance has published."""
        return frozenset(self.instance.published)

    @property
    def running_build(self) -> Build | None:
        """The server that answers; None where none does."""
        state = self.instance
        engine: Engine = "valkey" if state.running_engine == "valkey" else "redis"
        return Build(engine, state.running_version) if state.running_version else None

    @property
    def persistence(self) -> Persistence:
        """Where the instance's data is."""
        state, config = self.instance, self.instance.config
        return Persistence(
            appendonly=config.get("appendonly"),
            save=config.get("save"),
            configured=state.configured_appendonly,
            rdb=state.stored.rdb,
            aof=state.stored.aof,
            formats=frozenset(state.stored.formats),
            used_memory=state.used_memory if config else None,
            maxmemory=_number(config.get("maxmemory", "")),
            databases=_number(config.get("databases", "")),
            used_databases=state.used_databases,
        )

    def runs_configured_image(self, name: str) -> bool:
        """Say whether the container was created from the image of the settings."""
        image = self.instance.image_id
        return bool(image) and any(
            container.image_id == image for container in self.instance.containers if container.name == name
        )

    def has_unit(self, unit: str) -> bool:
        """Say whether systemd knows one of the instance's units."""
        state = self.instance.units.get(unit)
        return state is not None and state.present


def _number(text: str) -> int | None:
    """Return a number that Redis reports; None if it is none.

    A compromised Redis may report anything.
    """
    return int(text) if re.fullmatch(r"[0-9]{1,19}", text) else None


def _root_of(data_dir: str) -> str:
    """Return the root of an instance whose container has this directory as /data."""
    if data_dir.endswith(f"/{paths.LIVE}"):
        return data_dir.removesuffix(f"/{paths.LIVE}")
    return str(PurePosixPath(data_dir).parent) if data_dir else ""


class HostProbe(FactBase[HostFacts]):
    """Everything about a host that a deploy must know and that needs no Python there."""

    def command(self, instance: str, root: str, calendar: str, owner: int) -> str:
        kernel = " ".join(setting.path for setting in kernel_tuning.KERNEL_SETTINGS)
        files = " ".join(paths.outside_root(instance))
        return script("host-facts.sh", ROOT=root, KERNEL=kernel, CALENDAR=calendar, OWNER=str(owner), FILES=files)

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
        # dpkg-query reports an unknown name on standard error.
        packages = " ".join(map(shlex.quote, names))
        return pinned(
            f"dpkg-query --show --showformat '${{db:Status-Status}} ${{Package}}\\n' {packages} 2>/dev/null; true"
        )

    def process(self, output: list[str]) -> set[str]:
        states = [line.split(" ", 1) for line in output]
        return {name for status, name in states if status == "installed"}


def parse_host_facts(lines: Iterable[str]) -> HostFacts:
    """Parse the ``key value`` lines of files/host-facts.sh.

    Raises ValueError if a key is missing.
    """
    values: dict[str, str] = {}
    listeners, routes, addresses, kernel, root_entries, foreign_files = [], [], set(), {}, [], []
    for line in lines:
        key, _, value = line.partition(" ")
        if key == "listener":
            listeners.append(_listener(value))
        elif key == "route":
            routes += _routes(value)
        elif key == "address":
            addresses.add(value.strip())
        elif key == "root_entry":
            root_entries.append(value)
        elif key == "foreign_file":
            foreign_files.append(value)
        elif key == "kernel":
            path, _, setting = value.partition(" ")
            kernel[path] = setting
        else:
            values[key] = value.strip()
    try:
        facts = _host_facts(values, listeners, addresses, kernel)
        facts = replace(facts, root_entries=tuple(root_entries), foreign_files=tuple(foreign_files))
        return replace(facts, routes=tuple(routes))
    except KeyError as missing:
        raise ValueError(f"the inspection of the host did not report {missing}") from None


def _host_facts(values: dict[str, str], listeners: list[Listener], addresses: set[str], kernel: Any) -> HostFacts:
    return HostFacts(
        uid=int(values["uid"]),
        system=values["system"],
        system_id=(values["id"], values["version"]),
        codename=values["codename"],
        memory=int(values["memory_kib"]) * 1024,
        machine=values["machine"],
        disk_free=int(values["disk_free_kib"]) * 1024,
        docker=_version(values["docker_answers"]) or _version(values["docker_installed"]),
        docker_answers=bool(values["docker_answers"]),
        # A Docker that is no systemd unit of this name is started by something else.
        docker_at_boot=values["docker_enabled"] != "disabled",
        docker_package=values["docker_package"],
        compose=_version(values["compose"]),
        selinux=values["selinux"] in ("Enforcing", "Permissive"),
        container=values["container"].removeprefix("none"),
        kernel=kernel,
        schedule_refused=values["calendar_refused"],
        addresses=frozenset(addresses),
        listeners=tuple(listeners),
        owner_account=values["owner_account"],
        free_id=int(values["free_id"]),
        has_logrotate=bool(values["logrotate"]),
        has_nft=bool(values["nft"]),
        has_python=bool(values["python"]),
        has_root=bool(values["root"]),
        root_owner=values["root_owner"],
        root_resolved=values["root_resolved"],
        root_access=values["root_access"],
        redisctl=values["redisctl"],
    )


def _listener(value: str) -> Listener:
    """Parse a line of ``ss -Hltnp``: state, queues, local address, peer, users."""
    fields = value.split()
    address, _, port = fields[3].rpartition(":")
    address = address.strip("[]").partition("%")[0]
    process = re.search(r'users:\(\("([^"]*)",pid=(\d+)', value)
    return Listener(
        "::" if address == "*" else address,
        int(port),
        f"{process[1]} (pid {process[2]})" if process else "",
    )


def _routes(value: str) -> list[Route]:
    """Parse a line of ``ip -4 route``: destination, then pairs of keyword and value."""
    destination, *fields = value.split()
    if destination == "default":
        return []
    device = fields[fields.index("dev") + 1] if "dev" in fields else ""
    return [Route(IPv4Network(destination), device)]


def _version(text: str) -> Version | None:
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in match.groups() if part is not None) if match else None
