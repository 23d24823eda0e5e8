"""What must be true of a host before anything on it is changed.

``read`` turns the output of ``files/probe.sh`` into ``HostFacts``; ``problems`` compares them with the settings.
Both are pure: the probe is run by ``redoubt.facts.HostProbe``.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from redoubt import neighbours, render, versions
from redoubt.neighbours import Neighbour, overlap
from redoubt.settings import DEFAULT_IMAGES, Loss, Settings
from redoubt.sizes import MIB, format_size
from redoubt.versions import TITLES, Build, Engine, Verdict

Version = tuple[int, ...]

# The oldest engine with start_interval, by which a deploy knows within a second that Redis is healthy
# (Engine API 1.44), and the oldest Compose that passes it on with deploy limits as run here.
MIN_ENGINE: Version = (25, 0)
MIN_COMPOSE: Version = (2, 24)

# id and version of systems that a deploy may change, and whether their archive has an engine and Compose v2
# that are new enough.
SUPPORTED: dict[tuple[str, str], bool] = {
    ("debian", "13"): True,
    ("debian", "12"): False,
    ("ubuntu", "22.04"): True,
    ("ubuntu", "24.04"): True,
}

# Systems whose packages a deploy knows.
INSTALLABLE = ("debian", "ubuntu")

# Data, one AOF rewrite and one RDB snapshot beside it, each up to the size of maxmemory.
DISK_FACTOR = 3

# The newest format of snapshots that Redis and Valkey have in common, that of Redis 7.2.
LAST_COMMON_FORMAT = 11


@dataclass(frozen=True)
class Listener:
    """A TCP socket that listens on the host; ``process`` is empty where the kernel does not tell."""

    address: str
    port: int
    process: str = ""


@dataclass(frozen=True)
class Persistence:
    """What the instance's data is kept in.

    ``appendonly`` and ``save`` are what Redis runs with, None where it does not answer, and ``held`` the bytes that it
    compares with ``maxmemory`` (0: no limit); ``configured`` is the ``appendonly`` of the redis.conf that is there.
    ``dump`` and ``log`` say what is on the disk, ``formats`` by which formats of snapshots, such as REDIS0012.
    """

    appendonly: str | None = None
    save: str | None = None
    configured: str = ""
    dump: bool = False
    log: bool = False
    formats: frozenset[str] = frozenset()
    held: int | None = None
    maxmemory: int | None = None


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
    engine: Version | None
    engine_answers: bool
    engine_at_boot: bool
    # docker.io is the distribution's engine and docker-ce Docker's own, both perhaps installed in part.
    engine_package: str
    compose: Version | None
    selinux: bool
    published: frozenset[tuple[str, int]]
    name_taken: bool
    # What the host is contained in (docker, lxc); empty for a machine, virtual or not.
    container: str
    # Values of the kernel by their paths, see redoubt/tuning.py.
    kernel: dict[str, str]
    # Where the instance's own container has its data; empty when there is none.
    data_at: str
    persistence: "Persistence"
    # The server that answers, by its own word; None where none does. Whether it is of the image in the settings.
    serves: Build | None
    image_runs: bool
    # The settings of the last deploy that came to its end, as JSON holds them; none where there was none.
    deployed: dict[str, Any]
    # What was putting other data in the place of the instance's when it was broken off; empty where nothing was.
    replacing: str
    # Whether a filter before its published port is set up.
    network_filtered: bool
    # Whether there are units that take backups, and why its systemd refuses the calendar for them, in words.
    backup_scheduled: bool
    calendar_refused: str
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


def read(lines: Iterable[str]) -> HostFacts:
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
            published |= neighbours.published(json.loads(value))
        elif key == "format":
            formats.add(value.strip())
        elif key == "instance":
            others.append(neighbours.read(value))
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
            engine=_version(values["engine_answers"]) or _version(values["engine_installed"]),
            engine_answers=bool(values["engine_answers"]),
            # An engine that is no unit of this name is started by something else.
            engine_at_boot=values["engine_enabled"] != "disabled",
            engine_package=values["engine_package"],
            compose=_version(values["compose"]),
            selinux=values["selinux"] in ("Enforcing", "Permissive"),
            published=frozenset(published),
            name_taken=bool(values["name_taken"]),
            container=values["container"].removeprefix("none"),
            kernel=kernel,
            data_at=values["data_at"],
            persistence=Persistence(
                appendonly=values.get("running_appendonly"),
                save=values.get("running_save"),
                configured=values["configured_appendonly"],
                dump="dump.rdb" in values["stored"].split(),
                log=".manifest" in values["stored"],
                formats=frozenset(formats),
                held=int(values["running_used"]) - int(values.get("running_uncounted", 0))
                if "running_used" in values
                else None,
                maxmemory=int(values["running_maxmemory"]) if "running_maxmemory" in values else None,
            ),
            serves=_serves(values),
            image_runs=bool(values["image_runs"]),
            deployed=_deployed(values["deployed"]),
            replacing=values["replacing"],
            network_filtered=bool(values["network_filtered"]),
            backup_scheduled=bool(values["backup_scheduled"]),
            calendar_refused=values["calendar_refused"],
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


def _serves(values: Mapping[str, str]) -> Build | None:
    # Valkey tells a version of Redis, too.
    if "running_valkey" in values:
        return Build("valkey", values["running_valkey"])
    return Build("redis", values["running_redis"]) if "running_redis" in values else None


def _deployed(text: str) -> dict[str, Any]:
    """Settings as the last deploy noted them; what cannot be read is as good as none, and is written anew."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def docker_source(settings: Settings, facts: HostFacts) -> str:
    """Where the engine comes from on this host: ``present``, ``distribution``, ``docker`` or ``none``.

    An engine of the distribution without Compose v2 is completed from the distribution, whether somebody left it
    so or an interrupted deploy. Another one is never added to: the wrong package would replace it.
    """
    has_packages = SUPPORTED.get(facts.system_id, True)
    if facts.engine is not None:
        completed = facts.compose is None and facts.engine_package == "docker.io" and has_packages
        return "distribution" if completed and settings.redis_docker_source != "none" else "present"
    if settings.redis_docker_source != "auto":
        return settings.redis_docker_source
    return "distribution" if has_packages else "docker"


def problems(settings: Settings, facts: HostFacts, wrong: Collection[str] = ()) -> list[str]:
    """Everything about the host that stands against a deploy, in words; empty when nothing does.

    ``wrong`` names settings that are known to be bad by themselves: what depends on them is left out.
    """
    if facts.uid != 0:
        return [
            f"the deploy runs as uid {facts.uid} on the host and needs root: "
            "set _sudo = True in the inventory or use --sudo"
        ]
    checks: tuple[tuple[tuple[str, ...], Callable[[Settings, HostFacts], list[str]]], ...] = (
        (("redis_allow_unsupported_system",), _system),
        (("redis_docker_source",), _engine),
        (("redis_host_tuning",), _kernel),
        (("redis_maxmemory", "redis_container_memory"), _memory),
        (("redis_maxmemory", "redis_root", "redis_name"), _disk),
        (("redis_bind",), _addresses),
        (("redis_port", "redis_tls_port", "redis_tls", "redis_bind"), _ports),
        (("redis_name",), _name),
        (("redis_name", "redis_root"), _root),
        (("redis_name", "redis_root"), _replacing),
        (("redis_appendonly",), _data),
        (("redis_allow_loss", "redis_maxmemory", "redis_maxmemory_policy", "redis_appendonly"), _losses),
        (("redis_engine", "redis_name", "redis_root"), _format),
        (("redis_backup_calendar",), _calendar),
    )
    return [problem for reads, check in checks if not set(reads) & set(wrong) for problem in check(settings, facts)]


def version(settings: Settings, build: Build) -> Verdict:
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


def _engine(settings: Settings, facts: HostFacts) -> list[str]:
    source = docker_source(settings, facts)
    if facts.engine is None:
        return _installation(source, facts)
    if facts.engine < MIN_ENGINE or (facts.compose and facts.compose < MIN_COMPOSE):
        compose = f" with Compose {_dotted(facts.compose)}" if facts.compose else ""
        return [
            f"Docker {_dotted(facts.engine)}{compose} is too old: {_dotted(MIN_ENGINE)} and {_dotted(MIN_COMPOSE)} "
            "are needed. Upgrade them on the host, or remove them and a deploy installs newer ones"
        ]
    if facts.compose is None and source == "present":
        where = {
            "docker-ce": "docker-compose-plugin from Docker's repository",
            "docker.io": "docker-compose (Debian 13) or docker-compose-v2 (Ubuntu)",
        }.get(facts.engine_package, "Compose v2 from where the engine came from")
        return [f"Docker {_dotted(facts.engine)} has no Compose v2: install {where}"]
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
    room = facts.disk_free + facts.disk_used_by_data
    if room >= need:
        return []
    return [
        f"{settings.root} has room for {room // MIB} MiB, and {need // MIB} MiB are needed: data, an AOF rewrite and a "
        f"snapshot beside it ({DISK_FACTOR} x redis_maxmemory). Free some, set redis_root "
        "to a bigger disk, or lower redis_maxmemory"
    ]


def stale_store(path: object, stored: int, root: str, facts: HostFacts) -> list[str]:
    """Whether the passwords on this machine are older than the host's. ``stored`` is their generation, 0 for none."""
    if stored >= facts.generation:
        return []
    why = "is older than the passwords on the host: they were changed from another machine" if stored else "is missing"
    return [
        f"{path} {why}, and a deploy would shut out every client. Copy it from the machine that deployed last. If "
        f"it is lost, remove {root}/secrets/server/generation on the host: a deploy then makes what is missing anew"
    ]


def lost_repository_password(path: object, stored: str, settings: Settings, facts: HostFacts) -> list[str]:
    """What to say where a deploy would put another password in place of the one that opens the copies of backups."""
    if stored or not settings.redis_backup_repository or not facts.repository_password:
        return []
    there = f"{settings.root}/secrets/repository/password"
    return [
        f"{path} has no password of the repository of backups, and {there} on the host is one: a deploy would replace "
        "it by another, which opens nothing there. Add it to that document as the line 'repository: <password>', or, "
        "where nothing in the repository is of worth, move the file away"
    ]


def lost_certificate(why: str, root: str, facts: HostFacts) -> list[str]:
    """What to say where the host has a certificate of a CA that this machine does not know; ``why`` says so."""
    if not why or facts.certificate_source != "ca":
        return []
    return [
        f"{why}, and a deploy might give Redis a certificate of another CA, which no client trusts. Copy "
        "certificate and CA from the machine that deployed last. If they are lost, remove "
        f"{root}/config/tls.conf on the host: a deploy then makes what is missing, and where that is the CA, every "
        "client needs the new ca.crt"
    ]


def _addresses(settings: Settings, facts: HostFacts) -> list[str]:
    strange = [address for address in settings.redis_bind if not _is_own(address, facts.addresses)]
    own = ", ".join(sorted(facts.addresses))
    return [f"redis_bind: {address} is no address of this host; it has {own}" for address in strange]


def _root(settings: Settings, facts: HostFacts) -> list[str]:
    if facts.name_taken or facts.data_at in ("", f"{settings.root}/data"):
        return []
    old = facts.data_at.removesuffix("/data")
    return [
        f"redis_root = {settings.root!r}, but {settings.redis_name} has its data in {old} and would start empty: "
        f"run 'docker compose down' in {old} and move the directory, or give the new instance another redis_name"
    ]


def handover(settings: Settings, facts: HostFacts) -> Literal["", "log", "dump"]:
    """What the running Redis must write before another configuration replaces it, lest that one starts without data.

    With the AOF on, Redis reads nothing else, however old or empty; with it off, it reads the snapshot, which a
    stop writes only where there are save points.
    """
    now = facts.persistence
    if now.appendonly is None:
        return ""
    if settings.redis_appendonly:
        return "log" if now.appendonly == "no" else ""
    return "dump" if now.appendonly == "yes" or now.save == "" else ""


def _data(settings: Settings, facts: HostFacts) -> list[str]:
    """Whether a Redis that is down, or knows other passwords, would start with its data: it cannot be asked to."""
    now = facts.persistence
    if now.appendonly is not None:
        return []
    if settings.redis_appendonly and now.dump and (not now.log or now.configured == "no"):
        return [
            f"{settings.redis_name} cannot be asked, and with redis_appendonly = True it would start without the data "
            f"in {settings.root}/data/dump.rdb. Deploy with redis_appendonly = False first, then with True"
        ]
    if not settings.redis_appendonly and now.log and now.configured == "yes":
        return [
            f"{settings.redis_name} cannot be asked, and with redis_appendonly = False it would start without the data "
            f"in {settings.root}/data/appendonlydir. Deploy with redis_appendonly = True first, then with False"
        ]
    return []


def _losses(settings: Settings, facts: HostFacts) -> list[str]:
    """Changes that may cost data, but for those that are allowed."""
    found: list[tuple[Loss, str]] = []
    now, policy = facts.persistence, settings.redis_maxmemory_policy
    # A Redis that is full holds a little more than its limit: that is no change.
    lowered = now.maxmemory == 0 or (now.maxmemory or 0) > settings.redis_maxmemory
    if now.held is not None and lowered and now.held > settings.redis_maxmemory:
        follows = "refuse every write" if policy == "noeviction" else f"evict keys by {policy} until it does"
        found.append(
            (
                "eviction",
                f"redis_maxmemory = {format_size(settings.redis_maxmemory)}, but {settings.redis_name} holds "
                f"{now.held / MIB:.1f} MiB: it would {follows}",
            )
        )
    before = facts.deployed.get("redis_maxmemory_policy", policy)
    if _evicts(policy) > _evicts(before):
        which = "any key, queues and jobs as well" if _evicts(policy) == 2 else "keys with a TTL"
        found.append(
            (
                "policy",
                f"redis_maxmemory_policy = {policy!r} evicts {which}; {settings.redis_name} runs with {before!r}",
            )
        )
    if facts.deployed.get("redis_appendonly") and not settings.redis_appendonly:
        found.append(
            (
                "persistence",
                f"redis_appendonly = False: {settings.redis_name} would keep what it last wrote as a snapshot "
                f"(redis_save = {settings.redis_save!r}), and a crash loses what came after",
            )
        )
    return [
        f"{why}. If it is to be so: --data redis_allow_loss={loss}"
        for loss, why in found
        if loss not in settings.redis_allow_loss
    ]


def _evicts(policy: str) -> int:
    """How much a policy may take: nothing, what has a TTL, or everything."""
    return {"noeviction": 0, "volatile": 1, "allkeys": 2}[policy.partition("-")[0]]


def _replacing(settings: Settings, facts: HostFacts) -> list[str]:
    if not facts.replacing:
        return []
    return [
        f"{facts.replacing} was broken off, and a deploy would start Redis with what it left in {settings.root}/data: "
        f"run {render.redisctl_path(settings)} restore --recover on the host first"
    ]


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


def _calendar(settings: Settings, facts: HostFacts) -> list[str]:
    if not facts.calendar_refused:
        return []
    return [
        f"redis_backup_calendar = {settings.redis_backup_calendar!r}: this host's systemd says: "
        f"{facts.calendar_refused} (systemd-analyze calendar tries one)"
    ]


def _is_own(address: str, addresses: frozenset[str]) -> bool:
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
        f"stop that, or choose another {'redis_tls_port' if index else 'redis_port'} or redis_bind{_leaked(other)}"
        for index, port in enumerate(settings.ports)
        for address in settings.redis_bind
        for other in facts.listeners
        if other.port == port.published
        and (other.address, other.port) not in facts.published
        and overlap(address, other.address)
    ]
    # One process may listen on 0.0.0.0 and on [::] and is named once.
    return list(dict.fromkeys(taken))


def _leaked(other: Listener) -> str:
    if not other.process.startswith("docker-proxy "):
        return ""
    # https://github.com/moby/moby/issues/20486
    return (
        "; where docker ps shows no container with it, the engine holds it for one that is gone, as it may after a "
        "power cut: systemctl restart docker on the host, which stops and starts all containers"
    )


def _name(settings: Settings, facts: HostFacts) -> list[str]:
    if not facts.name_taken:
        return []
    return [
        f"there is a container {settings.redis_name} that Redoubt did not make: remove or rename it, "
        "or choose another redis_name"
    ]


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


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
