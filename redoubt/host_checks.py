"""Checks of a host before a deploy changes anything.

They are pure comparisons of the host's facts with the settings.
"""

import ipaddress
from collections.abc import Callable, Collection
from pathlib import PurePosixPath

from redisctl import paths
from redisctl.core import mounts
from redoubt import versions
from redoubt.data_checks import check_data_loss, check_databases, check_format, check_missing_data, check_persistence
from redoubt.docker import SUPPORTED, docker_source
from redoubt.facts.host import Build, HostFacts, Listener, Version
from redoubt.instance_conflicts import overlap
from redoubt.settings.model import Settings
from redoubt.settings.sections.instance import DEFAULT_IMAGES
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

# Directories of the system whose owner and mode a deploy would change. Directories in them may be a root.
_SYSTEM_DIRECTORIES = frozenset(
    map(
        PurePosixPath,
        (
            *("/", "/home", "/lost+found", "/media", "/mnt", "/opt", "/root", "/srv", "/usr/local", "/var"),
            *("/var/backups", "/var/cache", "/var/crash", "/var/games", "/var/lib", "/var/local", "/var/lock"),
            *("/var/log", "/var/mail", "/var/metrics", "/var/opt", "/var/snap", "/var/spool", "/var/www"),
        ),
    )
)
# Directories of the system in which nothing may be a root. /usr/local has room for one next to the names of /usr.
_SYSTEM_TREES = ("/bin", "/boot", "/efi", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr")
_USR_NAMES = frozenset({"bin", "etc", "games", "include", "lib", "libexec", "man", "sbin", "share", "src"})
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
        (("redis_edge_subnet", "redis_name"), _edge_subnet),
        (("redis_name",), _name),
        (("redis_uid",), _owner),
        (("redis_name", "redis_root"), _root),
        (("redis_name", "redis_root"), check_root_owner),
        (("redis_name", "redis_root"), _disks),
        (("redis_name", "redis_root", "redis_allow_data_loss"), check_missing_data),
        (("redis_appendonly",), check_persistence),
        (("redis_databases",), check_databases),
        (("redis_allow_data_loss", "redis_maxmemory", "redis_maxmemory_policy", "redis_appendonly"), check_data_loss),
        (("redis_engine", "redis_name", "redis_root"), check_format),
        (("redis_backup_schedule",), _schedule),
    )
    return [problem for reads, check in checks if not set(reads) & set(invalid) for problem in check(settings, facts)]


def warnings(settings: Settings, facts: HostFacts) -> list[str]:
    """Return what a person should repair on this host, because a deploy does not."""
    if facts.instance.translated:
        return []
    return [
        f"Docker's rules for the port of {settings.redis_name} are missing, as after 'nft flush ruleset': other hosts "
        "may not reach it, other clients go through docker-proxy, and a restart of Redis would fail. systemctl restart "
        "docker creates the rules, and stops and starts all containers"
    ]


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


def _owner(settings: Settings, facts: HostFacts) -> list[str]:
    """Return the blocker of a number that Redis cannot have.

    An account of the host has it. A group may have the number of Redis's group, which has no rights.
    """
    if not facts.owner_account:
        return []
    return [
        f"redis_uid = {settings.redis_uid} is the account {facts.owner_account} of the host, which could read and "
        f"change the data and the secrets: set redis_uid and redis_gid to a free number, such as {facts.free_id}"
    ]


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


def _edge_subnet(settings: Settings, facts: HostFacts) -> list[str]:
    subnet = settings.edge_subnet
    used = [
        f"{route.network} on {route.device or 'no interface'}"
        for route in facts.routes
        # A VPN that takes all traffic has routes to both halves of the Internet instead of a default route.
        if route.network.prefixlen > 1 and route.network.overlaps(subnet) and route.device != settings.edge_bridge
    ]
    if not used:
        return []
    return [
        f"redis_edge_subnet = '{subnet}' overlaps routes of this host ({', '.join(dict.fromkeys(used))}): set it to an "
        "IPv4 network that nothing uses, for example 198.18.7.16/28"
    ]


def _root(settings: Settings, facts: HostFacts) -> list[str]:
    root = PurePosixPath(settings.root)
    if is_system_directory(settings, facts):
        return [
            f"redis_root = {settings.root!r} is a directory of the system, whose owner and mode a deploy would change: "
            f"use a directory such as /srv/{settings.redis_name}"
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


def is_system_directory(settings: Settings, facts: HostFacts) -> bool:
    """Say whether the root is a directory of the system, or leads to one by a link."""
    return any(_is_system_directory(PurePosixPath(path)) for path in (settings.root, facts.root_resolved) if path)


def _is_system_directory(path: PurePosixPath) -> bool:
    if path.is_relative_to("/usr/local"):
        return path in _SYSTEM_DIRECTORIES or path.parts[3] in _USR_NAMES
    return path in _SYSTEM_DIRECTORIES or any(map(path.is_relative_to, _SYSTEM_TREES))


def check_root_owner(settings: Settings, facts: HostFacts) -> list[str]:
    """Return blockers if files of others would be replaced or removed.

    They are in a root that does not belong to the instance, or have names of the instance's files elsewhere.
    """
    root, name = settings.root, settings.redis_name
    if facts.root_owner == name:
        return []
    if facts.root_owner:
        return [f"redis_root = {root!r} belongs to the instance {facts.root_owner}: set another redis_root"]
    runs_there = facts.instance.data_dir == f"{root}/{paths.LIVE}" and not facts.instance.foreign_container
    if runs_there:
        return []
    blockers = [
        f"{path} exists, and no deploy of {name} has written it: a deploy would overwrite it, and a removal would "
        "delete it. Set another redis_name"
        for path in facts.foreign_files
    ]
    if is_system_directory(settings, facts):
        return blockers
    if not facts.root_entries:
        return [*blockers, *_check_access(settings, facts)]
    return [
        *blockers,
        f"redis_root = {root!r} is not empty, and no deploy of {name} has created it: it contains "
        f"{', '.join(facts.root_entries)}. A deploy would change the owners of these files, and a removal would delete "
        f"some of them. Set another redis_root. If this is the data of {name}, as after a move from another host, run "
        f"'echo {name} >{root}/{paths.MARKER}' on the host and deploy again",
    ]


def _check_access(settings: Settings, facts: HostFacts) -> list[str]:
    """Return the blocker of an empty root that others than root use.

    Something made it for them, such as a package.
    """
    if not facts.root_access:
        return []
    owner, mode = facts.root_access.split(" ")
    if owner == "0:0" and int(mode, 8) & ~0o755 == 0:
        return []
    return [
        f"redis_root = {settings.root!r} is empty, but it belongs to {owner} with mode {mode}, and no deploy of "
        f"{settings.redis_name} has created it: set another redis_root. If nothing else uses it, run 'chown 0:0 "
        f"{settings.root} && chmod 00755 {settings.root}' on the host and deploy again"
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
