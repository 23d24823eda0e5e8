"""Rules between settings. Each returns what is wrong, or None."""

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path

from redoubt import acl
from redoubt.redis_conf import DATA_FILES, ROLES, managed_directives
from redoubt.settings.model import Settings
from redoubt.settings.sections.access import RESERVED_USERS
from redoubt.settings.sections.backup import PERIODS
from redoubt.sizes import format_size

# A rule with the settings that it reads. It is skipped if one of them is invalid by itself, so that a mistake is
# reported once.
Rule = tuple[tuple[str, ...], Callable[[Settings], str | None]]

# The health check, the login of clients, RQ or a deploy calls them by their own name.
_NEEDED_COMMANDS = frozenset(
    {
        *("AUTH", "HELLO", "PING", "ECHO", "CLIENT", "ACL", "INFO", "ROLE"),
        *("GET", "SET", "DEL", "EVALSHA", "SCRIPT"),
    }
)

# Redis itself needs this many files in addition to those of its clients (CONFIG_MIN_RESERVED_FDS in src/server.h).
_RESERVED_FILES = 32


# -- Image


def _image_archive(s: Settings) -> str | None:
    if s.redis_image_source == "registry":
        for name in ("redis_image_archive", "redis_image_archive_digest"):
            if getattr(s, name):
                return f"{name} is set, but redis_image_source = 'registry' does not use it"
        return None
    if not s.redis_image_archive:
        return "redis_image_source = 'archive' needs redis_image_archive: the path of a file made by 'docker save'"
    if not Path(s.redis_image_archive).is_file():
        return f"redis_image_archive = {s.redis_image_archive!r}: there is no such file on this machine"
    if "@" in s.redis_image:
        return "redis_image has a digest, which an archive cannot contain: use only the tag"
    return None


# -- Container


def _container_memory(s: Settings) -> str | None:
    smallest = s.smallest_memory_limit
    if s.memory_limit >= smallest:
        return None
    return (
        f"redis_container_memory = {format_size(s.memory_limit)} is too small for redis_maxmemory = "
        f"{format_size(s.redis_maxmemory)} and {format_size(s.client_memory)} for clients (redis_client_memory): "
        "forks, buffers and fragmentation need more memory, and the kernel would kill Redis. Use at least "
        f"{format_size(smallest)}, or remove the setting to get {format_size(s.default_memory_limit)}"
    )


def _max_value(s: Settings) -> str | None:
    if s.max_value * 4 <= s.client_memory:
        return None
    return (
        f"redis_max_value = {format_size(s.max_value)} is too large for redis_client_memory = "
        f"{format_size(s.client_memory)}: one client would use the memory of all. Use at most "
        f"{format_size(s.client_memory // 4)}, or raise redis_client_memory to {format_size(s.max_value * 4)}"
    )


def _container_nofile(s: Settings) -> str | None:
    smallest = s.connections + _RESERVED_FILES
    if s.nofile >= smallest:
        return None
    return (
        f"redis_container_nofile = {s.nofile} is too low for redis_maxclients = {s.redis_maxclients}: Redis would "
        f"lower maxclients. Use at least {smallest}, or remove the setting"
    )


def _clients_per_source(s: Settings) -> str | None:
    if s.maxclients_per_source <= s.redis_maxclients:
        return None
    return (
        f"redis_maxclients_per_source = {s.redis_maxclients_per_source} is above redis_maxclients = "
        f"{s.redis_maxclients}, which counts the connections of all sources: lower it, or raise redis_maxclients"
    )


# -- Access


def _commands_in_both(s: Settings) -> str | None:
    both = sorted(set(s.redis_disabled_commands) & set(s.redis_renamed_commands))
    if not both:
        return None
    return f"{', '.join(both)}: in both redis_disabled_commands and redis_renamed_commands; remove one of them"


def _needed_commands(s: Settings) -> str | None:
    missing = sorted(_NEEDED_COMMANDS & {*s.redis_disabled_commands, *s.redis_renamed_commands})
    if not missing:
        return None
    return f"{', '.join(missing)}: cannot be disabled or renamed, because logins, the health check or RQ need it"


def _secrets_command(s: Settings) -> str | None:
    if (s.redis_secrets_source == "command") == bool(s.redis_secrets_command):
        return None
    if s.redis_secrets_command:
        return f"redis_secrets_command is set, but redis_secrets_source = {s.redis_secrets_source!r} does not use it"
    return "redis_secrets_source = 'command' needs redis_secrets_command, for example ['./vault-secrets']"


def _users(s: Settings) -> str | None:
    problems = []
    for name, user in s.redis_users.items():
        if name in RESERVED_USERS:
            problems.append(f"{name}: every instance has a user or a file with this name; choose another name")
        if user.role == "metrics" and user.keys:
            problems.append(f"{name}: the role metrics reads no keys; remove keys")
        if user.role not in ("metrics", "custom") and not user.keys:
            problems.append(f"{name}: the role {user.role} needs keys, for example ['{name}:*']")
        if user.role == "custom" and not user.rules:
            problems.append(f"{name}: the role custom needs rules, for example '+get +set'")
    problems += acl.problems(s)
    return f"redis_users: {'; '.join(problems)}" if problems else None


# -- Network and TLS


def _unspecified_addresses(s: Settings) -> list[str]:
    return [address for address in s.redis_bind if ipaddress.ip_address(address).is_unspecified]


def _open_to_everyone(s: Settings) -> str | None:
    addresses = _unspecified_addresses(s)
    if not addresses or s.redis_allow_from or s.redis_tls == "required":
        return None
    return (
        f"redis_bind: {', '.join(addresses)} publishes Redis on every address of the host, past ufw and without "
        "encryption. Use an address of a private network, or name the networks of the clients in redis_allow_from "
        "(['0.0.0.0/0', '::/0'] for everyone), or set redis_tls = 'required'"
    )


def _tls_ports(s: Settings) -> str | None:
    if s.redis_tls != "both" or s.redis_tls_port != s.redis_port:
        return None
    return f"redis_tls_port = {s.redis_tls_port} is the same as redis_port, but redis_tls = 'both' needs two ports"


_SERVER_FILES = ("redis_tls_cert", "redis_tls_key", "redis_tls_ca")
_CLIENT_FILES = ("redis_tls_client_cert", "redis_tls_client_key")


def _tls_files(s: Settings) -> str | None:
    files = {name: getattr(s, name) for name in (*_SERVER_FILES, *_CLIENT_FILES)}
    given = [name for name, path in files.items() if path]
    if s.redis_tls == "off" or s.redis_tls_source == "ca":
        reason = "redis_tls = 'off'" if s.redis_tls == "off" else "redis_tls_source = 'ca'"
        return f"{', '.join(given)}: set, but {reason} does not use it" if given else None
    if missing := [name for name in _SERVER_FILES if name not in given]:
        return f"redis_tls_source = 'files' needs {', '.join(missing)} as well"
    missing = [name for name in _CLIENT_FILES if name not in given]
    if s.redis_tls_auth_clients == "yes" and missing:
        return (
            f"redis_tls_auth_clients = 'yes' needs {' and '.join(missing)} as well: Redis asks its health check for a "
            "certificate, too"
        )
    if len(missing) == 1:
        return f"{given[-1]} needs {missing[0]} as well"
    if absent := [f"{name} = {path!r}" for name, path in files.items() if path and not Path(path).is_file()]:
        return f"{', '.join(absent)}: there is no such file on this machine"
    return None


def _tls_names(s: Settings) -> str | None:
    addresses = _unspecified_addresses(s)
    if not addresses or s.redis_tls == "off" or s.redis_tls_source == "files" or s.redis_tls_names:
        return None
    return (
        f"redis_tls_names is missing: redis_bind = {', '.join(addresses)} does not say which names or addresses "
        "clients use, and the certificate must contain them. Name them in redis_tls_names"
    )


# -- Persistence and backups


def _persistence(s: Settings) -> str | None:
    if s.redis_appendonly or s.redis_save:
        return None
    return "redis_appendonly = False and redis_save = '': no data would survive a restart. Turn one of them on"


def _backups_to_keep(s: Settings) -> str | None:
    if any(s.backups_kept.values()):
        return None
    return (
        "redis_backup_keep_hourly, _daily, _weekly and _monthly are all 0: no backup would be kept. Raise one of them"
    )


def _repository_files(s: Settings) -> str | None:
    given, used = s.redis_backup_repository_files, s.repository_files_used
    if unused := sorted(set(given) - set(used)):
        reason = f"redis_backup_restic_repository = {s.redis_backup_restic_repository!r}"
        return f"redis_backup_repository_files: {', '.join(unused)}: set, but {reason} does not use it"
    # Without these files SSH would ask for a password or for a confirmation, which a timer cannot give.
    is_sftp = s.redis_backup_restic_repository.startswith("sftp:")
    if is_sftp and (missing := [name for name in used if name not in given]):
        return f"redis_backup_repository_files: an SFTP repository needs {' and '.join(missing)} as well"
    unusable = [f"{name} = {path!r}: {problem}" for name, path in given.items() if (problem := _text_problem(path))]
    return f"redis_backup_repository_files: {', '.join(unusable)}" if unusable else None


def _text_problem(path: str) -> str:
    """Return why a file on this machine cannot be read as text; empty if it can."""
    try:
        Path(path).read_text()
    except FileNotFoundError:
        return "there is no such file on this machine"
    except UnicodeDecodeError:
        return "this is not a text file"
    except (OSError, ValueError) as error:
        return f"it cannot be read: {getattr(error, 'strerror', error)}"
    return ""


# -- Application and further directives


def _app_service_names(s: Settings) -> str | None:
    invalid = [name for name in s.redis_app_services if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name)]
    if invalid:
        names = ", ".join(map(repr, invalid))
        return f"redis_app_services: {names} is not a valid name: use lower-case letters, digits, '_' and '-'"
    if s.redis_name in s.redis_app_services:
        return f"redis_app_services: {s.redis_name!r} is the name of the Redis service; choose another name"
    return None


def _app_services_with_ca(s: Settings) -> str | None:
    if s.redis_tls != "off":
        return None
    services = [
        name
        for name, service in s.redis_app_services.items()
        if any(
            "ca.crt" in (item, isinstance(item, dict) and item.get("source")) for item in service.get("secrets") or ()
        )
    ]
    if not services:
        return None
    return f"redis_app_services: {', '.join(services)} uses the secret ca.crt, which redis_tls = 'off' does not have"


def _extra_config(s: Settings) -> str | None:
    problems = [
        (managed_directives(s), "is managed by Redoubt; use the setting for it (docs/settings.md)"),
        (
            DATA_FILES,
            "names the files of the data: with another name Redis starts empty. Leave it out: backups, restores and "
            "health use Redis's own names",
        ),
        (
            ROLES,
            "makes Redis a replica or a node of a cluster, which replaces or moves its data. Leave it out; 'redisctl "
            "import' copies the data of another Redis (docs/import.md)",
        ),
    ]
    messages = [
        f"redis_extra_config: {', '.join(names)} {reason}"
        for directives, reason in problems
        if (names := sorted(directives & set(s.redis_extra_config)))
    ]
    return "; ".join(messages) or None


CROSS_FIELD_RULES: tuple[Rule, ...] = (
    (("redis_maxmemory", "redis_container_memory", "redis_client_memory", "redis_max_value"), _container_memory),
    (("redis_maxmemory", "redis_client_memory", "redis_max_value"), _max_value),
    (("redis_maxclients", "redis_container_nofile"), _container_nofile),
    (("redis_image", "redis_image_source", "redis_image_archive", "redis_image_archive_digest"), _image_archive),
    (("redis_maxclients", "redis_maxclients_per_source"), _clients_per_source),
    (("redis_disabled_commands", "redis_renamed_commands"), _commands_in_both),
    (("redis_disabled_commands", "redis_renamed_commands"), _needed_commands),
    (("redis_bind", "redis_allow_from", "redis_tls"), _open_to_everyone),
    (("redis_tls", "redis_port", "redis_tls_port"), _tls_ports),
    (("redis_tls", "redis_tls_source", "redis_tls_auth_clients", *_SERVER_FILES, *_CLIENT_FILES), _tls_files),
    (("redis_tls", "redis_tls_source", "redis_tls_names", "redis_bind"), _tls_names),
    (("redis_secrets_source", "redis_secrets_command"), _secrets_command),
    (("redis_users", "redis_image", "redis_engine", "redis_app_name", "redis_extra_config"), _users),
    (("redis_appendonly", "redis_save"), _persistence),
    (tuple(f"redis_backup_keep_{period}" for period in PERIODS), _backups_to_keep),
    (("redis_backup_restic_repository", "redis_backup_repository_files"), _repository_files),
    (("redis_app_services", "redis_name"), _app_service_names),
    (("redis_app_services", "redis_tls"), _app_services_with_ca),
    (("redis_extra_config",), _extra_config),
)
