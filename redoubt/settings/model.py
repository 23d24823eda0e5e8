"""The settings of one Redis instance on one host, and what derives from them.

The fields are declared by section in ``redoubt/settings/sections``, each with its type, default, bounds and the effect
of a change. The inventory's data is flat (``redis_*`` keys); ``redoubt.settings.load`` turns it into ``Settings``.
``python -m redoubt.settings`` writes ``inventory/group_data/all.py`` and ``docs/settings.md`` from the same fields.
"""

import hashlib
import ipaddress
import math
import re
from typing import Any, NamedTuple

from pydantic import model_validator

from redoubt.settings.field import Effect, Section, details
from redoubt.settings.sections.access import AccessSection, NetworkSection, TlsSection
from redoubt.settings.sections.backup import PERIODS, BackupsSection
from redoubt.settings.sections.container import ContainerSection, HealthCheckSection
from redoubt.settings.sections.instance import (
    DEFAULT_IMAGES,
    ApplicationSection,
    ChangesSection,
    HostSection,
    ImageSection,
    InstanceSection,
)
from redoubt.settings.sections.server import (
    RESERVED_CONNECTIONS,
    ClientsSection,
    ExtraConfigSection,
    LogsSection,
    MemorySection,
    PersistenceSection,
)
from redoubt.settings.types import REPOSITORY_FILES
from redoubt.sizes import MIB

# In the order of the settings file.
SECTIONS: tuple[type[Section], ...] = (
    InstanceSection,
    ImageSection,
    ChangesSection,
    MemorySection,
    PersistenceSection,
    BackupsSection,
    ClientsSection,
    AccessSection,
    NetworkSection,
    TlsSection,
    ContainerSection,
    HealthCheckSection,
    LogsSection,
    ApplicationSection,
    HostSection,
    ExtraConfigSection,
)

# They apply to one deploy, so they must not make a difference for the next one.
_ONE_DEPLOY = frozenset({"redis_allow_data_loss", "redis_upgrade_verify"})

# A client holds a request of two values and the reply of one, and is not alone.
_VALUES_IN_CLIENT_MEMORY = 4
_SMALLEST_CLIENT_MEMORY = 16 * MIB
# Redis's own default of proto-max-bulk-len.
_LARGEST_VALUE = 512 * MIB

# Reserved for tests of network devices (RFC 2544), so no route of a real network leads there.
_EDGE_POOL, _EDGE_PREFIX = ipaddress.IPv4Network("198.18.0.0/15"), 28

# The kernel's limit of an interface's name is 15 characters.
_LONGEST_BRIDGE = 15

# A server whose version is unknown gets the directives of the newest one.
_NEWEST = (99, 0)


class Port(NamedTuple):
    """A port of Redis: on the host, inside the container, and whether it speaks TLS."""

    published: int
    inside: int
    tls: bool


class Settings(
    # pydantic takes the fields of the last base first.
    ExtraConfigSection,
    HostSection,
    ApplicationSection,
    LogsSection,
    HealthCheckSection,
    ContainerSection,
    TlsSection,
    NetworkSection,
    AccessSection,
    ClientsSection,
    BackupsSection,
    PersistenceSection,
    MemorySection,
    ChangesSection,
    ImageSection,
    InstanceSection,
):
    """The settings of one Redis instance on one host, valid and complete.

    Sizes are in bytes, times in seconds unless a description says otherwise.
    """

    @model_validator(mode="before")
    @classmethod
    def _default_image(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Give redis_image the default of the engine."""
        return {"redis_image": DEFAULT_IMAGES["valkey"], **data} if data.get("redis_engine") == "valkey" else data

    # -- The settings as a whole

    @property
    def digest(self) -> str:
        """Return a short hash of the settings.

        What applies to one deploy (redis_allow_data_loss) is not part of it.
        """
        return hashlib.sha256(self.model_dump_json(exclude=set(_ONE_DEPLOY)).encode()).hexdigest()[:12]

    def with_effect(self, *effects: Effect) -> dict[str, Any]:
        """Return the settings whose change has one of these effects, as JSON values."""
        names = {name for name, field in Settings.model_fields.items() if details(field)["effect"] in effects}
        return self.model_dump(mode="json", include=names)

    def with_live_defaults(self) -> "Settings":
        """Return these settings with defaults where a change needs no new container."""
        fields = Settings.model_fields.items()
        names = [name for name, field in fields if details(field)["effect"] not in ("live", "none")]
        return Settings(**{name: getattr(self, name) for name in names})

    # -- Paths on the host

    @property
    def root(self) -> str:
        """Directory of the instance."""
        return self.redis_root or f"/srv/{self.redis_name}"

    @property
    def owner(self) -> str:
        """User and group of Redis, as uid:gid."""
        return f"{self.redis_uid}:{self.redis_gid}"

    @property
    def ca_file(self) -> str:
        """Certificate of the CA, for clients."""
        return f"{self.root}/ca.crt"

    @property
    def unix_socket(self) -> str:
        """Path of the socket; empty without one."""
        return f"{self.root}/socket/redis.sock" if self.redis_unix_socket else ""

    # -- Limits of the container

    @property
    def memory_limit(self) -> int:
        """Memory limit in bytes: given, or derived."""
        return self.redis_container_memory or self.default_memory_limit

    @property
    def default_memory_limit(self) -> int:
        """Default of the memory limit, for the data and the clients, in bytes."""
        return default_memory_limit(self.redis_maxmemory) + _round_up_to_mib(self.client_memory)

    @property
    def smallest_memory_limit(self) -> int:
        """Smallest accepted container limit, in bytes."""
        return smallest_memory_limit(self.redis_maxmemory) + _round_up_to_mib(self.client_memory)

    @property
    def memory_reservation(self) -> int:
        """Soft memory limit in bytes. Docker refuses one above the hard limit."""
        return min(self.redis_container_memory_reservation, self.memory_limit)

    @property
    def nofile(self) -> int:
        """Maximum number of open files."""
        return self.redis_container_nofile or self.connections + 1024

    @property
    def maxclients_per_source(self) -> int:
        """Connections from one address: given, or derived from redis_maxclients."""
        return self.redis_maxclients_per_source or self.redis_maxclients // 2

    @property
    def stop_grace_period(self) -> int:
        """Seconds between SIGTERM and SIGKILL."""
        return self.redis_stop_grace_period or 30 + math.ceil(self.redis_maxmemory / (50 * MIB))

    @property
    def start_timeout(self) -> int:
        """Return the seconds to wait until Redis is healthy.

        This is a little longer than the health check needs to fail.
        """
        check = self.redis_health_interval + self.redis_health_timeout
        return self.redis_health_start_period + self.redis_health_retries * check + 30

    # -- Limits of clients

    @property
    def connections(self) -> int:
        """Connections that Redis accepts: those of clients, and the reserve."""
        return self.redis_maxclients + RESERVED_CONNECTIONS

    @property
    def client_memory(self) -> int:
        """Memory for requests and replies of all clients together, in bytes."""
        from_value = _VALUES_IN_CLIENT_MEMORY * (self.redis_max_value or 0)
        return self.redis_client_memory or max(self.redis_maxmemory // 8, _SMALLEST_CLIENT_MEMORY, from_value)

    @property
    def max_value(self) -> int:
        """Maximum size of one value in a request, in bytes."""
        return self.redis_max_value or min(self.client_memory // _VALUES_IN_CLIENT_MEMORY, _LARGEST_VALUE)

    @property
    def max_request(self) -> int:
        """Maximum size of a request or a queued transaction, in bytes."""
        return 2 * self.max_value

    @property
    def max_reply(self) -> int:
        """Maximum size of replies that wait for one client, in bytes."""
        return self.client_memory // 2

    # -- Others

    @property
    def has_tls_client_certificate(self) -> bool:
        """Whether Redis has a client certificate: of the CA, or from the user's files."""
        return self.redis_tls != "off" and (self.redis_tls_source == "ca" or self.redis_tls_client_cert is not None)

    @property
    def ports(self) -> tuple[Port, ...]:
        """The ports of Redis, published or not: plain, TLS, or both."""
        if self.redis_tls == "required":
            return (Port(self.redis_port, 6379, tls=True),)
        plain = Port(self.redis_port, 6379, tls=False)
        return (plain, Port(self.redis_tls_port, 6380, tls=True)) if self.redis_tls == "both" else (plain,)

    @property
    def edge_subnet(self) -> ipaddress.IPv4Network:
        """Network of the edge bridge: given, or derived from redis_name."""
        if self.redis_edge_subnet:
            return ipaddress.IPv4Network(self.redis_edge_subnet)
        digest = hashlib.sha256(self.redis_name.encode()).digest()
        offset = int.from_bytes(digest[:2], "big") % 2 ** (_EDGE_PREFIX - _EDGE_POOL.prefixlen)
        address = _EDGE_POOL.network_address + offset * 2 ** (32 - _EDGE_PREFIX)
        return ipaddress.IPv4Network(f"{address}/{_EDGE_PREFIX}")

    @property
    def edge_address(self) -> str:
        """Redis's address on the edge network. The first address is the bridge's."""
        return str(self.edge_subnet[2])

    @property
    def edge_bridge(self) -> str:
        """Name of the edge network's bridge on the host."""
        return _bridge(self.redis_name, "edge")

    @property
    def backend_bridge(self) -> str:
        """Name of the backend network's bridge on the host."""
        return _bridge(self.redis_name, "back")

    @property
    def backups_kept(self) -> dict[str, int]:
        """Number of backups to keep, by period."""
        return {period: getattr(self, f"redis_backup_keep_{period}") for period in PERIODS}

    @property
    def repository_files_used(self) -> tuple[str, ...]:
        """Return the names of the files that a repository of this kind can use.

        Empty without a repository.
        """
        address = self.redis_backup_restic_repository
        return next((names for kind, names in REPOSITORY_FILES.items() if address.startswith(kind)), ())

    @property
    def session_keys(self) -> str:
        """Key pattern of the application's sessions."""
        return f"{self.redis_app_name}:session:*"

    @property
    def server_version(self) -> tuple[int, int]:
        """Return the major and minor version of Redis by the image's tag.

        If the tag has none, it is the newest. Clients see Valkey as Redis 7.2 (``redis_version`` in INFO), whatever its
        own version is.
        """
        if self.redis_engine == "valkey":
            return 7, 2
        return (self.image_numbers[0], self.image_numbers[1]) if len(self.image_numbers) > 1 else _NEWEST

    @property
    def image_numbers(self) -> tuple[int, ...]:
        """Return the numbers at the start of the image's tag, such as (8, 10, 2)."""
        tag = self.redis_image.partition("@")[0].rpartition("/")[2].partition(":")[2]
        match = re.match(r"\d+(\.\d+)*", tag)
        return tuple(map(int, match[0].split("."))) if match else ()


def _bridge(name: str, part: str) -> str:
    """Return a bridge's name, which is unique and short enough for the kernel."""
    bridge = f"{name}-{part}"
    if len(bridge) <= _LONGEST_BRIDGE:
        return bridge
    digest = hashlib.sha256(name.encode()).hexdigest()[:5]
    return f"{name[: _LONGEST_BRIDGE - len(digest) - len(part) - 2]}-{digest}-{part}"


def default_memory_limit(maxmemory: int) -> int:
    """Return the container limit for a maxmemory, in bytes, rounded up to whole MiB.

    1.5 x maxmemory: at 1 GiB Redis survived saves under write load in 1536 MiB with a peak of 1281 MiB.
    """
    return _round_up_to_mib(max(maxmemory * 1.5, smallest_memory_limit(maxmemory)))


def smallest_memory_limit(maxmemory: int) -> int:
    """Return the smallest accepted container limit for a maxmemory, in bytes.

    It is rounded up to whole MiB.

    Measured peaks (AOF everysec, RDB, rewrite and save under write load): 1281 MiB at maxmemory 1 GiB, 873 MiB at 640
    MiB. 1.25 x maxmemory + 128 MiB is above both. With maxmemory 1 GiB in 1 GiB the kernel killed Redis.
    """
    return _round_up_to_mib(maxmemory * 1.25 + 128 * MIB)


def _round_up_to_mib(size: float) -> int:
    return math.ceil(size / MIB) * MIB
