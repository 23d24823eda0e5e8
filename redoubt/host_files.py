"""The files of an instance: settings and secrets in, text out."""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from redisctl import paths, schema
from redoubt import acl, redis_conf, redisctl_bundle
from redoubt.certificates import Identity
from redoubt.filesystem import AbsentPath, DesiredDirectory, DesiredFile, DesiredProgram
from redoubt.secret_store import Secrets
from redoubt.settings.model import Settings
from redoubt.settings.types import REDIS_UID, REPOSITORY_FILES
from redoubt.sizes import format_size

PROJECT = Path(__file__).resolve().parent.parent

# Directories below the root, and where the container sees them. Configuration is read-only for Redis:
# a taken-over server cannot change how it starts next time.
MOUNTS = (
    ("config", redis_conf.CONFIG_DIR, "ro"),
    (paths.LIVE, redis_conf.DATA_DIR, "rw"),
    # A taken-over Redis changes no backup: redisctl takes them, from outside.
    ("backups", "/backups", "ro"),
    ("logs", "/var/log/redis", "rw"),
    # A directory and not files: what is mounted by itself stays as it was when the container started.
    ("secrets/server", redis_conf.SECRETS_DIR, "ro"),
)


# Where redisctl notes which repository it has copied to, beside what it reaches that with.
REPOSITORY_NOTE = "known"


def directories(settings: Settings) -> list[DesiredDirectory]:
    """Return the instance's directories.

    ROOT/data is root's; Redis owns ROOT/data/live, which its container sees as /data. So nothing that Redis writes lies
    next to the files of a restore or an upgrade, and all of them are on the file system of the data.
    """
    # Files in it get its group.
    socket = DesiredDirectory(f"{settings.root}/{paths.SOCKET}", mode=0o2750, gid=settings.redis_unix_socket_gid)
    repository = DesiredDirectory(repository_directory(settings), mode=0o700, uid=0, gid=0)
    modes = {paths.LIVE: 0o700}
    return [
        DesiredDirectory(settings.root, mode=0o755, uid=0, gid=0),
        DesiredDirectory(f"{settings.root}/{paths.SECRETS}", mode=0o700),
        DesiredDirectory(f"{settings.root}/{paths.DATA}", mode=0o700, uid=0, gid=0),
        *(DesiredDirectory(f"{settings.root}/{name}", mode=modes.get(name, 0o750)) for name, _, _ in MOUNTS),
        *([socket] if settings.redis_unix_socket else []),
        *([repository] if settings.redis_backup_restic_repository else []),
    ]


def mounts(settings: Settings) -> tuple[tuple[str, str, str], ...]:
    """Directories below the root, where the container sees them, and whether it may write there."""
    return (*MOUNTS, *([("socket", redis_conf.SOCKET_DIR, "rw")] if settings.redis_unix_socket else []))


def secret_files(settings: Settings, secrets: Secrets) -> list[DesiredFile | AbsentPath]:
    """Every user's password in a file of its own, and the file that names commands; none of a user who is no more."""
    paths = secret_paths(settings)
    contents = {user.name: f"{secrets.passwords[user.name]}\n" for user in acl.users(settings)}
    contents["commands.conf"] = redis_conf.command_names(settings, secrets.commands)
    contents["generation"] = f"{secrets.generation}\n"
    files = [DesiredFile(paths[name], content, mode=0o400, secret=True) for name, content in contents.items()]
    # Those of the server were beside the others once.
    former = {f"{settings.root}/secrets/{name}" for name in ("default", "commands.conf", *secrets.passwords)}
    return [
        *files,
        *(AbsentPath(path) for path in sorted(former - set(paths.values()))),
        *repository_files(settings, secrets.repository),
    ]


def repository_files(settings: Settings, password: str) -> list[DesiredFile | AbsentPath]:
    """What restic reaches the copies off the host with, for root alone; none where there is no repository.

    The password is generated; all else comes from files on this machine.
    """
    directory, is_used = repository_directory(settings), bool(settings.redis_backup_restic_repository)
    contents = {str(name): Path(path).read_text() for name, path in settings.redis_backup_repository_files.items()}
    if is_used:
        contents["password"] = password
    former = {"password", *(name for names in REPOSITORY_FILES.values() for name in names)} - set(contents)
    # What redisctl notes there goes with the directory.
    gone = [f"{directory}/{name}" for name in sorted(former)]
    gone += [] if is_used else [f"{directory}/{REPOSITORY_NOTE}", directory]
    files = (
        DesiredFile(f"{directory}/{name}", f"{text.rstrip()}\n", mode=0o400, uid=0, gid=0, secret=True)
        for name, text in contents.items()
    )
    return [*files, *map(AbsentPath, gone)]


def repository_directory(settings: Settings) -> str:
    """Where the password and the credentials of the repository of backups are on the host."""
    return f"{settings.root}/secrets/repository"


def secret_paths(settings: Settings) -> dict[str, str]:
    """Where each secret is on the host, by name. The container of Redis sees those of the server and no others."""
    server = ("health", "commands.conf", "generation")
    names = [*(user.name for user in acl.users(settings) if user.name not in server), *server]
    return {name: f"{settings.root}/secrets/{'server/' if name in server else ''}{name}" for name in names}


def acl_file(settings: Settings, secrets: Secrets) -> DesiredFile:
    """The users of Redis. It holds hashes; they are kept from other users of the host all the same."""
    content = acl.acl_file(settings, secrets.valid())
    return DesiredFile(f"{settings.root}/config/users.acl", content, mode=0o400, secret=True)


def certificate_files(settings: Settings, identity: Identity) -> list[DesiredDirectory | DesiredFile]:
    """The certificate with its key and CA, under names of their own.

    The certificate that runs stays beside a new one until Redis has taken that over.
    """
    wanted = redis_conf.certificate(settings, identity.digest)
    here = f"{settings.root}/config"
    certificate, key, ca = (
        f"{here}{wanted[name].removeprefix(redis_conf.CONFIG_DIR)}"
        for name in ("tls-cert-file", "tls-key-file", "tls-ca-cert-file")
    )
    return [
        DesiredDirectory(f"{here}/tls"),
        DesiredFile(certificate, identity.certificate),
        DesiredFile(key, identity.key, mode=0o400, secret=True),
        DesiredFile(ca, identity.ca),
    ]


def certificate_config(settings: Settings, identity: Identity) -> list[DesiredFile]:
    """What names the certificate to Redis when it starts and to the health check, and its CA for clients."""
    wanted = redis_conf.certificate(settings, identity.digest)
    conf = template("tls.conf.j2", s=settings, directives=wanted, expires=int(identity.expires.timestamp()))
    return [
        DesiredFile(f"{settings.root}/config/tls.conf", conf),
        DesiredFile(settings.ca_file, identity.ca, mode=0o644, uid=0, gid=0),
    ]


def previous_certificates(settings: Settings, identity: Identity | None, present: Iterable[str]) -> list[AbsentPath]:
    """What is left of former certificates on the host, of what is ``present`` there by its paths; files come first."""
    files = [*certificate_files(settings, identity), *certificate_config(settings, identity)] if identity else []
    wanted = {entry.path for entry in files}
    return [AbsentPath(path) for path in sorted(set(present) - wanted, reverse=True)]


def config_files(settings: Settings) -> list[DesiredFile]:
    """redis.conf and the health check."""
    check = (PROJECT / "files" / "healthcheck.sh").read_text()
    return [
        DesiredFile(f"{settings.root}/config/redis.conf", _redis_conf(settings)),
        DesiredFile(f"{settings.root}/config/healthcheck.sh", check, mode=0o550),
    ]


def _redis_conf(settings: Settings) -> str:
    return template(
        "redis.conf.j2",
        settings=settings,
        sections=redis_conf.directives(settings),
        includes=redis_conf.includes(settings),
    )


def redisctl_program(settings: Settings) -> list[DesiredFile]:
    """Return redisctl and the command that runs it."""
    program = f"{settings.root}/{paths.PROGRAM}"
    return [
        DesiredProgram(program, mode=0o755, uid=0, gid=0, program=redisctl_bundle.archive()),
        DesiredFile(redisctl_path(settings), f'#!/bin/sh\nexec {program} "$@"\n', mode=0o755, uid=0, gid=0),
    ]


def redisctl_config(settings: Settings) -> DesiredFile:
    """Return redisctl.json, which describes the instance to redisctl."""
    config = schema.Config(
        name=settings.redis_name,
        root=settings.root,
        session_keys=settings.session_keys,
        image=settings.redis_image,
        settings=settings.digest,
        stop_grace=settings.stop_grace_period,
        start_timeout=settings.start_timeout,
        restart=settings.redis_restart,
        backup=schema.BackupConfig(
            scheduled=bool(settings.redis_backup_schedule),
            verify=settings.redis_backup_verify,
            max_age=settings.redis_backup_max_age,
            keep=settings.backups_kept,
            repository=settings.redis_backup_restic_repository,
        ),
    )
    text = json.dumps(json.loads(schema.dump(config)), indent=2)
    return DesiredFile(f"{settings.root}/{paths.PROGRAM_CONFIG}", f"{text}\n", mode=0o644, uid=0, gid=0)


def deployed_settings(settings: Settings) -> DesiredFile:
    """Return the settings with which the next deploy compares its own; written once Redis runs with them."""
    text = json.dumps(settings.with_effect("live", "restart"), indent=2)
    return DesiredFile(f"{settings.root}/{paths.DEPLOYED_SETTINGS}", f"{text}\n", mode=0o600, uid=0, gid=0)


def redisctl_path(settings: Settings) -> str:
    """Return the command by which root operates the instance."""
    return paths.command(settings.redis_name)


def logrotate_file(settings: Settings) -> DesiredFile:
    """Rotation of Redis's log file."""
    text = template("logrotate.j2", s=settings, uid=REDIS_UID)
    return DesiredFile(f"/etc/logrotate.d/{settings.redis_name}", text, mode=0o644, uid=0, gid=0)


def template(name: str, **values: Any) -> str:
    """Render a file of templates/."""
    return _environment().get_template(name).render(**values)


# One environment compiles each template once, however many hosts a deploy has.
@cache
def _environment() -> Environment:
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
    return environment


def _quoted(value: str) -> str:
    """A value of redis.conf: an empty one in quotes; several words are several arguments and stay as they are."""
    return value or '""'
