"""Checks of a host before a deploy changes anything.

They are pure comparisons of the host's facts with the settings.
"""

import ipaddress
import re
from collections.abc import Callable, Collection
from pathlib import PurePosixPath
from typing import Literal

from redisctl import paths
from redisctl.core import mounts
from redoubt import versions
from redoubt.docker import SUPPORTED, docker_source
from redoubt.facts.host import Build, HostFacts, Listener, Version
from redoubt.instance_conflicts import overlap
from redoubt.settings.model import Settings
from redoubt.settings.sections.instance import DEFAULT_IMAGES, DataLoss
from redoubt.settings.types import TITLES, Engine
from redoubt.sizes import MIB, format_size
from redoubt.versions import Verdict

# Docker has start_interval since API 1.44: with it a deploy sees within a second that Redis is healthy. Compose passes
# it on, together with deploy limits, since 2.24.
MIN_DOCKER: Version = (25, 0)
MIN_COMPOSE: Version = (2, 24)

# Systems whose Docker packages a deploy knows.
INSTALLABLE = ("debian", "ubuntu")

# Data, one AOF rewrite and one RDB snapshot, each up to the size of maxmemory.
DISK_FACTOR = 3

# The newest RDB format that both Redis and Valkey read: that of Redis 7.2.
LAST_COMMON_FORMAT = 11

_SYSTEM_DIRECTORIES = frozenset(
    {
        *("/bin", "/boot", "/etc", "/home", "/lib", "/media", "/mnt", "/opt", "/root", "/sbin", "/srv", "/usr", "/var"),
        *("/usr/bin", "/usr/lib", "/usr/local", "/usr/sbin", "/var/cache", "/var/lib", "/var/log", "/var/spool"),
    }
)
_VOLATILE_DIRECTORIES = ("/dev", "/proc", "/run", "/sys", "/tmp", "/var/run", "/var/tmp")


def problems(settings: Settings, facts: HostFacts, invalid: Collection[str] = ()) -> list[str]:
    """Return all blockers of a deploy to this host.

    ``invalid`` names settings that have an error of their own: the checks that read them are left out.
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
        (("redis_name", "redis_root"), _disks),
        (("redis_name", "redis_root", "redis_allow_data_loss"), _missing_data),
        (("redis_appendonly",), _data),
        (("redis_allow_data_loss", "redis_maxmemory", "redis_maxmemory_policy", "redis_appendonly"), _check_data_loss),
        (("redis_engine", "redis_name", "redis_root"), _format),
        (("redis_backup_schedule",), _schedule),
    )
    return [problem for reads, check in checks if not set(reads) & set(invalid) for problem in check(settings, facts)]


def check_version(settings: Settings, build: Build) -> Verdict:
    """Return the blocker or the warning about the server in the image."""
    image = f"redis_image = {settings.redis_image!r}"
    if build.engine != settings.redis_engine:
        return Verdict(other_engine(settings, build.engine))
    verdict = versions.judge(build)
    if verdict.problem and settings.redis_allow_vulnerable_version:
        return Verdict(
            warning=f"{image}: {verdict.problem}. It is deployed because redis_allow_vulnerable_version = True"
        )
    if verdict.problem:
        return Verdict(f"{image}: {verdict.problem}. redis_allow_vulnerable_version = True deploys it anyway")
    return Verdict(warning=f"{image}: {verdict.warning}") if verdict.warning else verdict


def other_engine(settings: Settings, engine: Engine) -> str:
    """Return the message for an image with another engine than the settings name."""
    return (
        f"redis_image = {settings.redis_image!r} contains {TITLES[engine]}, but redis_engine = "
        f"{settings.redis_engine!r}: set redis_engine = {engine!r}, or use another image such as "
        f"{DEFAULT_IMAGES[settings.redis_engine]}"
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
            "are needed. Upgrade them on the host, or remove them, and the deploy installs newer ones"
        ]
    if facts.compose is None and source == "present":
        package = {
            "docker-ce": "docker-compose-plugin from Docker's repository",
            "docker.io": "docker-compose (Debian 13) or docker-compose-v2 (Ubuntu)",
        }.get(facts.docker_package, "Compose v2 from where Docker came from")
        return [f"Docker {_dotted(facts.docker)} has no Compose v2: install {package}"]
    return []


def _installation(source: str, facts: HostFacts) -> list[str]:
    if source == "none":
        return ["Docker is not installed, and redis_docker_source = 'none' forbids the deploy to install it"]
    if facts.system_id[0] not in INSTALLABLE:
        return [f"Docker is not installed, and a deploy cannot install it on {facts.system}: install it first"]
    if source == "distribution" and not SUPPORTED.get(facts.system_id, True):
        return [
            f"{facts.system} has no package of Compose v2, so redis_docker_source = 'distribution' does not work: "
            "use 'docker'"
        ]
    return []


def _kernel(settings: Settings, facts: HostFacts) -> list[str]:
    if not settings.redis_host_tuning or not facts.container:
        return []
    return [
        f"this host is a container ({facts.container}), which cannot set up the kernel: set redis_host_tuning = False, "
        "and set up the machine that it runs on as docs/operations.md says"
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
    needed = DISK_FACTOR * settings.redis_maxmemory
    available = facts.disk_free + facts.instance.stored.size
    if available >= needed:
        return []
    return [
        f"{settings.root} has room for {available // MIB} MiB, and {needed // MIB} MiB are needed for the data, an AOF "
        f"rewrite and an RDB snapshot ({DISK_FACTOR} x redis_maxmemory): free some space, set redis_root to a bigger "
        "disk, or lower redis_maxmemory"
    ]


def check_secret_store(path: object, stored: int, root: str, facts: HostFacts) -> list[str]:
    """Return a blocker if this machine's passwords are older than the host's.

    ``stored`` is the generation of this machine's, 0 if there are none.
    """
    if stored >= facts.instance.generation:
        return []
    reason = "is older than the passwords on the host, which another machine changed" if stored else "is missing"
    return [
        f"{path} {reason}: a deploy would shut out every client. Copy it from the machine that deployed last. If it is "
        f"lost, remove {root}/{paths.SERVER_SECRETS}/generation on the host, and a deploy creates missing passwords"
    ]


def check_repository_password(path: object, stored: str, settings: Settings, facts: HostFacts) -> list[str]:
    """Return a blocker if a deploy would replace the backup repository's password.

    That happens if the secret store has no password (``stored`` is empty) and the host has one.
    """
    if stored or not settings.redis_backup_restic_repository or not facts.instance.repository_password:
        return []
    present = f"{settings.root}/{paths.REPOSITORY_SECRETS}/password"
    return [
        f"{path} has no password for the backup repository, but {present} on the host has one: a deploy would replace "
        "it with a password that does not open the repository. Add it to the document as the line 'repository: "
        "<password>', or move the file away if the repository's backups are not needed"
    ]


def check_ca(problem: str, root: str, facts: HostFacts) -> list[str]:
    """Return a blocker if this machine lacks the CA of the host's certificate.

    ``problem`` is why a deploy would issue a certificate with another CA; empty if it would not.
    """
    if not problem or facts.instance.certificate_source != "ca":
        return []
    return [
        f"{problem}, and a deploy might give Redis a certificate of another CA, which no client trusts. Copy the "
        "certificate and the CA from the machine that deployed last. If they are lost, remove "
        f"{root}/config/tls.conf on the host: the deploy then creates what is missing. After a new CA, every client "
        "needs the new ca.crt"
    ]


def _addresses(settings: Settings, facts: HostFacts) -> list[str]:
    foreign = [address for address in settings.redis_bind if not _is_local_address(address, facts.addresses)]
    own = ", ".join(sorted(facts.addresses))
    return [f"redis_bind: {address} is not an address of this host, which has {own}" for address in foreign]


def _root(settings: Settings, facts: HostFacts) -> list[str]:
    root = PurePosixPath(settings.root)
    if str(root) in _SYSTEM_DIRECTORIES:
        return [
            f"redis_root = {settings.root!r} is a directory of the system, whose owner and mode a deploy would change: "
            "use a directory in it"
        ]
    if any(root.is_relative_to(directory) for directory in _VOLATILE_DIRECTORIES):
        return [f"redis_root = {settings.root!r} loses its files at a reboot: use a directory such as /srv/redis"]
    current = facts.instance.data_dir
    if facts.instance.foreign_container or current in ("", f"{settings.root}/{paths.LIVE}"):
        return []
    old = current.removesuffix(f"/{paths.LIVE}")
    return [
        f"redis_root = {settings.root!r}, but {settings.redis_name} has its data in {old} and would start empty: "
        f"run 'docker compose down' in {old} and move the directory, or give the new instance another redis_name"
    ]


def _disks(settings: Settings, facts: HostFacts) -> list[str]:
    """Return a blocker for each disk that is unmounted or mounted in a wrong place.

    A wrong place is one where a restore cannot replace the data.
    """
    blockers = [mounts.problem(directory) for directory in facts.instance.unmounted]
    if facts.instance.stored.is_mount_point:
        blockers.append(
            f"{settings.root}/{paths.LIVE} is a mount point, so no restore could replace the data, and Redis would "
            f"start empty without the disk: mount it on {settings.root}/{paths.DATA}, and have the data in live there"
        )
    return blockers


def _missing_data(settings: Settings, facts: HostFacts) -> list[str]:
    """Return a blocker if the instance was deployed here and its data is gone.

    Redis would start empty.
    """
    state, live = facts.instance, f"{settings.root}/{paths.LIVE}"
    was_deployed = state.deployed_settings or facts.has_unit(paths.unit(settings.redis_name, paths.RECOVER_PATH))
    is_elsewhere = state.data_dir not in ("", live)
    if not state.stored.missing or not was_deployed or is_elsewhere or state.unmounted:
        return []
    if state.config:
        return [
            f"{live} is missing, and {settings.redis_name} still runs: its data may be in memory alone, and a restart "
            "would lose it. Put the directory back, or save the data with a client; then run 'docker stop "
            f"{settings.redis_name}' on the host and deploy again"
        ]
    if "empty" in settings.redis_allow_data_loss:
        return []
    return [
        f"{live} is missing, and {settings.redis_name} was deployed on this host: it would start empty. If "
        f"{settings.root} or {settings.root}/{paths.DATA} is a disk of its own, mount it and deploy again. If the data "
        "is lost or was moved away, deploy with --data redis_allow_data_loss=empty and restore a backup "
        "('redisctl restore latest --yes')"
    ]


def persistence_switch(settings: Settings, facts: HostFacts) -> Literal["", "aof", "rdb"]:
    """Return the form in which the running Redis must write its data.

    Redis then starts with that data next time. Empty if Redis need not change anything or does not answer.

    With the AOF on, Redis reads nothing but the AOF, even if it is old or empty. With the AOF off it reads the RDB
    snapshot, which a stop writes only if there are save points.
    """
    present = facts.persistence
    if present.appendonly is None:
        return ""
    if settings.redis_appendonly:
        return "aof" if present.appendonly == "no" else ""
    return "rdb" if present.appendonly == "yes" or present.save == "" else ""


def _data(settings: Settings, facts: HostFacts) -> list[str]:
    """Return a blocker if Redis would start without its data.

    This is about a Redis that does not answer, because it cannot switch its persistence.
    """
    present = facts.persistence
    if present.appendonly is not None:
        return []
    live = f"{settings.root}/{paths.LIVE}"
    if settings.redis_appendonly and present.rdb and (not present.aof or present.configured == "no"):
        return [
            f"{settings.redis_name} does not answer, and with redis_appendonly = True it would start without the data "
            f"in {live}/dump.rdb: deploy with redis_appendonly = False first, then with True"
        ]
    if not settings.redis_appendonly and present.aof and present.configured == "yes":
        return [
            f"{settings.redis_name} does not answer, and with redis_appendonly = False it would start without the data "
            f"in {live}/appendonlydir: deploy with redis_appendonly = True first, then with False"
        ]
    return []


def _check_data_loss(settings: Settings, facts: HostFacts) -> list[str]:
    """Return a blocker for each change that may lose data.

    Changes that the settings allow are left out.
    """
    losses: list[tuple[DataLoss, str]] = []
    present, policy = facts.persistence, settings.redis_maxmemory_policy
    # A full Redis uses a little more than its limit. Only a lower limit evicts.
    is_lowered = present.maxmemory == 0 or (present.maxmemory or 0) > settings.redis_maxmemory
    if present.used_memory is not None and is_lowered and present.used_memory > settings.redis_maxmemory:
        effect = "refuse every write" if policy == "noeviction" else f"evict keys by {policy} until they fit"
        losses.append(
            (
                "eviction",
                f"redis_maxmemory = {format_size(settings.redis_maxmemory)}, but {settings.redis_name} uses "
                f"{present.used_memory / MIB:.1f} MiB: it would {effect}",
            )
        )
    before = facts.instance.deployed_settings.get("redis_maxmemory_policy", policy)
    if _evicts(policy) > _evicts(before):
        which = "any key, also queues and jobs" if _evicts(policy) == 2 else "keys with a TTL"
        losses.append(
            (
                "policy",
                f"redis_maxmemory_policy = {policy!r} evicts {which}; {settings.redis_name} runs with {before!r}",
            )
        )
    if facts.instance.deployed_settings.get("redis_appendonly") and not settings.redis_appendonly:
        losses.append(
            (
                "persistence",
                f"redis_appendonly = False: {settings.redis_name} would only write RDB snapshots (redis_save = "
                f"{settings.redis_save!r}), and a crash loses all changes since the last one",
            )
        )
    return [
        f"{reason}. To allow it: --data redis_allow_data_loss={loss}"
        for loss, reason in losses
        if loss not in settings.redis_allow_data_loss
    ]


def _evicts(policy: str) -> int:
    """Return what a policy may evict.

    0 is nothing, 1 is keys with a TTL, 2 is every key.
    """
    return {"noeviction": 0, "volatile": 1, "allkeys": 2}[policy.partition("-")[0]]


def _format(settings: Settings, facts: HostFacts) -> list[str]:
    """Return a blocker if this engine cannot read the data that the other one wrote.

    Valkey began as Redis 7.2, with format 11, and refuses formats 12 to 79. From 9.0 on it writes formats of its own,
    which no Redis reads (src/rdb.h of both).
    """
    for rdb_format in sorted(facts.persistence.formats):
        number = int(re.sub(r"\D", "", rdb_format) or 0)
        if settings.redis_engine == "valkey" and rdb_format.startswith("REDIS") and number > LAST_COMMON_FORMAT:
            writer = "Redis 7.4 or newer"
        elif settings.redis_engine == "redis" and rdb_format.startswith("VALKEY"):
            writer = "Valkey 9.0 or newer"
        else:
            continue
        return [
            f"redis_engine = {settings.redis_engine!r}, but {writer} wrote the data in {settings.root}/{paths.LIVE} "
            f"({rdb_format}), and {TITLES[settings.redis_engine]} does not read it: deploy a second instance "
            "(redis_name, redis_port) for the applications to fill, or move the data away"
        ]
    return []


def _schedule(settings: Settings, facts: HostFacts) -> list[str]:
    if not facts.schedule_refused:
        return []
    return [
        f"redis_backup_schedule = {settings.redis_backup_schedule!r}: this host's systemd reports: "
        f"{facts.schedule_refused}. Try schedules with 'systemd-analyze calendar'"
    ]


def _is_local_address(address: str, addresses: frozenset[str]) -> bool:
    parsed = ipaddress.ip_address(address)
    # All of 127.0.0.0/8 is the host, even if it is not listed. :: needs an IPv6 address.
    if parsed.version == 4 and (parsed.is_loopback or parsed.is_unspecified):
        return True
    if parsed.is_unspecified:
        return not addresses or any(":" in own for own in addresses)
    return not addresses or address in addresses


def _ports(settings: Settings, facts: HostFacts) -> list[str]:
    blockers = [
        f"{address}:{port.published} is in use by {other.process or 'another process'}: "
        f"stop it, or set another {'redis_tls_port' if index else 'redis_port'} or "
        f"redis_bind{_leaked_port_hint(other)}"
        for index, port in enumerate(settings.ports)
        for address in settings.redis_bind
        for other in facts.listeners
        if other.port == port.published
        and (other.address, other.port) not in facts.published
        and overlap(address, other.address)
    ]
    # A process that listens on 0.0.0.0 and on [::] is reported once.
    return list(dict.fromkeys(blockers))


def _leaked_port_hint(other: Listener) -> str:
    if not other.process.startswith("docker-proxy "):
        return ""
    # https://github.com/moby/moby/issues/20486
    return (
        ". If 'docker ps' shows no container with this port, Docker has not released it, as after a power cut: run "
        "'systemctl restart docker' on the host, which restarts all containers"
    )


def _name(settings: Settings, facts: HostFacts) -> list[str]:
    if not facts.instance.foreign_container:
        return []
    return [
        f"there is a container {settings.redis_name} that Redoubt did not create: remove or rename it, "
        "or set another redis_name"
    ]


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
