"""The Compose service as it should run and as it runs: pure decisions over what ``redisctl state`` reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from redisctl import paths
from redisctl.schema import Container, InstanceState
from redoubt import acl, compose, redis_conf
from redoubt.container_limits import ContainerLimits
from redoubt.settings.model import Settings

# Redis reads the names of commands when it starts, the health check its password every time.
_COMMANDS = "secrets/server/commands.conf"
_ACL_FILE = "config/users.acl"
_CA_FILE = "ca.crt"


@dataclass(frozen=True)
class Drift:
    """Why a project must be brought up, and the services whose containers have to be replaced to mend it.

    ``paused`` are services to be resumed first: Compose refuses to bring them up. ``stale`` says that the health of
    Redis is as old as its last check: the container stays, and may have recovered since. ``data_lost`` says that the
    data is not where it will be looked for after a restart. ``networks`` have to be made anew, which takes all
    containers away from them; ``foreign_containers`` are those on them that Compose does not know and cannot bring
    back.
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
    """What differs between the running project and the settings.

    Compose itself replaces a container whose definition changed. It does not look into mounted files or into
    Redis: a file newer than the container, or a running value that is not the file's, needs a new container.
    """
    by_service = {container.service: container for container in state.containers}
    reasons = _of_the_project(state)
    replace = []
    paused = []
    for service, wanted in state.hashes.items():
        container = by_service.get(service)
        if container is None:
            reasons.append(f"{service} has no container")
            continue
        redefined = _needs_recreate(settings, state, container)
        if redefined:
            reasons.append(f"the container of {service} was made from another definition")
            if service == settings.redis_name and container.config_hash == wanted:
                # By the file that a dry run sees; the new one has another hash.
                replace.append(service)
        elif container.status == "restarting":
            # The engine waits longer each time, up to a minute, and Compose judges it by its last end.
            reasons.append(f"{service} ends whenever the engine starts it")
            replace.append(service)
        elif container.status != "running":
            reasons.append(f"{service} is {container.status}")
        elif container.health not in (None, "healthy"):
            reasons.append(f"{service} is {container.health}")
        if container.status == "paused":
            paused.append(service)
        if container.status in ("running", "paused") and (inside := _reasons_to_recreate(settings, state, container)):
            reasons += [f"{service} {reason}" for reason in inside]
            if service not in replace:
                replace.append(service)
    reasons += [f"{service} is no longer wanted" for service in sorted(set(by_service) - set(state.hashes))]
    networks = _networks_with_egress(settings, state)
    reasons += [f"the network {name} leads out of the host" for name in networks]
    members = {member for name in networks for member in state.networks[name].members}
    guests = sorted(members - {container.name for container in state.containers})
    redis = by_service.get(settings.redis_name)
    # The engine calls a container that ended unhealthy as well: that one starts anew.
    runs = redis is not None and redis.status in ("running", "paused") and redis.service not in replace
    stale = redis is not None and runs and redis.health == "unhealthy"
    lost = paths.LIVE in state.stale_mounts
    return Drift(tuple(reasons), tuple(replace), tuple(paused), stale, lost, tuple(networks), tuple(guests))


def _of_the_project(state: InstanceState) -> list[str]:
    found = []
    if len({container.service for container in state.containers}) < len(state.containers):
        # What a Compose that was killed while it replaced a container leaves; the next one clears it up.
        found.append("a service has more than one container")
    if not state.hashes:
        found.append("Compose does not accept compose.yml, or there is none yet")
    if state.upgrade_saved:
        found.append("the way back of an upgrade is kept, until Redis is healthy")
    if state.interrupted:
        found.append("a start was broken off")
    return found


def _needs_recreate(settings: Settings, state: InstanceState, container: Container) -> bool:
    """Whether a container is not made from the definition that is wanted, and has to be made anew."""
    redefined = container.config_hash != state.hashes.get(container.service)
    if container.service == settings.redis_name:
        # By the file that a dry run sees it is what it was; the one to come says otherwise.
        redefined = redefined or container.definition != compose.config_fingerprint(settings)
    return redefined


@dataclass(frozen=True)
class LiveChange:
    """What is to be changed on the running Redis, in words, and how.

    ``config`` are directives with their values, ``limits`` says that the engine is to set the container's limits, and
    ``raises_limits`` that it does so before Redis is told. ``created_with`` is what the container was made with.
    """

    reasons: tuple[str, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)
    limits: bool = False
    raises_limits: bool = False
    created_with: str = ""

    def __bool__(self) -> bool:
        return bool(self.reasons)


def live_change(settings: Settings, state: InstanceState) -> LiveChange:
    """What of the running Redis differs from the settings and is changed without a restart; connections stay open.

    Nothing where it is about to start anew, or does not answer.
    """
    redis = _redis(settings, state)
    if redis is None or not state.config or will_be_recreated(settings, state):
        return LiveChange()
    name = settings.redis_name
    config, limits = _config_differences(settings, state), _limit_differences(settings, redis, state)
    reasons = [
        f"{name} runs with {directive} = {running!r}, the settings say {wanted!r}"
        for directive, (running, wanted) in config.items()
    ]
    reasons += [f"{name} {why}" for why in limits]
    if redis.created_with != compose.live_settings(settings) and not state.has_override:
        reasons.append(f"{name} keeps its container, which was made with {redis.created_with}")
    memory = redis.limits.get("Memory")
    return LiveChange(
        tuple(reasons),
        {directive: wanted for directive, (_, wanted) in config.items()},
        bool(limits),
        isinstance(memory, int) and 0 < memory < settings.memory_limit,
        redis.created_with,
    )


def _redis(settings: Settings, state: InstanceState) -> Container | None:
    return next((one for one in state.containers if one.service == settings.redis_name), None)


def _config_differences(settings: Settings, state: InstanceState) -> dict[str, tuple[str, str]]:
    """Directives that run otherwise than the settings say; none where Redis does not answer."""
    if not state.config:
        return {}
    found = redis_conf.differences(settings, state.config)
    running = state.config.get("activedefrag", "no")
    if state.activedefrag_value and settings.redis_activedefrag != "no" and running != state.activedefrag_value:
        found["activedefrag"] = (running, state.activedefrag_value)
    if settings.redis_activedefrag == "no" and running != "no":
        found["activedefrag"] = (running, "no")
    return found


def _limit_differences(settings: Settings, container: Container, state: InstanceState) -> list[str]:
    return ContainerLimits.of(settings).differences(container.limits, state.cgroup)


def _networks_with_egress(settings: Settings, state: InstanceState) -> list[str]:
    """Networks that were made with a way out: Compose does not change one that is there."""
    backend, edge = f"{settings.redis_name}_backend", f"{settings.redis_name}_edge"
    return [
        name
        for name, network in state.networks.items()
        if (name == backend and not network.internal) or (name == edge and network.masquerade)
    ]


def _reasons_to_recreate(settings: Settings, state: InstanceState, container: Container) -> list[str]:
    """Why a running container is not what a new one would be, where Compose cannot see it."""
    is_redis = container.service == settings.redis_name
    # Services of the user's read passwords only; Redis reads its configuration and the names of commands. Its users are
    # compared with what runs.
    if is_redis:
        # What runs is compared with redis.conf, and with its users, wherever Redis answers.
        read = {name for name in state.files if name.startswith("config/") or name == _COMMANDS}
        read -= {_ACL_FILE} if state.acl else set()
        read -= {name for name in read if name.endswith(".conf") and name != _COMMANDS} if state.config else set()
    else:
        read = {name for name in state.files if name.startswith("secrets/") and "/server/" not in name}
        read |= {name for name in state.files if name == _CA_FILE}
    found = []
    if newer := sorted(name for name in read if state.files[name] > container.started):
        found.append(f"started before {', '.join(newer)} changed")
    if not is_redis:
        return found
    if state.image_id and container.image_id != state.image_id:
        found.append(f"runs another image than {settings.redis_image} is now")
    if container.name != settings.redis_name:
        found.append(f"is named {container.name}, so that nobody finds it")
    own = {f"{settings.redis_name}_backend", f"{settings.redis_name}_edge"}
    if lost := own - container.networks:
        found.append(f"is cut off from {', '.join(sorted(lost))}")
    if foreign := container.networks - own:
        found.append(f"is on {', '.join(sorted(foreign))} as well")
    found += [f"does not see {settings.root}/{name} any more" for name in state.stale_mounts]
    if not _needs_recreate(settings, state, container):
        # A container of another definition has other queues by right.
        found += _short_backlogs(settings, state)
        grace, wanted = container.stop_grace, settings.stop_grace_period
        # Its stop writes all data, and what is not written when the engine kills it is lost.
        if not settings.redis_appendonly and grace is not None and grace < wanted:
            found.append(f"has {grace} s to stop, the settings say {wanted}")
    if container.status == "paused":
        # It cannot be changed live, and is resumed by its start.
        found += _limit_differences(settings, container, state)
    found += [
        f"runs with {name} = {running!r}, the settings say {wanted!r}"
        for name, (running, wanted) in _config_differences(settings, state).items()
        if not redis_conf.is_live(name)
    ]
    # Without the administrator's nobody can give it others.
    return found + (["refuses the password of admin"] if not state.acl and "admin" in state.passwords else [])


def users_drift(settings: Settings, state: InstanceState) -> tuple[str, ...]:
    """Why the running Redis must be given its users anew. Nothing where it does not answer: a start reads the file."""
    if not state.acl:
        return ()
    others = (f"has other passwords of {user}" for user in state.passwords)
    return tuple(f"{settings.redis_name} {why}" for why in (*acl.differences(settings, state.acl), *others))


def certificate_drift(
    settings: Settings, digest: str, state: InstanceState, *, written: bool = False
) -> tuple[str, ...]:
    """Why the running Redis must be told of its certificate anew: its files were ``written``, or it has others.

    Nothing where it speaks no TLS yet, or is down.
    """
    if state.config.get("tls-port", "0") == "0":
        return ()
    wanted = redis_conf.certificate(settings, digest)
    differing = tuple(
        f"{settings.redis_name} runs with {name} = {state.config.get(name)!r}, should be {value!r}"
        for name, value in wanted.items()
        if state.config.get(name) != value
    )
    return differing or ((f"{settings.redis_name}'s certificate was written anew",) if written else ())


def is_unresponsive(settings: Settings, state: InstanceState) -> bool:
    """Whether a Redis that the engine calls healthy, made from these files, did not answer: nobody knows what runs."""
    redis = _redis(settings, state)
    if redis is None or (redis.name, redis.status, redis.health) != (settings.redis_name, "running", "healthy"):
        return False
    return not state.acl and not state.passwords and not _needs_recreate(settings, state, redis)


def will_restart(settings: Settings, state: InstanceState) -> bool:
    """Whether a Redis that runs is about to be replaced, so that its clients lose their connections."""
    redis = _redis(settings, state)
    return redis is not None and redis.status == "running" and will_be_recreated(settings, state)


def will_be_recreated(settings: Settings, state: InstanceState) -> bool:
    """Whether the next start of the project replaces the container of Redis, or makes the first one."""
    redis = _redis(settings, state)
    if redis is None or redis.status != "running":
        return True
    found = drift(settings, state)
    return _needs_recreate(settings, state, redis) or redis.service in found.replace or bool(found.networks)


def _short_backlogs(settings: Settings, state: InstanceState) -> list[str]:
    """The published addresses that hold fewer waiting connections than Redis, where the kernel gives more by now.

    The engine's listener asks for all that the kernel gives, once: when the container starts.
    """
    wanted = min(settings.redis_tcp_backlog, state.somaxconn)
    addresses = [f"[{address}]" if ":" in address else address for address in settings.redis_bind]
    listeners = (f"{address}:{port.published}" for port in settings.ports for address in addresses)
    return [
        f"lets {state.backlogs[one]} connections wait at {one}, the settings say {settings.redis_tcp_backlog}"
        for one in listeners
        if state.backlogs.get(one, wanted) < wanted
    ]
