"""The Compose service as it runs, as data."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

_HASH_LABEL = "com.docker.compose.config-hash"
_SERVICE_LABEL = "com.docker.compose.service"
_ONE_OFF_LABEL = "com.docker.compose.oneoff"
_DEFINITION_LABEL = "redoubt.definition"
_LIVE_LABEL = "redoubt.live"

# What docker inspect says in numbers of the limits that can be changed on a running container.
_NUMBERS = ("Memory", "MemoryReservation", "NanoCpus", "CpuShares", "PidsLimit")


@dataclass(frozen=True)
class Container:
    """A container of the Compose project.

    ``limits`` are those that ``docker update`` changes without a trace in the hash, by their names in docker inspect.
    ``definition`` is what Redis's own was made from (``compose.config_fingerprint``) and ``created_with`` what of it
    may have been changed since (``compose.live_settings``); ``stop_grace`` are the seconds that the engine gives it to
    stop.
    """

    name: str
    service: str
    config_hash: str
    image_id: str
    status: str
    health: str | None
    started: float
    networks: frozenset[str]
    limits: dict[str, int | str | None]
    definition: str = ""
    created_with: str = ""
    stop_grace: int | None = None


@dataclass(frozen=True)
class Network:
    """A network of the Compose project: whether it has no way out, or translates addresses on it, and who is there."""

    internal: bool
    translated: bool
    members: frozenset[str]


@dataclass(frozen=True)
class ServiceState:
    """What runs, what Compose would run, and what Redis answers.

    ``files`` are the modification times (seconds since the epoch) of what the container reads when it starts.
    ``config`` is the answer to CONFIG GET *; empty when Redis did not answer. ``acl`` are the lines of ACL LIST
    without the hashes of passwords; empty likewise. ``passwords`` are the users whose passwords are not those of the
    ACL file, ``admin`` when Redis refuses the deploy's own. ``stale_mounts`` are directories below the root that the
    container has as they were before they were removed or replaced. ``kernel`` are the files of Redis's cgroup by their
    names, those of version 1 or 2; empty while Redis does not run. ``queues`` say how many connections may wait where
    the host listens, by ``address:port`` as ss writes it; ``somaxconn`` is the most that the kernel gives by now.
    ``has_override`` says that the hashes are those by which Redis's container is as it was made, changed since or not.
    ``defrag`` is what the file says of active defragmentation, as far as it is known. ``upgrading`` says that the way
    back of an upgrade is still kept, ``starting`` that a start is under way, or was broken off.
    """

    hashes: dict[str, str]
    containers: tuple[Container, ...]
    image_id: str
    files: dict[str, float]
    config: dict[str, str]
    acl: tuple[str, ...] = ()
    passwords: tuple[str, ...] = ()
    stale_mounts: tuple[str, ...] = ()
    networks: dict[str, Network] = field(default_factory=dict)
    kernel: Mapping[str, str] = field(default_factory=dict)
    queues: Mapping[str, int] = field(default_factory=dict)
    somaxconn: int = 0
    has_override: bool = False
    defrag: str = ""
    upgrading: bool = False
    starting: bool = False


def parse_service_state(lines: Iterable[str]) -> ServiceState:
    """The state in the script's output: sections that begin with ``@@name``."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if line.startswith("@@"):
            current = sections.setdefault(line[2:], [])
        else:
            current.append(line)
    times = (line.split(" ", 1) for line in sections.get("files", []))
    answers = sections.get("config", [])
    # redis-cli prints names and values on alternate lines, after the OK of the login.
    pairs = answers[1:] if answers[:1] == ["OK"] else []
    refused = bool(answers) and answers[0].startswith("WRONGPASS")
    containers = json.loads("".join(sections.get("containers", [])) or "[]")
    return ServiceState(
        hashes={name: value for line in sections.get("hashes", []) for name, value in [line.split()]},
        containers=tuple(_container(inspected) for inspected in containers if _is_of_service(inspected)),
        image_id="".join(sections.get("image", [])),
        files={name: float(mtime) for mtime, name in times},
        config=dict(zip(pairs[::2], pairs[1::2], strict=False)),
        acl=tuple(line for line in sections.get("acl", []) if line.startswith("user ")),
        passwords=("admin",) if refused else tuple(sections.get("passwords", [])),
        stale_mounts=tuple(sections.get("detached", [])),
        networks={
            inspected["Name"]: _network(inspected)
            for inspected in json.loads("".join(sections.get("networks", [])) or "[]")
        },
        kernel=dict(line.split(" ", 1) for line in sections.get("kernel", [])),
        queues={fields[3]: int(fields[2]) for fields in map(str.split, sections.get("listeners", []))},
        somaxconn=int("".join(sections.get("somaxconn", [])) or 0),
        has_override=bool(sections.get("overlaid")),
        defrag="".join(sections.get("defrag", [])),
        upgrading=bool(sections.get("upgrade")),
        starting=bool(sections.get("start")),
    )


def _is_of_service(inspected: dict[str, Any]) -> bool:
    """As Compose itself tells: not one of ``docker compose run``, nor one that it did not make."""
    labels = inspected["Config"]["Labels"]
    return _HASH_LABEL in labels and labels.get(_ONE_OFF_LABEL) != "True"


def _container(inspected: dict[str, Any]) -> Container:
    labels = inspected["Config"]["Labels"]
    state = inspected["State"]
    limits = inspected["HostConfig"]
    return Container(
        name=inspected["Name"].removeprefix("/"),
        service=labels.get(_SERVICE_LABEL, ""),
        config_hash=labels[_HASH_LABEL],
        image_id=inspected["Image"],
        status=state["Status"],
        health=state.get("Health", {}).get("Status"),
        started=_seconds(state["StartedAt"]),
        networks=frozenset(inspected["NetworkSettings"]["Networks"]),
        limits={
            **{name: limits.get(name) for name in _NUMBERS},
            "RestartPolicy": limits.get("RestartPolicy", {}).get("Name"),
        },
        definition=labels.get(_DEFINITION_LABEL, ""),
        created_with=labels.get(_LIVE_LABEL, ""),
        stop_grace=inspected["Config"].get("StopTimeout"),
    )


def _network(inspected: dict[str, Any]) -> Network:
    # Docker's own default is to translate.
    option = (inspected["Options"] or {}).get("com.docker.network.bridge.enable_ip_masquerade", "true")
    return Network(
        internal=inspected["Internal"],
        translated=not inspected["Internal"] and option != "false",
        members=frozenset(container["Name"] for container in (inspected["Containers"] or {}).values()),
    )


def _seconds(timestamp: str) -> float:
    """Docker's RFC 3339 time with nanoseconds, to the microsecond."""
    whole, _, fraction = timestamp.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}+00:00").timestamp()
