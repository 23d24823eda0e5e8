"""What must be true of a host before anything on it is changed.

``problems`` compares the ``HostFacts`` of ``redoubt.facts.host`` with the settings. Pure.
"""

import ipaddress
import re
from collections.abc import Callable, Collection
from typing import Literal

from redisctl import paths
from redoubt import versions
from redoubt.docker import SUPPORTED, docker_source
from redoubt.facts.host import Build, HostFacts, Listener, Version
from redoubt.instance_conflicts import overlap
from redoubt.settings.model import Settings
from redoubt.settings.sections.instance import DEFAULT_IMAGES, DataLoss
from redoubt.settings.types import TITLES, Engine
from redoubt.sizes import MIB, format_size
from redoubt.versions import Verdict

# The oldest engine with start_interval, by which a deploy knows within a second that Redis is healthy
# (Engine API 1.44), and the oldest Compose that passes it on with deploy limits as run here.
MIN_DOCKER: Version = (25, 0)
MIN_COMPOSE: Version = (2, 24)


# Systems whose packages a deploy knows.
INSTALLABLE = ("debian", "ubuntu")

# Data, one AOF rewrite and one RDB snapshot beside it, each up to the size of maxmemory.
DISK_FACTOR = 3

# The newest format of snapshots that Redis and Valkey have in common, that of Redis 7.2.
LAST_COMMON_FORMAT = 11


def problems(settings: Settings, facts: HostFacts, invalid: Collection[str] = ()) -> list[str]:
    """Everything about the host that stands against a deploy, in words; empty when nothing does.

    ``invalid`` names settings that are known to be bad by themselves: what depends on them is left out.
    """
    if facts.uid != 0:
        return [
            f"the deploy runs as uid {facts.uid} on the host and needs root: "
            "set _sudo = True in the inventory or use --sudo"
        ]
    checks: tuple[tuple[tuple[str, ...], Callable[[Settings, HostFacts], list[str]]], ...] = (
        (("redis_allow_unsupported_system",), _system),
        (("redis_docker_source",), _docker),
        (("redis_host_tuning",), _kernel),
        (("redis_maxmemory", "redis_container_memory"), _memory),
        (("redis_maxmemory", "redis_root", "redis_name"), _disk),
        (("redis_bind",), _addresses),
        (("redis_port", "redis_tls_port", "redis_tls", "redis_bind"), _ports),
        (("redis_name",), _name),
        (("redis_name", "redis_root"), _root),
        (("redis_appendonly",), _data),
        (("redis_allow_data_loss", "redis_maxmemory", "redis_maxmemory_policy", "redis_appendonly"), _check_data_loss),
        (("redis_engine", "redis_name", "redis_root"), _format),
        (("redis_backup_schedule",), _schedule),
    )
    return [problem for reads, check in checks if not set(reads) & set(invalid) for problem in check(settings, facts)]


def check_version(settings: Settings, build: Build) -> Verdict:
    """What stands against the server in the image, or is to be said of it. A setting allows what is vulnerable."""
    image = f"redis_image = {settings.redis_image!r}"
    if build.engine != settings.redis_engine:
        return Verdict(other_engine(settings, build.engine))
    verdict = versions.judge(build)
    if verdict.problem and settings.redis_allow_vulnerable_version:
        return Verdict(
            warning=f"{image}: {verdict.problem}. Deployed all the same, as redis_allow_vulnerable_version = True says"
        )
    if verdict.problem:
        return Verdict(f"{image}: {verdict.problem}. redis_allow_vulnerable_version = True deploys it all the same")
    return Verdict(warning=f"{image}: {verdict.warning}") if verdict.warning else verdict


def other_engine(settings: Settings, engine: Engine) -> str:
    """What to say of an image with another engine than the settings name."""
    return (
        f"redis_image = {settings.redis_image!r} holds {TITLES[engine]}, and redis_engine = {settings.redis_engine!r}: "
        f"set redis_engine = {engine!r}, or name another image ({DEFAULT_IMAGES[settings.redis_engine]})"
    )


def _system(settings: Settings, facts: HostFacts) -> list[str]:
    if facts.system_id in SUPPORTED or settings.redis_allow_unsupported_system:
        return []
    names = ", ".join(f"{name.capitalize()} {version}" for name, version in SUPPORTED)
    return [
        f"{facts.system} is not supported (supported: {names}). "
        "redis_allow_unsupported_system = True deploys to it at your own risk"
    ]


def _docker(settings: Settings, facts: HostFacts) -> list[str]:
    source = docker_source(settings, facts)
    if facts.docker is None:
        return _installation(source, facts)
    if facts.docker < MIN_DOCKER or (facts.compose and facts.compose < MIN_COMPOSE):
        compose = f" with Compose {_dotted(facts.compose)}" if facts.compose else ""
        return [
            f"Docker {_dotted(facts.docker)}{compose} is too old: {_dotted(MIN_DOCKER)} and {_dotted(MIN_COMPOSE)} "
            "are needed. Upgrade them on the host, or remove them and a deploy installs newer ones"
        ]
    if facts.compose is None and source == "present":
        where = {
            "docker-ce": "docker-compose-plugin from Docker's repository",
            "docker.io": "docker-compose (Debian 13) or docker-compose-v2 (Ubuntu)",
        }.get(facts.docker_package, "Compose v2 from where the engine came from")
        return [f"Docker {_dotted(facts.docker)} has no Compose v2: install {where}"]
    return []


def _installation(source: str, facts: HostFacts) -> list[str]:
    if source == "none":
        return ["there is no container engine, and redis_docker_source = 'none' forbids to install one"]
    if facts.system_id[0] not in INSTALLABLE:
        return [f"there is no container engine, and a deploy cannot install one on {facts.system}: do it first"]
    if source == "distribution" and not SUPPORTED.get(facts.system_id, True):
        return [
            f"{facts.system} has no package of Compose v2: redis_docker_source = 'distribution' cannot work there; "
            "use 'docker'"
        ]
    return []


def _kernel(settings: Settings, facts: HostFacts) -> list[str]:
    if not settings.redis_host_tuning or not facts.container:
        return []
    return [
        f"this host is a container ({facts.container}) and its kernel is not its own: set redis_host_tuning = False, "
        "and tune the machine below it as docs/operations.md says"
    ]


def _memory(settings: Settings, facts: HostFacts) -> list[str]:
    if settings.memory_limit <= facts.memory:
        return []
    return [
        f"the container may use {format_size(settings.memory_limit)} (redis_maxmemory = "
        f"{format_size(settings.redis_maxmemory)}), but the host has {facts.memory // MIB} MiB "
        "of RAM: lower redis_maxmemory"
    ]


def _disk(settings: Settings, facts: HostFacts) -> list[str]:
    need = DISK_FACTOR * settings.redis_maxmemory
    room = facts.disk_free + facts.instance.stored.size
    if room >= need:
        return []
    return [
        f"{settings.root} has room for {room // MIB} MiB, and {need // MIB} MiB are needed: data, an AOF rewrite and a "
        f"snapshot beside it ({DISK_FACTOR} x redis_maxmemory). Free some, set redis_root "
        "to a bigger disk, or lower redis_maxmemory"
    ]


def check_secret_store(path: object, stored: int, root: str, facts: HostFacts) -> list[str]:
    """Whether the passwords on this machine are older than the host's. ``stored`` is their generation, 0 for none."""
    if stored >= facts.instance.generation:
        return []
    why = "is older than the passwords on the host: they were changed from another machine" if stored else "is missing"
    return [
        f"{path} {why}, and a deploy would shut out every client. Copy it from the machine that deployed last. If "
        f"it is lost, remove {root}/secrets/server/generation on the host: a deploy then makes what is missing anew"
    ]


def check_repository_password(path: object, stored: str, settings: Settings, facts: HostFacts) -> list[str]:
    """What to say where a deploy would put another password in place of the one that opens the copies of backups."""
    if stored or not settings.redis_backup_restic_repository or not facts.instance.repository_password:
        return []
    there = f"{settings.root}/secrets/repository/password"
    return [
        f"{path} has no password of the repository of backups, and {there} on the host is one: a deploy would replace "
        "it by another, which opens nothing there. Add it to that document as the line 'repository: <password>', or, "
        "where nothing in the repository is of worth, move the file away"
    ]


def check_ca(why: str, root: str, facts: HostFacts) -> list[str]:
    """What to say where the host has a certificate of a CA that this machine does not know; ``why`` says so."""
    if not why or facts.instance.certificate_source != "ca":
        return []
    return [
        f"{why}, and a deploy might give Redis a certificate of another CA, which no client trusts. Copy "
        "certificate and CA from the machine that deployed last. If they are lost, remove "
        f"{root}/config/tls.conf on the host: a deploy then makes what is missing, and where that is the CA, every "
        "client needs the new ca.crt"
    ]


def _addresses(settings: Settings, facts: HostFacts) -> list[str]:
    strange = [address for address in settings.redis_bind if not _is_local_address(address, facts.addresses)]
    own = ", ".join(sorted(facts.addresses))
    return [f"redis_bind: {address} is no address of this host; it has {own}" for address in strange]


def _root(settings: Settings, facts: HostFacts) -> list[str]:
    current = facts.instance.data_dir
    if facts.instance.foreign_container or current in ("", f"{settings.root}/{paths.LIVE}"):
        return []
    old = current.removesuffix(f"/{paths.LIVE}")
    return [
        f"redis_root = {settings.root!r}, but {settings.redis_name} has its data in {old} and would start empty: "
        f"run 'docker compose down' in {old} and move the directory, or give the new instance another redis_name"
    ]


def persistence_switch(settings: Settings, facts: HostFacts) -> Literal["", "aof", "rdb"]:
    """What the running Redis must write before another configuration replaces it, lest that one starts without data.

    With the AOF on, Redis reads nothing else, however old or empty; with it off, it reads the snapshot, which a
    stop writes only where there are save points.
    """
    now = facts.persistence
    if now.appendonly is None:
        return ""
    if settings.redis_appendonly:
        return "aof" if now.appendonly == "no" else ""
    return "rdb" if now.appendonly == "yes" or now.save == "" else ""


def _data(settings: Settings, facts: HostFacts) -> list[str]:
    """Whether a Redis that is down, or knows other passwords, would start with its data: it cannot be asked to."""
    now = facts.persistence
    if now.appendonly is not None:
        return []
    if settings.redis_appendonly and now.rdb and (not now.aof or now.configured == "no"):
        return [
            f"{settings.redis_name} cannot be asked, and with redis_appendonly = True it would start without the data "
            f"in {settings.root}/data/dump.rdb. Deploy with redis_appendonly = False first, then with True"
        ]
    if not settings.redis_appendonly and now.aof and now.configured == "yes":
        return [
            f"{settings.redis_name} cannot be asked, and with redis_appendonly = False it would start without the data "
            f"in {settings.root}/data/appendonlydir. Deploy with redis_appendonly = True first, then with False"
        ]
    return []


def _check_data_loss(settings: Settings, facts: HostFacts) -> list[str]:
    """Changes that may cost data, but for those that are allowed."""
    found: list[tuple[DataLoss, str]] = []
    now, policy = facts.persistence, settings.redis_maxmemory_policy
    # A Redis that is full holds a little more than its limit: that is no change.
    lowered = now.maxmemory == 0 or (now.maxmemory or 0) > settings.redis_maxmemory
    if now.used_memory is not None and lowered and now.used_memory > settings.redis_maxmemory:
        follows = "refuse every write" if policy == "noeviction" else f"evict keys by {policy} until it does"
        found.append(
            (
                "eviction",
                f"redis_maxmemory = {format_size(settings.redis_maxmemory)}, but {settings.redis_name} holds "
                f"{now.used_memory / MIB:.1f} MiB: it would {follows}",
            )
        )
    before = facts.instance.deployed_settings.get("redis_maxmemory_policy", policy)
    if _evicts(policy) > _evicts(before):
        which = "any key, queues and jobs as well" if _evicts(policy) == 2 else "keys with a TTL"
        found.append(
            (
                "policy",
                f"redis_maxmemory_policy = {policy!r} evicts {which}; {settings.redis_name} runs with {before!r}",
            )
        )
    if facts.instance.deployed_settings.get("redis_appendonly") and not settings.redis_appendonly:
        found.append(
            (
                "persistence",
                f"redis_appendonly = False: {settings.redis_name} would keep what it last wrote as a snapshot "
                f"(redis_save = {settings.redis_save!r}), and a crash loses what came after",
            )
        )
    return [
        f"{why}. If it is to be so: --data redis_allow_data_loss={loss}"
        for loss, why in found
        if loss not in settings.redis_allow_data_loss
    ]


def _evicts(policy: str) -> int:
    """How much a policy may take: nothing, what has a TTL, or everything."""
    return {"noeviction": 0, "volatile": 1, "allkeys": 2}[policy.partition("-")[0]]


def _format(settings: Settings, facts: HostFacts) -> list[str]:
    """Whether the other engine wrote the data, in a format that this one does not read: it would not start.

    Valkey began as Redis 7.2, whose format is 11, and calls 12 to 79 foreign; from 9.0 on it writes its own, which no
    Redis reads (src/rdb.h of both).
    """
    for found in sorted(facts.persistence.formats):
        number = int(re.sub(r"\D", "", found) or 0)
        if settings.redis_engine == "valkey" and found.startswith("REDIS") and number > LAST_COMMON_FORMAT:
            wrote = "Redis 7.4 or newer"
        elif settings.redis_engine == "redis" and found.startswith("VALKEY"):
            wrote = "Valkey 9.0 or newer"
        else:
            continue
        return [
            f"redis_engine = {settings.redis_engine!r}, but the data in {settings.root}/data was written by {wrote} "
            f"({found}), and {TITLES[settings.redis_engine]} does not read it: deploy a new instance beside it "
            "(redis_name, redis_port) and let the applications fill that one, or move the data away"
        ]
    return []


def _schedule(settings: Settings, facts: HostFacts) -> list[str]:
    if not facts.schedule_refused:
        return []
    return [
        f"redis_backup_schedule = {settings.redis_backup_schedule!r}: this host's systemd says: "
        f"{facts.schedule_refused} (systemd-analyze calendar tries one)"
    ]


def _is_local_address(address: str, addresses: frozenset[str]) -> bool:
    parsed = ipaddress.ip_address(address)
    # All of 127.0.0.0/8 is the host, whatever it lists; :: needs some IPv6.
    if parsed.version == 4 and (parsed.is_loopback or parsed.is_unspecified):
        return True
    if parsed.is_unspecified:
        return not addresses or any(":" in own for own in addresses)
    return not addresses or address in addresses


def _ports(settings: Settings, facts: HostFacts) -> list[str]:
    taken = [
        f"{address}:{port.published} is in use by {other.process or 'another process'}: "
        f"stop that, or choose another {'redis_tls_port' if index else 'redis_port'} or "
        f"redis_bind{_leaked_port_hint(other)}"
        for index, port in enumerate(settings.ports)
        for address in settings.redis_bind
        for other in facts.listeners
        if other.port == port.published
        and (other.address, other.port) not in facts.published
        and overlap(address, other.address)
    ]
    # One process may listen on 0.0.0.0 and on [::] and is named once.
    return list(dict.fromkeys(taken))


def _leaked_port_hint(other: Listener) -> str:
    if not other.process.startswith("docker-proxy "):
        return ""
    # https://github.com/moby/moby/issues/20486
    return (
        "; where docker ps shows no container with it, the engine holds it for one that is gone, as it may after a "
        "power cut: systemctl restart docker on the host, which stops and starts all containers"
    )


def _name(settings: Settings, facts: HostFacts) -> list[str]:
    if not facts.instance.foreign_container:
        return []
    return [
        f"there is a container {settings.redis_name} that Redoubt did not make: remove or rename it, "
        "or choose another redis_name"
    ]


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
