"""Settings of the Redis container: limits, restart policy and health check."""

from typing import ClassVar, Literal

from redoubt.settings.field import Section, setting
from redoubt.settings.types import DockerSize, Float, Int
from redoubt.sizes import MIB

# Redis's default: a stopping primary waits this many seconds for its replicas.
SHUTDOWN_TIMEOUT = 10


class ContainerSection(Section):
    """Limits of the container."""

    title: ClassVar[str] = "Container limits"

    redis_container_memory: DockerSize | None = setting(
        None,
        "Memory limit. Default: 1.5 x redis_maxmemory, which leaves room for forks, buffers and fragmentation "
        "(measured, see docs/sizing.md), and redis_client_memory.",
        effect="live",
        example="1664M",
        ge=64 * MIB,
    )
    redis_container_memory_reservation: DockerSize = setting(
        "512M",
        "Memory that the kernel tries to leave to Redis when the host runs short.",
        effect="live",
        ge=6 * MIB,
    )
    redis_container_cpus: Float = setting(1.0, "CPU limit, in cores.", effect="live", ge=0.1, le=1024)
    redis_container_cpu_reservation: Float = setting(
        0.5,
        "Share of the CPU when the host is busy, in cores. Docker has no hard reservation, so this becomes a weight "
        "(1.0 is 1024).",
        effect="live",
        ge=0.01,
        le=1024,
    )
    redis_container_pids: Int = setting(
        128,
        "Maximum number of processes and threads: Redis, its saving child and the health check.",
        effect="live",
        ge=32,
        le=65536,
    )
    redis_container_nofile: Int | None = setting(
        None,
        "Maximum number of open files. Default: redis_maxclients + 1056. Redis needs 64 more than redis_maxclients: a "
        "reserve of 32 connections, and 32 files. The rest is for files and forks.",
        example=11056,
        ge=64,
        le=1_048_576,
    )
    redis_stop_grace_period: Int | None = setting(
        None,
        "Seconds that Redis has to save its data before Docker kills it. Default: 30, and 1 more for each 50 MiB of "
        "redis_maxmemory (a slow cloud volume writes 50 MiB/s).",
        example=51,
        # Longer than Redis's own shutdown timeout.
        ge=SHUTDOWN_TIMEOUT + 5,
        le=3600,
    )
    redis_restart: Literal["unless-stopped", "always", "on-failure", "no"] = setting(
        "unless-stopped", "Docker's restart policy. A stopped instance stays stopped with all of them.", effect="live"
    )


class HealthCheckSection(Section):
    """Docker's health check."""

    title: ClassVar[str] = "Health check"

    redis_health_interval: Int = setting(30, "Seconds between two checks.", ge=1, le=3600)
    redis_health_timeout: Int = setting(10, "Seconds after which a check fails.", ge=1, le=300)
    redis_health_retries: Int = setting(5, "Failed checks in a row that make Redis unhealthy.", ge=1, le=100)
    redis_health_start_period: Int = setting(
        10, "Seconds after a start during which failed checks do not count.", ge=0, le=86400
    )
