"""Settings of the whole instance: name, image, application, and host."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator

from redoubt.settings.field import Section, setting
from redoubt.settings.types import AppService, Engine, HostPath, Int, check_image, matching, split_words

DEFAULT_IMAGES: Mapping[Engine, str] = {
    "redis": "docker.io/library/redis:8.10.2",
    "valkey": "docker.io/valkey/valkey:9.1.4",
}

# The largest number of a user or group that Docker accepts.
MAX_ID = 2**31 - 1

# Changes that may lose data: a deploy makes them only if they are allowed by name.
DataLoss = Literal["eviction", "policy", "persistence", "empty"]


class InstanceSection(Section):
    """Name, place and application of the instance."""

    title: ClassVar[str] = "Instance"

    redis_name: Annotated[
        str, matching(r"[a-z][a-z0-9-]{0,30}", "a name of up to 31 lower-case letters, digits and '-'")
    ] = setting(
        "redis",
        "Name of the instance. The container, the Compose project, the networks and the paths on the host derive from "
        "it.",
        effect="new instance",
    )
    redis_root: HostPath | None = setting(
        None,
        "Directory on the host for configuration, data, backups, logs and secrets. Default: /srv/<redis_name>.",
        effect="new instance",
        example="/srv/redis",
    )
    redis_uid: Int = setting(
        999,
        "Number of the user that Redis runs as. It owns data, backups, logs and secrets on the host, so no account of "
        "the host may have it. The images need no account with this number. A change restarts Redis twice and "
        "gives the files to the new user.",
        ge=1,
        le=MAX_ID,
    )
    redis_gid: Int = setting(
        999,
        "Number of the group that Redis runs as. A group of the host may have it, because the group has no rights.",
        ge=1,
        le=MAX_ID,
    )
    redis_app_name: Annotated[
        str, matching(r"[A-Za-z0-9_.-]{1,64}", "a name of up to 64 letters, digits, '_', '.' and '-'")
    ] = setting(
        "app",
        "Name of the web application. The keys of its sessions are <redis_app_name>:session:<id>.",
        effect="live",
    )


class ImageSection(Section):
    """Engine and image."""

    title: ClassVar[str] = "Image"

    redis_engine: Engine = setting(
        "redis",
        "redis or valkey, the free fork of Redis 7.2 with the same protocol. Valkey does not read data of Redis 7.4 "
        "and newer, and Redis does not read data of Valkey 9.0 and newer.",
    )
    redis_image: Annotated[str, AfterValidator(check_image)] = setting(
        DEFAULT_IMAGES["redis"],
        "Image with a pinned version, and with a digest if you know it (name:tag@sha256:...). With redis_engine = "
        f"'valkey' the default is {DEFAULT_IMAGES['valkey']}.",
    )
    redis_image_source: Literal["registry", "archive"] = setting(
        "registry",
        "registry: the host pulls the image. archive: the deploy copies a file made by 'docker save' to the host over "
        "SSH and loads it, so the host needs no registry.",
        effect="none",
    )
    redis_image_archive: str | None = setting(
        None,
        "With redis_image_source = 'archive': path of the archive on the machine that deploys.",
        effect="none",
        example="images/redis-8.10.2.tar",
    )
    redis_image_archive_digest: (
        Annotated[str, matching("sha256:[0-9a-f]{64}", "sha256: and 64 hexadecimal digits, from sha256sum")] | None
    ) = setting(
        None,
        "Digest of the archive, from 'sha256sum FILE'. Another file is refused, on this machine and on the host.",
        effect="none",
        example=f"sha256:{'0' * 64}",
    )
    redis_allow_vulnerable_version: bool = setting(
        False,
        "Deploy a version that lacks security fixes (see docs/versions.md). Every deploy then warns and names them.",
        effect="none",
    )


class ChangesSection(Section):
    """Changes that need a confirmation."""

    title: ClassVar[str] = "Changes"

    redis_allow_data_loss: Annotated[tuple[DataLoss, ...], BeforeValidator(split_words)] = setting(
        (),
        "Changes that may lose data and are refused otherwise. eviction: redis_maxmemory becomes lower than the memory "
        "that Redis uses. policy: the new redis_maxmemory_policy evicts more keys than the old one. persistence: "
        "redis_appendonly changes from True to False. empty: Redis starts empty, because its data is missing on a host "
        "where it was deployed. For one deploy: --data redis_allow_data_loss=eviction.",
        effect="none",
        example=["eviction"],
    )


class ApplicationSection(Section):
    """Containers of the application in the same Compose project."""

    title: ClassVar[str] = "Application"

    redis_app_services: dict[str, AppService] = setting(
        {},
        "Your own services, as in a Compose file. They join Redis's network and start when Redis is healthy.",
        effect="none",
        example={"web": {"image": "registry.example.com/web:1.4.2"}},
    )


class HostSection(Section):
    """What a deploy may do to the host itself."""

    title: ClassVar[str] = "Host"

    redis_host_tuning: bool = setting(
        True,
        "Set kernel parameters for Redis, now and at every boot: memory overcommit, huge pages, swappiness and the "
        "maximum backlog. Set it to False on a host that is a container, because its kernel belongs to the machine "
        "below.",
        effect="none",
    )
    redis_docker_source: Literal["auto", "distribution", "docker", "none"] = setting(
        "auto",
        "Where Docker comes from on a host without it. distribution: docker.io and Compose v2 from the system's "
        "packages. docker: Docker's apt repository. none: refuse the deploy. auto: distribution, or docker if the "
        "system has no package of Compose v2 (Debian 12).",
        effect="none",
    )
    redis_allow_unsupported_system: bool = setting(
        False, "Deploy to an operating system that is not in the list of supported ones.", effect="none"
    )
