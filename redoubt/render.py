"""The files of an instance: settings and secrets in, text out."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from redoubt import access, bundle, redisconf, tuning
from redoubt.secretstore import Secrets
from redoubt.settings import REDIS_GID, REDIS_UID, REPOSITORY_FILES, Settings
from redoubt.sizes import format_size
from redoubt.tls import Identity
from redoubt.tree import Absent, Directory, File, pack

PROJECT = Path(__file__).resolve().parent.parent

# Directories below the root, and where the container sees them. Configuration is read-only for Redis:
# a taken-over server cannot change how it starts next time.
MOUNTS = (
    ("config", redisconf.CONFIG_DIR, "ro"),
    ("data", redisconf.DATA_DIR, "rw"),
    # A taken-over Redis changes no backup: redisctl takes them, from outside.
    ("backups", "/backups", "ro"),
    ("logs", "/var/log/redis", "rw"),
    # A directory and not files: what is mounted by itself stays as it was when the container started.
    ("secrets/server", redisconf.SECRETS_DIR, "ro"),
)

# The settings of the last deploy that came to its end, below the root.
DEPLOYED = "settings.json"
# What a running container was made with that was changed since, for Compose, which would replace it; below the root.
MADE_WITH = "compose.made.yml"

# Where redisctl notes which repository it has copied to, beside what it reaches that with.
REPOSITORY_NOTE = "known"


def directories(settings: Settings) -> list[Directory]:
    """The instance's directories. The secrets' is for uid 999 alone."""
    # What is made in it takes its group.
    socket = Directory(f"{settings.root}/socket", mode=0o2750, gid=settings.redis_unix_socket_gid)
    repository = Directory(repository_directory(settings), mode=0o700, uid=0, gid=0)
    return [
        Directory(settings.root, mode=0o755, uid=0, gid=0),
        Directory(f"{settings.root}/secrets", mode=0o700),
        *(Directory(f"{settings.root}/{name}") for name, _, _ in MOUNTS),
        *([socket] if settings.redis_unix_socket else []),
        *([repository] if settings.redis_backup_repository else []),
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
    return [
        *files,
        *(Absent(path) for path in sorted(former - set(paths.values()))),
        *repository_files(settings, secrets.repository),
    ]


def repository_files(settings: Settings, password: str) -> list[File | Absent]:
    """What restic reaches the copies off the host with, for root alone; none where there is no repository.

    The password is generated; all else comes from files on this machine.
    """
    directory, is_used = repository_directory(settings), bool(settings.redis_backup_repository)
    contents = {str(name): Path(path).read_text() for name, path in settings.redis_backup_repository_files.items()}
    if is_used:
        contents["password"] = password
    former = {"password", *(name for names in REPOSITORY_FILES.values() for name in names)} - set(contents)
    # What redisctl notes there goes with the directory.
    gone = [f"{directory}/{name}" for name in sorted(former)]
    gone += [] if is_used else [f"{directory}/{REPOSITORY_NOTE}", directory]
    files = (
        File(f"{directory}/{name}", f"{text.rstrip()}\n", mode=0o400, uid=0, gid=0, secret=True)
        for name, text in contents.items()
    )
    return [*files, *map(Absent, gone)]


def repository_directory(settings: Settings) -> str:
    """Where the password and the credentials of the repository of backups are on the host."""
    return f"{settings.root}/secrets/repository"


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
    check = (PROJECT / "files" / "healthcheck.sh").read_text()
    return [
        File(f"{settings.root}/config/redis.conf", _redis_conf(settings)),
        File(f"{settings.root}/config/healthcheck.sh", check, mode=0o550),
    ]


def _redis_conf(settings: Settings) -> str:
    return template(
        "redis.conf.j2",
        settings=settings,
        sections=redisconf.directives(settings),
        includes=redisconf.includes(settings),
    )


def compose_file(settings: Settings, *, selinux: bool) -> File:
    """The Compose project. It names secrets by file, so it can be shown to anyone."""
    text = _compose(settings, selinux=selinux, definition=definition(settings))
    return File(f"{settings.root}/compose.yml", text, mode=0o644, uid=0, gid=0)


def definition(settings: Settings) -> str:
    """What tells a container of these settings from others that a running one cannot be changed into, as a digest.

    It is a label of the container: Compose's own hash differs for limits as well, which the engine changes live.
    """
    fixed = settings.without_live()
    # As they are understood: a comment, or a directive that a running Redis takes, makes no other container.
    project = yaml.safe_load(_compose(fixed, selinux=False, definition=""))
    texts = (
        json.dumps(project, sort_keys=True),
        json.dumps([redisconf.read_at_start(fixed), redisconf.includes(fixed)], sort_keys=True),
        # The names that commands get are secret, and their file has a date; which ones have others is a setting.
        " ".join((*fixed.redis_disabled_commands, "", *fixed.redis_renamed_commands)),
        # Redis makes the socket when it starts, and it has the directory's group from then on.
        str(fixed.redis_unix_socket_gid if fixed.redis_unix_socket else ""),
    )
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def live_parts(settings: Settings) -> str:
    """What in Redis's service a running container is changed in without another one, as JSON. It is a label of it."""
    resources = {
        "limits": {
            "cpus": str(settings.redis_container_cpus),
            "memory": format_size(settings.memory_limit),
            "pids": settings.redis_container_pids,
        },
        "reservations": {
            "cpus": str(settings.redis_container_cpu_reservation),
            "memory": format_size(settings.memory_reservation),
        },
    }
    parts = {
        "restart": settings.redis_restart,
        "stop_grace_period": f"{settings.stop_grace_period}s",
        "cpu_shares": int(settings.redis_container_cpu_reservation * 1024),
        "memswap_limit": settings.memory_limit + 1,
        "deploy": {"resources": resources},
    }
    return json.dumps(parts)


def made_with(settings: Settings, parts: str) -> str:
    """A Compose file to lay over the project's, by which Redis's container is as it was made (its ``live_parts``)."""
    service = {**json.loads(parts), "labels": {"redoubt.live": parts}}
    return json.dumps({"services": {settings.redis_name: service}}) + "\n"


def _compose(settings: Settings, *, selinux: bool, definition: str) -> str:
    return template(
        "compose.yml.j2",
        s=settings,
        definition=definition,
        live=live_parts(settings),
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


def redisctl_files(settings: Settings) -> list[File]:
    """redisctl beside the instance, what it is told of that, and the command that calls it."""
    told = {
        "name": settings.redis_name,
        "root": settings.root,
        "session_keys": settings.session_keys,
        "image": settings.redis_image,
        "settings": settings.digest,
        "backup": {
            "scheduled": bool(settings.redis_backup_calendar),
            "verify": settings.redis_backup_verify,
            "max_age": settings.redis_backup_max_age,
            "keep": settings.backups_kept,
            "repository": settings.redis_backup_repository,
        },
    }
    program = f"{settings.root}/redisctl"
    return [
        File(program, pack(bundle.archive()), mode=0o755, uid=0, gid=0, packed=True),
        File(f"{settings.root}/redisctl.json", json.dumps(told, indent=2) + "\n", mode=0o644, uid=0, gid=0),
        File(f"{settings.root}/{DEPLOYED}", _deployed(settings), mode=0o600, uid=0, gid=0),
        File(redisctl_path(settings), f'#!/bin/sh\nexec {program} "$@"\n', mode=0o755, uid=0, gid=0),
    ]


def _deployed(settings: Settings) -> str:
    """The settings by which the next deploy tells what it changes; written once Redis runs with them."""
    return json.dumps(settings.costing("live", "restart"), indent=2) + "\n"


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
