"""The Compose file of an instance, and the parts of it that can change live."""

import hashlib
import json
from functools import cache
from typing import Any

import yaml

from redisctl.core import docker
from redoubt import kernel_tuning, redis_conf
from redoubt.container_limits import ContainerLimits
from redoubt.filesystem import DesiredFile
from redoubt.host_files import mounts, secret_paths, template
from redoubt.settings.model import Settings

_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def compose_file(settings: Settings, *, selinux: bool) -> DesiredFile:
    """Return the Compose file.

    It names secrets only by their files, so anyone may read it.
    """
    text = _compose(settings, selinux=selinux, definition=config_fingerprint(settings))
    return DesiredFile(f"{settings.root}/compose.yml", text, mode=0o644, uid=0, gid=0)


def config_fingerprint(settings: Settings) -> str:
    """Return a digest of everything in a container that cannot change live.

    It is a label of the container. Compose's own hash also covers limits, which Docker changes live.
    """
    fixed = settings.with_live_defaults()
    # Parsed, because a comment or a directive that can change live must not recreate the container.
    project = _parse(_compose(fixed, selinux=False, definition=""))
    texts = (
        project,
        json.dumps([redis_conf.read_at_start(fixed), redis_conf.includes(fixed)], sort_keys=True),
        # Only which commands are renamed: the new names are secret, and their file has a modification time.
        " ".join((*fixed.redis_disabled_commands, "", *fixed.redis_renamed_commands)),
        # Redis creates the socket when it starts, with the group of its directory.
        str(fixed.redis_unix_socket_gid if fixed.redis_unix_socket else ""),
    )
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


# A deploy asks for the fingerprint several times, and PyYAML without libyaml is slow.
@cache
def _parse(project: str) -> str:
    return json.dumps(yaml.load(project, Loader=_YAML_LOADER), sort_keys=True)


def live_settings(settings: Settings) -> str:
    """Return the parts of Redis's service that Docker can change live, as JSON.

    They are a label of the container.
    """
    parts = {**ContainerLimits.of(settings).compose(), "stop_grace_period": f"{settings.stop_grace_period}s"}
    return json.dumps(parts)


def override_file(settings: Settings, created_with: str) -> str:
    """Return a Compose override with the ``live_settings`` of the container.

    ``created_with`` are those that Redis's container was created with.
    """
    service = {**json.loads(created_with), "labels": {"redoubt.live": created_with}}
    return json.dumps({"services": {settings.redis_name: service}}) + "\n"


def _compose(settings: Settings, *, selinux: bool, definition: str) -> str:
    return template(
        "compose.yml.j2",
        s=settings,
        definition=definition,
        live=live_settings(settings),
        limits=ContainerLimits.of(settings).compose(),
        mounts=mounts(settings),
        config_dir=redis_conf.CONFIG_DIR,
        data_dir=redis_conf.DATA_DIR,
        core_limit=docker.CORE_LIMIT,
        secrets={**secret_paths(settings), **({"ca.crt": settings.ca_file} if settings.redis_tls != "off" else {})},
        socket_dir=redis_conf.SOCKET_DIR,
        selinux=selinux,
        default_somaxconn=kernel_tuning.DEFAULT_SOMAXCONN,
        app_services={name: _app_service(settings, service) for name, service in settings.redis_app_services.items()},
    )


def _app_service(settings: Settings, service: dict[str, Any]) -> dict[str, Any]:
    """Return an application's service that waits for Redis and is on its network."""
    depends = service.get("depends_on", {})
    if not isinstance(depends, dict):
        depends = {name: {"condition": "service_started"} for name in depends}
    networks = service.get("networks", ["default"])
    extra: Any = {"backend": None} if isinstance(networks, dict) else ["backend"]
    return {
        **service,
        "depends_on": {**depends, settings.redis_name: {"condition": "service_healthy"}},
        "networks": {**networks, **extra} if isinstance(networks, dict) else [*networks, *extra],
    }
