"""Compares the running Compose service with the settings.

Pure decisions over what ``redisctl state`` reports.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from redisctl import paths
from redisctl.schema import Container, InstanceState
from redoubt import acl, compose, redis_conf
from redoubt.container_limits import ContainerLimits
from redoubt.settings.model import Settings

# Redis reads the command names only when it starts. The health check reads its password each time.
_COMMANDS = f"{paths.SERVER_SECRETS}/commands.conf"
_ACL_FILE = f"{paths.CONFIG}/users.acl"
_CA_FILE = "ca.crt"


@dataclass(frozen=True)
class Drift:
    """Why the project must be brought up, and what must be recreated.

    ``replace`` are services whose containers must be recreated. ``paused`` are services to unpause first, because
    Compose refuses to bring them up. ``stale`` says that Redis is unhealthy but its container stays: it may have
    recovered since the last check. ``data_lost`` says that a restart would lose the data, because the live directory
    was replaced. ``networks`` must be recreated, which takes all containers off them; ``foreign_containers`` on them
    are unknown to Compose, which cannot bring them back.
    """

    reasons: tuple[str, ...]
    replace: tuple[str, ...]
    paused: tuple[str, ...] = ()
    stale: bool = False
    data_lost: bool = False
    networks: tuple[str, ...] = ()
    foreign_containers: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.reasons)


def drift(settings: Settings, state: InstanceState) -> Drift:
    """Return how the running project differs from the settings.

    Compose recreates a container whose definition changed. It does not look into mounted files or into Redis: if a file
    is newer than the container, or a value differs from the file, the container must be recreated as well.
    """
    by_service = {container.service: container for container in state.containers}
    reasons, replace = _project_reasons(state), []
    for service in state.hashes:
        service_reasons, must_replace = _service_drift(settings, state, service, by_service.get(service))
        reasons += service_reasons
        replace += [service] if must_replace else []
    paused = [service for service in state.hashes if service in by_service and by_service[service].status == "paused"]
    if state.hashes:
        reasons += [f"{service} is not in the settings" for service in sorted(set(by_service) - set(state.hashes))]
    networks = _differing_networks(settings, state)
    reasons += [f"the network {name} {reason}" for name, reason in networks.items()]
    members = {member for name in networks for member in state.networks[name].members}
    foreign_containers = sorted(members - {container.name for container in state.containers})
    if state.config_saved and not reasons:
        reasons.append("the previous configuration is still saved for a rollback")
    redis = by_service.get(settings.redis_name)
    # Docker also calls a container unhealthy that has exited; that one restarts.
    stays = redis is not None and redis.status in ("running", "paused") and redis.service not in replace
    return Drift(
        reasons=tuple(reasons),
        replace=tuple(replace),
        paused=tuple(paused),
        stale=redis is not None and stays and redis.health == "unhealthy",
        data_lost=paths.LIVE in state.stale_mounts,
        networks=tuple(networks),
        foreign_containers=tuple(foreign_containers),
    )


def blocker(settings: Settings, drift: Drift) -> str:
    """Return why the project must not be restarted; empty if it may."""
    if drift.data_lost:
        return (
            f"{settings.redis_name} runs on a directory that is not {settings.root}/{paths.LIVE} any more: its data "
            "may be in memory alone, and a restart would lose it. Nothing was restarted. Put the directory back, or "
            f"save the data with a client; then run 'docker stop {settings.redis_name}' on the host and deploy again"
        )
    if drift.foreign_containers:
        return (
            f"{' and '.join(drift.networks)} must be recreated, but containers of others are on it: "
            f"{', '.join(drift.foreign_containers)}. Nothing was restarted. Stop them, or disconnect them with 'docker "
            "network disconnect'; then deploy again and start them"
        )
    return ""


def _service_drift(
    settings: Settings, state: InstanceState, service: str, container: Container | None
) -> tuple[list[str], bool]:
    """Return how a service's container differs, and whether it must be replaced.

    ``True`` means that Compose alone would keep the container.
    """
    if container is None:
        return [f"{service} has no container"], False
    reasons, replace = [], False
    if _needs_recreate(settings, state, container):
        reasons.append(f"the container of {service} was created from another definition")
        # In a dry run the Compose file is still the old one; the new one has another hash.
        replace = service == settings.redis_name and container.config_hash == state.hashes[service]
    elif container.status == "restarting":
        # Docker waits longer each time, up to a minute, and Compose judges the container by its last exit.
        reasons.append(f"{service} exits whenever Docker starts it")
        replace = True
    elif container.status != "running":
        reasons.append(f"{service} is {container.status}")
    elif container.health not in (None, "healthy"):
        reasons.append(f"{service} is {container.health}")
    if service == settings.redis_name and state.primary:
        reasons.append(f"{service} is a replica of {state.primary}, and should be a primary")
    inner_reasons = _reasons_to_recreate(settings, state, container)
    if container.status in ("running", "paused") and inner_reasons:
        reasons += [f"{service} {reason}" for reason in inner_reasons]
        replace = True
    return reasons, replace


def _project_reasons(state: InstanceState) -> list[str]:
    reasons = []
    if len({container.service for container in state.containers}) < len(state.containers):
        # A Compose that was killed while it replaced a container leaves two. The next run cleans up.
        reasons.append("a service has more than one container")
    if not state.hashes:
        reasons.append("compose.yml is missing, or Compose does not accept it")
    if state.interrupted:
        reasons.append(f"{state.interrupted.operation} was interrupted")
    return reasons


def _needs_recreate(settings: Settings, state: InstanceState, container: Container) -> bool:
    """Say whether a container was created from another definition than desired."""
    is_redefined = container.config_hash != state.hashes.get(container.service)
    if container.service == settings.redis_name:
        # In a dry run the Compose file is still the old one, so its hash says nothing about the settings.
        is_redefined = is_redefined or container.definition != compose.config_fingerprint(settings)
    return is_redefined


@dataclass(frozen=True)
class LiveChange:
    """What to change in the running Redis, and why.

    ``config`` are directives with their values. ``limits`` says that Docker must set the container's limits,
    ``raises_limits`` that it must do so before Redis changes. ``created_with`` is what the container was created with.
    """

    reasons: tuple[str, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)
    limits: bool = False
    raises_limits: bool = False
    created_with: str = ""

    def __bool__(self) -> bool:
        return bool(self.reasons)


def live_change(settings: Settings, state: InstanceState) -> LiveChange:
    """Return what differs in the running Redis and can change without a restart.

    Connections stay open. Nothing if Redis is about to restart or does not answer.
    """
    redis = _redis(settings, state)
    if redis is None or not state.config or will_be_recreated(settings, state):
        return LiveChange()
    name = settings.redis_name
    config, limits = _config_differences(settings, state), _limit_differences(settings, redis, state)
    reasons = [
        f"{name} runs with {directive} = {running!r}, the settings say {desired!r}"
        for directive, (running, desired) in config.items()
    ]
    reasons += [f"{name} {difference}" for difference in limits]
    if redis.created_with != compose.live_settings(settings) and not state.has_override:
        reasons.append(f"{name} keeps its container, which was created with other limits")
    memory = redis.limits.get("Memory")
    return LiveChange(
        tuple(reasons),
        {directive: desired for directive, (_, desired) in config.items()},
        bool(limits),
        isinstance(memory, int) and 0 < memory < settings.memory_limit,
        redis.created_with,
    )


def _redis(settings: Settings, state: InstanceState) -> Container | None:
    return next((container for container in state.containers if container.service == settings.redis_name), None)


def _config_differences(settings: Settings, state: InstanceState) -> dict[str, tuple[str, str]]:
    """Return directives with their running and their desired value.

    Empty if Redis does not answer.
    """
    if not state.config:
        return {}
    differences = redis_conf.differences(settings, state.config)
    running = state.config.get("activedefrag", "no")
    if state.activedefrag_value and settings.redis_activedefrag != "no" and running != state.activedefrag_value:
        differences["activedefrag"] = (running, state.activedefrag_value)
    if settings.redis_activedefrag == "no" and running != "no":
        differences["activedefrag"] = (running, "no")
    return differences


def _limit_differences(settings: Settings, container: Container, state: InstanceState) -> list[str]:
    return ContainerLimits.of(settings).differences(container.limits, state.cgroup)


def _differing_networks(settings: Settings, state: InstanceState) -> dict[str, str]:
    """Return how networks of the project differ from the settings, by name.

    Compose does not change a network that exists.
    """
    backend, edge = f"{settings.redis_name}_backend", f"{settings.redis_name}_edge"
    bridges = {backend: settings.backend_bridge, edge: settings.edge_bridge}
    reasons = {}
    for name, network in state.networks.items():
        if (name == backend and not network.internal) or (name == edge and network.masquerade):
            reasons[name] = "has a way out of the host"
        elif network.bridge != bridges.get(name, network.bridge):
            reasons[name] = f"has the bridge {network.bridge or 'that Docker named'}, not {bridges[name]}"
        elif name == edge and network.subnet != str(settings.edge_subnet):
            reasons[name] = f"has the addresses {network.subnet}, not {settings.edge_subnet}"
    return reasons


def _reasons_to_recreate(settings: Settings, state: InstanceState, container: Container) -> list[str]:
    """Return how a running container differs from a new one.

    Covers only what Compose does not compare.
    """
    is_redis = container.service == settings.redis_name
    if is_redis:
        # Redis reads its configuration and the command names. If it answers, its values and users are compared instead.
        read = {name for name in state.files if name.startswith(f"{paths.CONFIG}/") or name == _COMMANDS}
        read -= {_ACL_FILE} if state.acl else set()
        read -= {name for name in read if name.endswith(".conf") and name != _COMMANDS} if state.config else set()
    else:
        # An application's service reads passwords and the CA.
        read = {name for name in state.files if name.startswith(f"{paths.SECRETS}/") and "/server/" not in name}
        read |= {name for name in state.files if name == _CA_FILE}
    reasons = []
    if newer := sorted(name for name in read if state.files[name] > container.started):
        reasons.append(f"started before {', '.join(newer)} changed")
    if not is_redis:
        return reasons
    if state.image_id and container.image_id != state.image_id:
        reasons.append(f"runs another image than the present {settings.redis_image}")
    if container.name != settings.redis_name:
        reasons.append(f"has a container with the name {container.name}, where clients do not find it")
    own = {f"{settings.redis_name}_backend", f"{settings.redis_name}_edge"}
    if missing := own - container.networks:
        reasons.append(f"is not connected to {', '.join(sorted(missing))}")
    if foreign := container.networks - own:
        reasons.append(f"is also connected to {', '.join(sorted(foreign))}")
    reasons += [f"no longer sees {settings.root}/{name}, which was replaced" for name in state.stale_mounts]
    if not _needs_recreate(settings, state, container):
        # A container with another definition may have other backlogs and another stop timeout.
        reasons += _short_backlogs(settings, state)
        grace, desired = container.stop_grace, settings.stop_grace_period
        # Without an AOF the stop writes all data, and Docker kills Redis if that takes longer.
        if not settings.redis_appendonly and grace is not None and grace < desired:
            reasons.append(f"has {grace} s to stop, the settings say {desired}")
    if container.status == "paused":
        # A paused container cannot be changed live; its start unpauses it.
        reasons += _limit_differences(settings, container, state)
    reasons += [
        f"runs with {name} = {running!r}, the settings say {desired!r}"
        for name, (running, desired) in _config_differences(settings, state).items()
        if not redis_conf.is_live(name)
    ]
    # Only admin can set passwords.
    return [*reasons, state.refusal] if state.refusal else reasons


def users_drift(settings: Settings, state: InstanceState) -> tuple[str, ...]:
    """Return how the users of the running Redis differ.

    Empty if Redis does not answer, because a start reads the file.
    """
    if not state.acl:
        return ()
    passwords = (f"has other passwords for {user}" for user in state.passwords)
    return tuple(f"{settings.redis_name} {reason}" for reason in (*acl.differences(settings, state.acl), *passwords))


def certificate_drift(
    settings: Settings, digest: str, state: InstanceState, *, written: bool = False
) -> tuple[str, ...]:
    """Return why the running Redis must load its certificate.

    The files were ``written``, or Redis uses other files. Empty if it does not use TLS yet or does not run.
    """
    if state.config.get("tls-port", "0") == "0":
        return ()
    desired = redis_conf.certificate(settings, digest)
    differing = tuple(
        f"{settings.redis_name} runs with {name} = {state.config.get(name)!r}, should be {value!r}"
        for name, value in desired.items()
        if state.config.get(name) != value
    )
    return differing or ((f"the files of {settings.redis_name}'s certificate have changed",) if written else ())


def unanswered(settings: Settings, state: InstanceState) -> str:
    """Return why Redis did not answer although it should.

    It should if it is healthy by its health check and was created from these files.
    """
    redis = _redis(settings, state)
    if redis is None or (redis.name, redis.status, redis.health) != (settings.redis_name, "running", "healthy"):
        return ""
    return "" if _needs_recreate(settings, state, redis) else state.unanswered


def serves(settings: Settings, state: InstanceState) -> bool:
    """Say whether Redis serves clients.

    It does if it answers, or if Docker calls it healthy though it refuses the admin.
    """
    redis = _redis(settings, state)
    # redisctl does not find a container with another name. The deploy replaces it.
    is_healthy = redis is not None and (redis.name, redis.status, redis.health) == (
        settings.redis_name,
        "running",
        "healthy",
    )
    return bool(state.running_version) or is_healthy


def will_restart(settings: Settings, state: InstanceState) -> bool:
    """Say whether the next start replaces a running Redis.

    Its clients then lose their connections. Needs the state after compose.yml was written.
    """
    redis = _redis(settings, state)
    return redis is not None and redis.status == "running" and _is_replaced(settings, state, redis)


def will_be_recreated(settings: Settings, state: InstanceState) -> bool:
    """Say whether the next start replaces or first creates the container of Redis.

    Compose's hash does not count: compose.yml may have been edited by hand, and the deploy writes it before the start.
    """
    redis = _redis(settings, state)
    if redis is None or redis.status != "running":
        return True
    written = dataclasses.replace(state, hashes={**state.hashes, redis.service: redis.config_hash})
    return _is_replaced(settings, written, redis)


def _is_replaced(settings: Settings, state: InstanceState, redis: Container) -> bool:
    difference = drift(settings, state)
    return _needs_recreate(settings, state, redis) or redis.service in difference.replace or bool(difference.networks)


def _short_backlogs(settings: Settings, state: InstanceState) -> list[str]:
    """Return the published addresses with a shorter backlog than Redis has.

    Only if the kernel now allows a longer one. Docker's listener asks for the kernel's maximum once, when the container
    starts.
    """
    desired = min(settings.redis_tcp_backlog, state.somaxconn)
    addresses = [f"[{address}]" if ":" in address else address for address in settings.redis_bind]
    listeners = (f"{address}:{port.published}" for port in settings.ports for address in addresses)
    return [
        f"has a backlog of {state.backlogs[listener]} at {listener}, the settings say {settings.redis_tcp_backlog}"
        for listener in listeners
        if state.backlogs.get(listener, desired) < desired
    ]
