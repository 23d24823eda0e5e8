"""The documents that redoubt and redisctl exchange as JSON.

Dataclasses in plain Python, because redisctl runs on the host's Python 3.10. Every document has the number of its
schema. A reader ignores keys that it does not know and uses defaults for keys that are missing, so a document of
another release can be read.
"""

import dataclasses
import functools
import json
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

VERSION = 1

# Begins the lines of standard output that report the progress of a deploy's step. The result follows them.
PROGRESS = "progress: "

T = TypeVar("T")


class SchemaError(ValueError):
    """A document does not have the expected form."""


def dump(document: Any) -> str:
    """Return a dataclass as one line of JSON."""
    return json.dumps({"schema": VERSION, **dataclasses.asdict(document)}, default=_to_json)


def _to_json(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else sorted(value)


def load(kind: type[T], text: str) -> T:
    """Read a document of this kind from JSON. Raises SchemaError."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"not valid JSON: {error}") from None
    if isinstance(value, dict) and not isinstance(value.get("schema", VERSION), int):
        raise SchemaError("the schema number is not a number")
    result: T = _convert(kind, value, kind.__name__)
    return result


def from_dict(kind: type[T], value: Mapping[str, Any]) -> T:
    """Read a document of this kind from the values of JSON. Raises SchemaError."""
    result: T = _convert(kind, dict(value), kind.__name__)
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _convert(kind: Any, value: Any, place: str) -> Any:  # noqa: PLR0911, PLR0912 - a case for each kind of type
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(kind, value, place)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return _convert(kind, value, place)
    if origin is tuple and isinstance(value, list):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], item, place) for item in value)
        if len(arguments) == len(value):
            return tuple(_convert(part, item, place) for part, item in zip(arguments, value, strict=True))
    if origin is frozenset and isinstance(value, list):
        return frozenset(_convert(arguments[0], item, place) for item in value)
    if origin in (dict, Mapping):
        if isinstance(value, dict):
            return {key: _convert(arguments[1], item, f"{place}.{key}") for key, item in value.items()}
    elif origin is Literal and value in arguments:
        return value
    elif isinstance(kind, type) and issubclass(kind, Enum):
        return _convert_enum(kind, value, place)
    elif kind is Path and isinstance(value, str):
        return Path(value)
    elif kind is Any:
        return value
    elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if abs(value) <= sys.float_info.max:
            return float(value)
    elif isinstance(kind, type) and type(value) is kind:
        return value
    raise SchemaError(f"{place} has an unexpected value")


def _convert_enum(kind: type[Enum], value: Any, place: str) -> Enum:
    try:
        return kind(value)
    except ValueError:
        raise SchemaError(f"{place} has an unexpected value") from None


def _convert_dataclass(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise SchemaError(f"{place} has an unexpected value")
    hints = _field_types(kind)
    try:
        return kind(
            **{key: _convert(hints[key], item, f"{place}.{key}") for key, item in value.items() if key in hints}
        )
    except TypeError:
        raise SchemaError(f"{place} lacks a value") from None


@functools.cache
def _field_types(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {item.name: hints[item.name] for item in dataclasses.fields(kind)}


# -- redisctl.json: the description of the instance, which a deploy writes


@dataclass(frozen=True)
class BackupConfig:
    """Backups as the settings configure them.

    ``max_age`` is in hours. ``keep`` counts the backups to keep by period (hourly, daily, weekly, monthly).
    ``repository`` is restic's address, empty without one.
    """

    scheduled: bool = False
    verify: bool = True
    max_age: int = 26
    keep: Mapping[str, int] = field(default_factory=lambda: {"hourly": 24, "daily": 7, "weekly": 4, "monthly": 6})
    repository: str = ""


@dataclass(frozen=True)
class Config:
    """The contents of redisctl.json.

    ``root`` is the directory of the instance, ``image`` the reference of its image. ``session_keys`` and ``queue_keys``
    are key patterns, ``settings`` is the digest of the settings. ``stop_grace`` and ``start_timeout`` are seconds: for
    Redis to save and exit, and to become healthy. ``restart`` is the restart policy of the container. Redis runs as
    ``uid`` and ``gid``, and owns its data, logs, secrets and backups. ``log_max_size`` is the size in bytes at which
    redis.log is rotated.
    """

    name: str
    root: Path
    session_keys: str
    queue_keys: str = "rq:*"
    image: str = ""
    settings: str = ""
    stop_grace: int = 120
    start_timeout: int = 120
    restart: str = "always"
    uid: int = 999
    gid: int = 999
    log_max_size: int = 10 * 1024**2
    backup: BackupConfig = field(default_factory=BackupConfig)


# -- redisctl state: the report about an instance


@dataclass(frozen=True)
class StateRequest:
    """What ``redisctl state`` reports on.

    ``mounts`` are directories below the root with their path in the container. ``acl`` is the desired ACL file: its
    password hashes are compared on the host and never leave it. ``sizes`` asks for the size of everything that belongs
    to the instance. ``run`` is the id of the deploy that asks, empty if it does not hold the lock.
    """

    name: str
    root: str
    run: str = ""
    image: str = ""
    mounts: tuple[tuple[str, str], ...] = ()
    acl: str = ""
    sizes: bool = False


@dataclass(frozen=True)
class Container:
    """A container of the instance's Compose project.

    ``limits`` are the limits that ``docker update`` can change, by their names in ``docker inspect``. ``definition``
    and ``created_with`` are labels: the digest of what the container was created from, and the part of it that a
    deploy can change while the container runs. ``started`` is in seconds since the epoch, ``stop_grace`` in seconds.
    """

    name: str
    service: str
    config_hash: str
    image_id: str
    status: str
    health: str | None
    started: float
    networks: frozenset[str]
    limits: dict[str, Any]
    definition: str = ""
    created_with: str = ""
    stop_grace: int | None = None


@dataclass(frozen=True)
class Network:
    """A network of the Compose project.

    ``masquerade`` says whether Docker translates the addresses of containers that connect to the outside. ``bridge`` is
    the interface on the host, empty if Docker chose its name. ``subnet`` is its IPv4 network.
    """

    internal: bool
    masquerade: bool
    members: frozenset[str]
    bridge: str = ""
    subnet: str = ""


@dataclass(frozen=True)
class StoredData:
    """The data files of the instance.

    ``formats`` are RDB formats such as REDIS0012, ``size`` is in bytes. ``missing`` says that there is no directory of
    live data, ``is_mount_point`` that it is a mount point.
    """

    missing: bool = False
    is_mount_point: bool = False
    rdb: bool = False
    aof: bool = False
    formats: tuple[str, ...] = ()
    size: int = 0


@dataclass(frozen=True)
class OtherInstance:
    """Another instance of Redoubt on the host.

    It has its project, data directory, memory limit, published ports, and the IPv4 network of its edge bridge. One
    whose containers are removed has no memory limit and no ports.
    """

    name: str
    data_dir: str
    memory: int
    ports: tuple[tuple[str, int], ...]
    edge_subnet: str = ""


@dataclass(frozen=True)
class UnitState:
    """A systemd unit.

    ``outdated`` says that its file changed since systemd loaded it.
    """

    present: bool
    active: bool
    enabled: bool
    outdated: bool


@dataclass(frozen=True)
class InterruptedTransaction:
    """A transaction whose journal exists while nothing holds the lock."""

    operation: str
    stage: str


@dataclass(frozen=True)
class InstanceState:
    """An instance on its host, deployed or not, running or not.

    ``hashes`` are Compose's hashes of its services, empty where Compose does not accept the file. ``has_override`` says
    that they include what the container was created with. ``files`` are modification times (seconds since the epoch) of
    the files that the container reads at start.

    What the running Redis reports: ``config`` is the answer to CONFIG GET *, ``acl`` the lines of ACL LIST without
    password hashes, both empty where Redis does not answer. ``passwords`` are users whose passwords differ from the
    desired ACL file. ``running_version`` is empty where Redis does not answer. ``used_memory`` counts what Redis
    compares with maxmemory, in bytes. ``used_databases`` is the number of the highest database with keys, plus one.
    ``primary`` is the server that Redis copies, empty if it is a primary.
    ``refusal`` says why Redis does not serve admin with the secrets on the host,
    which a restart with the right files solves. ``unanswered`` says why a Redis that runs did not answer otherwise.

    ``stale_mounts`` are directories below the root that were replaced since the container started. ``cgroup`` are the
    limits that the kernel enforces. ``backlogs`` are the queues of the host's listeners by address:port, ``somaxconn``
    is the kernel's ceiling for them. ``activedefrag`` is the text of config/activedefrag.conf.
    ``configured`` says whether redisctl.json exists, ``configured_appendonly`` is redis.conf's appendonly.
    ``published`` are the instance's ports. ``data_dir`` is what its container has as /data. ``network_filter`` says how
    the host's nftables table differs from its file, ``client_limits`` how that in the container's network namespace
    does, ``translated`` that Docker's rules for the instance's ports exist.
    ``config_saved`` says that a deploy keeps the previous configuration.
    ``unmounted`` are mount points of the instance's directories without a disk. ``owner`` is the uid:gid of the files
    of Redis, empty before the first deploy. ``sizes`` are KiB by path.
    """

    containers: tuple[Container, ...] = ()
    networks: dict[str, Network] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    has_override: bool = False
    image: dict[str, Any] | None = None
    files: dict[str, float] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    acl: tuple[str, ...] = ()
    passwords: tuple[str, ...] = ()
    running_engine: str = ""
    running_version: str = ""
    used_memory: int = 0
    used_databases: int = 0
    primary: str = ""
    refusal: str = ""
    unanswered: str = ""
    stale_mounts: tuple[str, ...] = ()
    cgroup: dict[str, str] = field(default_factory=dict)
    backlogs: dict[str, int] = field(default_factory=dict)
    somaxconn: int = 0
    activedefrag: str = ""
    configured: bool = False
    configured_appendonly: str = ""
    stored: StoredData = field(default_factory=StoredData)
    published: tuple[tuple[str, int], ...] = ()
    # Project and image of a container with the instance's name that another project created.
    foreign_container: str = ""
    data_dir: str = ""
    other_instances: tuple[OtherInstance, ...] = ()
    deployed_settings: dict[str, Any] = field(default_factory=dict)
    generation: int = 0
    certificates: tuple[str, ...] = ()
    certificate_source: str = ""
    repository_password: bool = False
    units: dict[str, UnitState] = field(default_factory=dict)
    network_filter: tuple[str, ...] = ()
    client_limits: tuple[str, ...] = ()
    translated: bool = True
    interrupted: InterruptedTransaction | None = None
    config_saved: bool = False
    unmounted: tuple[str, ...] = ()
    owner: str = ""
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def activedefrag_value(self) -> str:
        """Return whether the configuration defragments memory.

        It is yes, no, or empty where that is unknown.
        """
        words = self.activedefrag.rpartition("\n")[2].split()
        return words[1] if words[:1] == ["activedefrag"] and len(words) == 2 else ""

    @property
    def image_id(self) -> str:
        """The id of the image of the settings; empty where the host does not have it."""
        return str((self.image or {}).get("Id", ""))


# -- Verbs of a deploy. Each reads one of these on standard input and prints a Result.


@dataclass(frozen=True)
class Result:
    """The result of a verb.

    ``messages`` are for the operator; ``error`` is empty unless the verb failed.
    """

    changed: bool = False
    messages: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class StartRequest:
    """Request to bring the Compose project up and wait until Redis is healthy.

    ``recreate`` names services whose containers must be replaced, ``paused`` services to unpause first.
    ``recreate_networks`` takes all containers down first. ``recovery_seconds`` is the time that an unhealthy Redis gets
    to become healthy without a restart. ``timeout`` is in seconds. ``owner`` is uid:gid of the container, ``restart``
    its restart policy, which a stop took away.
    """

    image: str
    owner: str
    timeout: int
    restart: str = ""
    recreate: tuple[str, ...] = ()
    paused: tuple[str, ...] = ()
    recovery_seconds: int = 0
    recreate_networks: bool = False


@dataclass(frozen=True)
class ReplaceRequest:
    """Request to save the running Redis's configuration before a deploy replaces it.

    ``run`` is the id of the deploy.
    """

    run: str


@dataclass(frozen=True)
class LiveConfigRequest:
    """Request to change the running Redis without a restart.

    ``config`` are the arguments of CONFIG SET, one call each. ``limits`` are options of ``docker update``.
    ``raise_limits_first`` sets the limits before Redis, else after it has given memory back. ``memory`` is the memory
    limit in bytes. ``override`` is the Compose file that keeps what the container was created with.
    """

    config: tuple[tuple[str, ...], ...] = ()
    limits: tuple[str, ...] = ()
    raise_limits_first: bool = False
    memory: int = 0
    override: str = ""


@dataclass(frozen=True)
class AclRequest:
    """An ACL file for the running Redis, or for a check in a container.

    The container runs ``image`` as ``owner``.
    """

    acl: str
    image: str = ""
    owner: str = ""


@dataclass(frozen=True)
class CertificateRequest:
    """The directives that name the certificate to load, with their values."""

    directives: dict[str, str]


@dataclass(frozen=True)
class ActivedefragRequest:
    """Request to find out whether the image's Redis can defragment memory.

    ``required`` makes it an error if it cannot.
    """

    image: str
    owner: str
    required: bool = False


@dataclass(frozen=True)
class PersistenceRequest:
    """Request to have the running Redis write its data in the other form.

    ``target`` is aof or rdb, ``timeout`` in seconds.
    """

    target: Literal["aof", "rdb"]
    save: str
    timeout: int


@dataclass(frozen=True)
class OwnerRequest:
    """Request to give Redis and its files another user.

    ``old`` and ``new`` are uid:gid.
    """

    old: str
    new: str


@dataclass(frozen=True)
class UpgradeRequest:
    """Request to back up, and to check that the image reads the data.

    ``verify`` loads the backup with both versions. ``config`` is the redis.conf of the new one.
    """

    image: str
    verify: bool = True
    config: str = ""
