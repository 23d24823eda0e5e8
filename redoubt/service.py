"""The Compose service as it should run and as it runs: pure decisions over what ``files/service-state.sh`` prints."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redoubt import redisconf
from redoubt.settings import Settings

_HASH_LABEL = "com.docker.compose.config-hash"
_SERVICE_LABEL = "com.docker.compose.service"


@dataclass(frozen=True)
class Container:
    """A container of the Compose project."""

    service: str
    config_hash: str
    image_id: str
    status: str
    health: str | None
    started: float


@dataclass(frozen=True)
class ServiceState:
    """What runs, what Compose would run, and what Redis answers.

    ``files`` are the modification times (seconds since the epoch) of what the container reads when it starts.
    ``config`` is the answer to CONFIG GET *; empty when Redis did not answer.
    """

    hashes: dict[str, str]
    containers: tuple[Container, ...]
    image_id: str
    files: dict[str, float]
    config: dict[str, str]


def read(lines: Iterable[str]) -> ServiceState:
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
    return ServiceState(
        hashes={name: value for line in sections.get("hashes", []) for name, value in [line.split()]},
        containers=tuple(_container(c) for c in json.loads("".join(sections.get("containers", [])) or "[]")),
        image_id="".join(sections.get("image", [])),
        files={name: float(mtime) for mtime, name in times},
        config=dict(zip(pairs[::2], pairs[1::2], strict=False)),
    )


@dataclass(frozen=True)
class Drift:
    """Why a service must be brought up, and whether its container has to be replaced to mend it."""

    reasons: tuple[str, ...]
    recreate: bool

    def __bool__(self) -> bool:
        return bool(self.reasons)


def drift(settings: Settings, state: ServiceState) -> Drift:
    """What differs between the running service and the settings.

    Compose itself replaces a container whose definition changed. It does not look into mounted files or into
    Redis: a file newer than the container, or a running value that is not the file's, needs a new container.
    """
    reasons = []
    recreate = False
    by_service = {container.service: container for container in state.containers}
    if not state.hashes:
        reasons.append("Compose does not accept compose.yml, or there is none yet")
    for service, wanted in state.hashes.items():
        container = by_service.get(service)
        if container is None:
            reasons.append(f"{service} has no container")
        elif container.config_hash != wanted:
            reasons.append(f"the container of {service} was made from another definition")
        elif container.status != "running":
            reasons.append(f"{service} is {container.status}")
        elif container.health not in (None, "healthy"):
            reasons.append(f"{service} is {container.health}")
    reasons += [f"{service} is no longer wanted" for service in sorted(set(by_service) - set(state.hashes))]

    redis = by_service.get(settings.redis_name)
    if redis is not None and redis.status == "running":
        inside = []
        if state.image_id and redis.image_id != state.image_id:
            inside.append(f"runs another image than {settings.redis_image} is now")
        newer = sorted(name for name, mtime in state.files.items() if mtime > redis.started)
        if newer:
            inside.append(f"started before {', '.join(newer)} changed")
        if state.config:
            inside += [
                f"{name} runs as {running!r}, the settings say {wanted!r}"
                for name, (running, wanted) in redisconf.differences(settings, state.config).items()
            ]
        recreate = bool(inside)
        reasons += [f"{settings.redis_name}: {reason}" for reason in inside]
    return Drift(tuple(reasons), recreate)


def wait_timeout(settings: Settings) -> int:
    """Seconds to wait for health: until the check itself has given up, and a little."""
    check = settings.redis_health_interval + settings.redis_health_timeout
    return settings.redis_health_start_period + settings.redis_health_retries * check + 30


def _container(inspected: dict[str, Any]) -> Container:
    labels = inspected["Config"]["Labels"]
    state = inspected["State"]
    return Container(
        service=labels[_SERVICE_LABEL],
        config_hash=labels[_HASH_LABEL],
        image_id=inspected["Image"],
        status=state["Status"],
        health=state.get("Health", {}).get("Status"),
        started=_seconds(state["StartedAt"]),
    )


def _seconds(timestamp: str) -> float:
    """Docker's RFC 3339 time with nanoseconds, to the microsecond."""
    whole, _, fraction = timestamp.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}+00:00").timestamp()
