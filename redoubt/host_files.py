"""Renders the files of an instance from its settings and secrets."""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from redisctl import paths, schema
from redoubt import acl, redis_conf, redisctl_bundle
from redoubt.certificates import Identity
from redoubt.filesystem import AbsentPath, DesiredDirectory, DesiredFile, DesiredProgram
from redoubt.secret_store import Secrets
from redoubt.settings.model import Settings
from redoubt.settings.types import REPOSITORY_FILES, SERVER_SECRETS
from redoubt.sizes import format_size

PROJECT = Path(__file__).resolve().parent.parent

# Directories below the root, and where the container sees them. Configuration is read-only, so that a compromised Redis
# cannot change how it starts next time.
MOUNTS = (
    ("config", redis_conf.CONFIG_DIR, "ro"),
    (paths.LIVE, redis_conf.DATA_DIR, "rw"),
    # redisctl writes backups on the host. A compromised Redis cannot change them.
    ("backups", "/backups", "ro"),
    ("logs", "/var/log/redis", "rw"),
    # The directory, because a file mount shows the old file after a change.
    (paths.SERVER_SECRETS, redis_conf.SECRETS_DIR, "ro"),
)

# The file in which redisctl records the repository that it has copied to, next to its credentials.
REPOSITORY_NOTE = "known"


def root(settings: Settings) -> list[DesiredDirectory | DesiredFile]:
    """Return the root directory and the marker that names its instance.

    They come before everything else in the root, so an interrupted first deploy can be repeated.
    """
    return [
        DesiredDirectory(settings.root, mode=0o755),
        DesiredFile(f"{settings.root}/{paths.MARKER}", f"{settings.redis_name}\n"),
    ]


def directories(settings: Settings) -> list[DesiredDirectory]:
    """Return the instance's directories below the root.

    Root owns ROOT/data. Redis owns ROOT/data/live, which its container sees as /data: it cannot reach the files of a
    restore or an upgrade, which are on the same file system.
    """
    # Files in a setgid directory get its group.
    socket = DesiredDirectory(
        f"{settings.root}/{paths.SOCKET}", mode=0o2750, uid=settings.redis_uid, gid=settings.redis_unix_socket_gid
    )
    repository = DesiredDirectory(repository_directory(settings))
    of_redis = (paths.SECRETS, *(name for name, _, _ in MOUNTS))
    return [
        DesiredDirectory(f"{settings.root}/{paths.DATA}"),
        *(DesiredDirectory(f"{settings.root}/{name}", **_owner(settings)) for name in of_redis),
        *([socket] if settings.redis_unix_socket else []),
        *([repository] if settings.redis_backup_restic_repository else []),
    ]


class _Owner(TypedDict):
    uid: int
    gid: int


def _owner(settings: Settings) -> _Owner:
    """Return the owner of what Redis reads and writes."""
    return {"uid": settings.redis_uid, "gid": settings.redis_gid}


def mounts(settings: Settings) -> tuple[tuple[str, str, str], ...]:
    """Return directories below the root, their path in the container, and ro or rw."""
    return (*MOUNTS, *([("socket", redis_conf.SOCKET_DIR, "rw")] if settings.redis_unix_socket else []))


def secret_files(settings: Settings, secrets: Secrets) -> list[DesiredFile | AbsentPath]:
    """Return a file for each user's password and for the command names.

    Files of removed users are absent paths.
    """
    path, owner = secret_paths(settings), _owner(settings)
    contents = {user.name: f"{secrets.passwords[user.name]}\n" for user in acl.users(settings)}
    contents["commands.conf"] = redis_conf.command_names(settings, secrets.commands)
    contents["generation"] = f"{secrets.generation}\n"
    files = [DesiredFile(path[name], content, mode=0o400, secret=True, **owner) for name, content in contents.items()]
    possible = {f"{settings.root}/{paths.SECRETS}/{name}" for name in ("default", "commands.conf", *secrets.passwords)}
    return [
        *files,
        *(AbsentPath(path) for path in sorted(possible - set(path.values()))),
        *repository_files(settings, secrets.repository),
    ]


def repository_files(settings: Settings, password: str) -> list[DesiredFile | AbsentPath]:
    """Return the files with which restic reaches the backup repository.

    They are for root alone, and absent without a repository. The password is generated. Everything else comes from
    files on this machine.
    """
    directory, is_used = repository_directory(settings), bool(settings.redis_backup_restic_repository)
    contents = {str(name): Path(path).read_text() for name, path in settings.redis_backup_repository_files.items()}
    if is_used:
        contents["password"] = password
    unused = {"password", *(name for names in REPOSITORY_FILES.values() for name in names)} - set(contents)
    absent = [f"{directory}/{name}" for name in sorted(unused)]
    # The directory comes last: it must be empty.
    absent += [] if is_used else [f"{directory}/{REPOSITORY_NOTE}", directory]
    files = (
        DesiredFile(f"{directory}/{name}", f"{text.rstrip()}\n", mode=0o400, uid=0, gid=0, secret=True)
        for name, text in contents.items()
    )
    return [*files, *map(AbsentPath, absent)]


def repository_directory(settings: Settings) -> str:
    """Return the host's directory of the backup repository's secrets.

    These are its password and credentials.
    """
    return f"{settings.root}/{paths.REPOSITORY_SECRETS}"


def secret_paths(settings: Settings) -> dict[str, str]:
    """Return the path of each secret on the host, by name.

    The container of Redis sees only those of the server.
    """
    users = [user.name for user in acl.users(settings) if user.name not in SERVER_SECRETS]
    return {
        **{name: f"{settings.root}/{paths.SECRETS}/{name}" for name in users},
        **{name: f"{settings.root}/{paths.SERVER_SECRETS}/{name}" for name in SERVER_SECRETS},
    }


def acl_file(settings: Settings, secrets: Secrets) -> DesiredFile:
    """Return the ACL file.

    It has only password hashes, but other users of the host must not read these either.
    """
    content = acl.acl_file(settings, secrets.valid())
    return DesiredFile(f"{settings.root}/config/users.acl", content, mode=0o400, secret=True, **_owner(settings))


def certificate_files(settings: Settings, identity: Identity) -> list[DesiredDirectory | DesiredFile]:
    """Return the certificate with its key and CA, and the client certificate.

    Their names contain the certificate's digest, so that a new certificate does not overwrite the running one before
    Redis has loaded it.
    """
    directives = redis_conf.certificate(settings, identity.digest)
    config = f"{settings.root}/config"
    path = {
        name: f"{config}{directives[name].removeprefix(redis_conf.CONFIG_DIR)}"
        for name in ("tls-cert-file", "tls-key-file", "tls-client-cert-file", "tls-client-key-file", "tls-ca-cert-file")
    }
    owner = _owner(settings)
    entries: list[DesiredDirectory | DesiredFile] = [
        DesiredDirectory(f"{config}/tls", **owner),
        DesiredFile(path["tls-cert-file"], identity.certificate, **owner),
        DesiredFile(path["tls-key-file"], identity.key, mode=0o400, secret=True, **owner),
        DesiredFile(path["tls-ca-cert-file"], identity.ca, **owner),
    ]
    if identity.client:
        entries += [
            DesiredFile(path["tls-client-cert-file"], identity.client.certificate, **owner),
            DesiredFile(path["tls-client-key-file"], identity.client.key, mode=0o400, secret=True, **owner),
        ]
    return entries


def certificate_config(settings: Settings, identity: Identity) -> list[DesiredFile]:
    """Return tls.conf, and the CA for clients.

    tls.conf names the certificate for the next start and for the health check.
    """
    directives = redis_conf.certificate(settings, identity.digest)
    text = template("tls.conf.j2", s=settings, directives=directives, expires=int(identity.expires.timestamp()))
    return [
        DesiredFile(f"{settings.root}/config/tls.conf", text, **_owner(settings)),
        DesiredFile(settings.ca_file, identity.ca, mode=0o644, uid=0, gid=0),
    ]


def previous_certificates(settings: Settings, identity: Identity | None, present: Iterable[str]) -> list[AbsentPath]:
    """Return the paths of previous certificates, files before directories.

    ``present`` are the paths on the host.
    """
    files = [*certificate_files(settings, identity), *certificate_config(settings, identity)] if identity else []
    desired = {entry.path for entry in files}
    return [AbsentPath(path) for path in sorted(set(present) - desired, reverse=True)]


def config_files(settings: Settings) -> list[DesiredFile]:
    """Return redis.conf and the health check."""
    check = (PROJECT / "files" / "healthcheck.sh").read_text()
    return [
        redis_conf_file(settings),
        DesiredFile(f"{settings.root}/config/healthcheck.sh", check, mode=0o500, **_owner(settings)),
    ]


def redis_conf_file(settings: Settings) -> DesiredFile:
    """Return redis.conf. It contains no secret."""
    return DesiredFile(f"{settings.root}/config/redis.conf", _redis_conf(settings), **_owner(settings))


def activedefrag_file(settings: Settings, text: str = "activedefrag no\n") -> DesiredFile:
    """Return the file that turns active defragmentation off, or on with another text."""
    return DesiredFile(f"{settings.root}/{paths.ACTIVEDEFRAG_FILE}", text, **_owner(settings))


def _redis_conf(settings: Settings) -> str:
    return template(
        "redis.conf.j2",
        settings=settings,
        sections=redis_conf.directives(settings),
        includes=redis_conf.includes(settings),
    )


# The inspection of a host recognizes the command by this comment.
_COMMAND = "#!/bin/sh\n# Runs redisctl, written by Redoubt. A deploy overwrites changes made here.\n"


def redisctl_program(settings: Settings) -> list[DesiredFile]:
    """Return redisctl and the command that runs it."""
    program = f"{settings.root}/{paths.PROGRAM}"
    return [
        DesiredProgram(program, mode=0o755, uid=0, gid=0, program=redisctl_bundle.archive()),
        DesiredFile(redisctl_path(settings), f'{_COMMAND}exec {program} "$@"\n', mode=0o755, uid=0, gid=0),
    ]


def redisctl_config(settings: Settings) -> DesiredFile:
    """Return redisctl.json, which describes the instance to redisctl."""
    config = schema.Config(
        name=settings.redis_name,
        root=Path(settings.root),
        session_keys=settings.session_keys,
        image=settings.redis_image,
        settings=settings.digest,
        stop_grace=settings.stop_grace_period,
        start_timeout=settings.start_timeout,
        restart=settings.redis_restart,
        uid=settings.redis_uid,
        gid=settings.redis_gid,
        log_max_size=settings.redis_logfile_max_size,
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
    """Return the settings with which the next deploy compares its own.

    They are written once Redis runs with them.
    """
    text = json.dumps(settings.with_effect("live", "restart"), indent=2)
    return DesiredFile(f"{settings.root}/{paths.DEPLOYED_SETTINGS}", f"{text}\n", mode=0o600, uid=0, gid=0)


def redisctl_path(settings: Settings) -> str:
    """Return the command by which root operates the instance."""
    return paths.command(settings.redis_name)


def log_units(settings: Settings) -> tuple[str, str]:
    """Return the names of the timer and the service that rotate Redis's log file."""
    return paths.unit(settings.redis_name, paths.LOG_TIMER), paths.unit(settings.redis_name, paths.LOG_SERVICE)


def log_rotation(settings: Settings) -> list[DesiredFile]:
    """Return what rotates Redis's log file: a configuration and units.

    The host's own timer runs logrotate only once a day.
    """
    config, (timer, service) = paths.logrotate_file(settings.redis_name), log_units(settings)
    sources = {
        config: "logrotate.j2",
        f"{paths.SYSTEMD_UNITS}/{service}": "logs.service.j2",
        f"{paths.SYSTEMD_UNITS}/{timer}": "logs.timer.j2",
    }
    return [
        DesiredFile(path, template(source, s=settings, config=config), mode=0o644, uid=0, gid=0)
        for path, source in sources.items()
    ]


def template(name: str, **values: Any) -> str:
    """Render a file of templates/."""
    return environment().get_template(name).render(**values)


# One environment compiles each template once, however many hosts a deploy has.
@cache
def environment() -> Environment:
    """Return the environment of templates/."""
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
    """Return a value for redis.conf.

    Only an empty value needs quotes: several words are several arguments.
    """
    return value or '""'
