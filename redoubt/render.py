"""The files of an instance: settings and secrets in, text out."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from redoubt import access, bundle, redisconf, tuning
from redoubt.secretstore import Secrets
from redoubt.settings import REDIS_GID, REDIS_UID, Settings
from redoubt.sizes import format_size
from redoubt.tls import Identity
from redoubt.tree import Absent, Directory, File, pack

PROJECT = Path(__file__).resolve().parent.parent

# Directories below the root, and where the container sees them. Configuration is read-only for Redis:
# a taken-over server cannot change how it starts next time.
MOUNTS = (
    ("config", redisconf.CONFIG_DIR, "ro"),
    ("data", redisconf.DATA_DIR, "rw"),
    ("backups", "/backups", "rw"),
    ("logs", "/var/log/redis", "rw"),
    # A directory and not files: what is mounted by itself stays as it was when the container started.
    ("secrets/server", redisconf.SECRETS_DIR, "ro"),
)


def directories(settings: Settings) -> list[Directory]:
    """The instance's directories. The secrets' is for uid 999 alone."""
    # What is made in it takes its group.
    socket = Directory(f"{settings.root}/socket", mode=0o2750, gid=settings.redis_unix_socket_gid)
    return [
        Directory(settings.root, mode=0o755, uid=0, gid=0),
        Directory(f"{settings.root}/secrets", mode=0o700),
        *(Directory(f"{settings.root}/{name}") for name, _, _ in MOUNTS),
        *([socket] if settings.redis_unix_socket else []),
    ]


def mounts(settings: Settings) -> tuple[tuple[str, str, str], ...]:
    """Directories below the root, where the container sees them, and whether it may write there."""
    return (*MOUNTS, *([("socket", redisconf.SOCKET_DIR, "rw")] if settings.redis_unix_socket else []))


def secret_files(settings: Settings, secrets: Secrets) -> list[File | Absent]:
    """Every user's password in a file of its own, and the file that names commands; none of a user who is no more."""
    paths = secret_paths(settings)
    contents = {user.name: f"{secrets.passwords[user.name]}\n" for user in access.users(settings)}
    contents["commands.conf"] = redisconf.command_names(settings, secrets.commands)
    contents["generation"] = f"{secrets.generation}\n"
    files = [File(paths[name], content, mode=0o400, secret=True) for name, content in contents.items()]
    # Those of the server were beside the others once.
    former = {f"{settings.root}/secrets/{name}" for name in ("default", "commands.conf", *secrets.passwords)}
    return [*files, *(Absent(path) for path in sorted(former - set(paths.values())))]


def secret_paths(settings: Settings) -> dict[str, str]:
    """Where each secret is on the host, by name. The container of Redis sees those of the server and no others."""
    server = ("health", "commands.conf", "generation")
    names = [*(user.name for user in access.users(settings) if user.name not in server), *server]
    return {name: f"{settings.root}/secrets/{'server/' if name in server else ''}{name}" for name in names}


def acl_file(settings: Settings, secrets: Secrets) -> File:
    """The users of Redis. It holds hashes; they are kept from other users of the host all the same."""
    content = access.acl_file(settings, secrets.valid())
    return File(f"{settings.root}/config/users.acl", content, mode=0o400, secret=True)


def certificate_files(settings: Settings, identity: Identity) -> list[Directory | File]:
    """The certificate with its key and CA, under names of their own.

    The certificate that runs stays beside a new one until Redis has taken that over.
    """
    wanted = redisconf.certificate(settings, identity.digest)
    here = f"{settings.root}/config"
    certificate, key, ca = (
        f"{here}{wanted[name].removeprefix(redisconf.CONFIG_DIR)}"
        for name in ("tls-cert-file", "tls-key-file", "tls-ca-cert-file")
    )
    return [
        Directory(f"{here}/tls"),
        File(certificate, identity.certificate),
        File(key, identity.key, mode=0o400, secret=True),
        File(ca, identity.ca),
    ]


def certificate_named(settings: Settings, identity: Identity) -> list[File]:
    """What names the certificate to Redis when it starts and to the health check, and its CA for clients."""
    wanted = redisconf.certificate(settings, identity.digest)
    conf = template("tls.conf.j2", s=settings, directives=wanted, expires=int(identity.expires.timestamp()))
    return [
        File(f"{settings.root}/config/tls.conf", conf),
        File(settings.ca_file, identity.ca, mode=0o644, uid=0, gid=0),
    ]


def former_certificates(settings: Settings, identity: Identity | None, present: Iterable[str]) -> list[Absent]:
    """What is left of former certificates on the host, of what is ``present`` there by its paths; files come first."""
    files = [*certificate_files(settings, identity), *certificate_named(settings, identity)] if identity else []
    wanted = {entry.path for entry in files}
    return [Absent(path) for path in sorted(set(present) - wanted, reverse=True)]


def config_files(settings: Settings) -> list[File]:
    """redis.conf and the health check."""
    conf = template(
        "redis.conf.j2",
        settings=settings,
        sections=redisconf.directives(settings),
        includes=redisconf.includes(settings),
    )
    check = (PROJECT / "files" / "healthcheck.sh").read_text()
    return [
        File(f"{settings.root}/config/redis.conf", conf),
        File(f"{settings.root}/config/healthcheck.sh", check, mode=0o550),
    ]


def compose_file(settings: Settings, *, selinux: bool) -> File:
    """The Compose project. It names secrets by file, so it can be shown to anyone."""
    text = template(
        "compose.yml.j2",
        s=settings,
        mounts=mounts(settings),
        config_dir=redisconf.CONFIG_DIR,
        data_dir=redisconf.DATA_DIR,
        uid=REDIS_UID,
        gid=REDIS_GID,
        secrets={**secret_paths(settings), **({"ca.crt": settings.ca_file} if settings.redis_tls != "off" else {})},
        socket_dir=redisconf.SOCKET_DIR,
        selinux=selinux,
        default_somaxconn=tuning.DEFAULT_SOMAXCONN,
        app_services={name: _app_service(settings, service) for name, service in settings.redis_app_services.items()},
    )
    return File(f"{settings.root}/compose.yml", text, mode=0o644, uid=0, gid=0)


def redisctl_files(settings: Settings) -> list[File]:
    """redisctl beside the instance, what it is told of that, and the command that calls it."""
    told = {"name": settings.redis_name, "root": settings.root, "session_keys": settings.session_keys}
    program = f"{settings.root}/redisctl"
    return [
        File(program, pack(bundle.archive()), mode=0o755, uid=0, gid=0, packed=True),
        File(f"{settings.root}/redisctl.json", json.dumps(told, indent=2) + "\n", mode=0o644, uid=0, gid=0),
        File(redisctl_path(settings), f'#!/bin/sh\nexec {program} "$@"\n', mode=0o755, uid=0, gid=0),
    ]


def redisctl_path(settings: Settings) -> str:
    """The command by which root looks after an instance, named after one that is not called redis."""
    suffix = "" if settings.redis_name == "redis" else f"-{settings.redis_name}"
    return f"/usr/local/sbin/redisctl{suffix}"


def logrotate_file(settings: Settings) -> File:
    """Rotation of Redis's log file."""
    text = template("logrotate.j2", s=settings, uid=REDIS_UID)
    return File(f"/etc/logrotate.d/{settings.redis_name}", text, mode=0o644, uid=0, gid=0)


def _app_service(settings: Settings, service: dict[str, Any]) -> dict[str, Any]:
    """A user's service with what makes it wait for Redis and reach it."""
    depends = service.get("depends_on", {})
    if isinstance(depends, list):
        depends = {name: {"condition": "service_started"} for name in depends}
    networks = service.get("networks", ["default"])
    extra: Any = {"backend": None} if isinstance(networks, dict) else ["backend"]
    return {
        **service,
        "depends_on": {**depends, settings.redis_name: {"condition": "service_healthy"}},
        "networks": {**networks, **extra} if isinstance(networks, dict) else [*networks, *extra],
    }


def template(name: str, **values: Any) -> str:
    """A file of templates/ with its values."""
    environment = Environment(
        loader=FileSystemLoader(PROJECT / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["quoted"] = _quoted
    environment.filters["size"] = format_size
    environment.filters["yaml"] = lambda value: yaml.safe_dump(value, sort_keys=False)
    return environment.get_template(name).render(**values)


def _quoted(value: str) -> str:
    """A value of redis.conf: an empty one in quotes; several words are several arguments and stay as they are."""
    return value or '""'
