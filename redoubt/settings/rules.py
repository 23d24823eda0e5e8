"""Rules between settings."""

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path

from redoubt.redis_conf import managed_directives
from redoubt.settings.model import PERIODS, RESERVED_USERS, Settings, default_memory_limit, smallest_memory_limit
from redoubt.sizes import format_size

# -- Relations between settings. Each names the fields it reads: it is left out when one of them is wrong
# by itself, so that one mistake is reported once.
Rule = tuple[tuple[str, ...], Callable[[Settings], str | None]]


def _memory_fits(s: Settings) -> str | None:
    smallest = smallest_memory_limit(s.redis_maxmemory)
    if s.memory_limit >= smallest:
        return None
    return (
        f"redis_container_memory = {format_size(s.memory_limit)} leaves no room beside redis_maxmemory = "
        f"{format_size(s.redis_maxmemory)}: forks, buffers and fragmentation need more, and the kernel would kill "
        f"Redis. The smallest limit that works is {format_size(smallest)}; leave it out for "
        f"{format_size(default_memory_limit(s.redis_maxmemory))}"
    )


def _nofile_fits(s: Settings) -> str | None:
    if s.nofile >= s.redis_maxclients + 32:
        return None
    return (
        f"redis_container_nofile = {s.nofile} is too low for redis_maxclients = {s.redis_maxclients}: "
        f"Redis needs at least {s.redis_maxclients + 32} and would lower maxclients by itself"
    )


def _archive_named(s: Settings) -> str | None:
    if s.redis_image_source == "archive":
        if not s.redis_image_archive:
            return "redis_image_source = 'archive' needs redis_image_archive, the path of a file made by 'docker save'"
        if not Path(s.redis_image_archive).is_file():
            return f"redis_image_archive = {s.redis_image_archive!r}: there is no such file on this machine"
        if "@" in s.redis_image:
            return "redis_image names a digest, which an archive cannot carry: name the tag alone"
    elif s.redis_image_archive:
        return "redis_image_archive is set, but redis_image_source = 'registry' does not use it"
    return None


def _commands_distinct(s: Settings) -> str | None:
    both = sorted(set(s.redis_disabled_commands) & set(s.redis_renamed_commands))
    return f"{', '.join(both)}: in redis_disabled_commands and in redis_renamed_commands; choose one" if both else None


def _commands_usable(s: Settings) -> str | None:
    # What the health check, clients' logins, RQ and the deploy itself cannot do without.
    needed = {
        "AUTH",
        "HELLO",
        "PING",
        "ECHO",
        "GET",
        "SET",
        "DEL",
        "INFO",
        "ROLE",
        "EVALSHA",
        "SCRIPT",
        "ACL",
        "CLIENT",
    }
    lost = sorted(needed & {*s.redis_disabled_commands, *s.redis_renamed_commands})
    return f"{', '.join(lost)}: cannot be disabled or renamed; logins, the health check or RQ call it" if lost else None


def _open_to_all(s: Settings) -> list[str]:
    return [address for address in s.redis_bind if ipaddress.ip_address(address).is_unspecified]


def _not_open_to_everybody(s: Settings) -> str | None:
    if not _open_to_all(s) or s.redis_allow_from or s.redis_tls == "required":
        return None
    return (
        f"redis_bind: {', '.join(_open_to_all(s))} publishes Redis on every address of the host, past ufw and without "
        "encryption. Name an address of a private network, or the networks that may come in redis_allow_from "
        "(['0.0.0.0/0', '::/0'] if it is to be everybody), or set redis_tls = 'required'"
    )


def _tls_ports_distinct(s: Settings) -> str | None:
    if s.redis_tls != "both" or s.redis_tls_port != s.redis_port:
        return None
    return f"redis_tls_port = {s.redis_tls_port} is redis_port as well; with redis_tls = 'both' they are two"


def _tls_files_named(s: Settings) -> str | None:
    files = {name: getattr(s, name) for name in ("redis_tls_cert", "redis_tls_key", "redis_tls_ca")}
    given = [name for name, path in files.items() if path]
    if s.redis_tls_source == "ca" or s.redis_tls == "off":
        why = "redis_tls = 'off'" if s.redis_tls == "off" else "redis_tls_source = 'ca'"
        return f"{', '.join(given)}: set, but {why} does not use it" if given else None
    if missing := [name for name in files if name not in given]:
        return f"redis_tls_source = 'files' needs {', '.join(missing)} as well"
    if lost := [f"{name} = {path!r}" for name, path in files.items() if not Path(path).is_file()]:
        return f"{', '.join(lost)}: there is no such file on this machine"
    return None


def _tls_names_known(s: Settings) -> str | None:
    if s.redis_tls == "off" or s.redis_tls_source == "files" or s.redis_tls_names or not _open_to_all(s):
        return None
    return (
        f"redis_tls_names: redis_bind = {', '.join(_open_to_all(s))} does not say by which names or addresses clients "
        "reach this host, and its certificate has to: name them"
    )


def _secrets_command_named(s: Settings) -> str | None:
    if (s.redis_secrets_source == "command") == bool(s.redis_secrets_command):
        return None
    if s.redis_secrets_command:
        return f"redis_secrets_command is set, but redis_secrets_source = {s.redis_secrets_source!r} does not use it"
    return "redis_secrets_source = 'command' needs redis_secrets_command, such as ['./vault-secrets']"


def _users_usable(s: Settings) -> str | None:
    found = []
    for name, user in s.redis_users.items():
        if name in RESERVED_USERS:
            found.append(f"{name}: there is a user of this name already; choose another")
        if user.role == "metrics" and user.keys:
            found.append(f"{name}: the role metrics sees numbers and no keys; leave keys out")
        if user.role not in ("metrics", "custom") and not user.keys:
            found.append(f"{name}: the role {user.role} needs keys, such as ['{name}:*']")
        if user.role in ("session", "queue", "cache") and "*" in user.keys:
            found.append(f"{name}: keys = '*' are those of all others too; name a prefix, such as '{name}:*'")
        if user.role == "custom" and not user.rules:
            found.append(f"{name}: the role custom needs rules, such as '+get +set'")
    return f"redis_users: {'; '.join(found)}" if found else None


def _persistence_kept(s: Settings) -> str | None:
    if not s.redis_appendonly and not s.redis_save:
        return "redis_appendonly = False and redis_save = '': nothing would survive a restart; keep one of them"
    return None


def _app_services_named(s: Settings) -> str | None:
    wrong = [name for name in s.redis_app_services if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name)]
    if wrong:
        return f"redis_app_services: {', '.join(map(repr, wrong))} is not a name for a Compose service"
    if s.redis_name in s.redis_app_services:
        return f"redis_app_services: {s.redis_name!r} is the name of the Redis service itself"
    return None


def _ca_given_to_services(s: Settings) -> str | None:
    if s.redis_tls != "off":
        return None
    wanted = [
        name
        for name, service in s.redis_app_services.items()
        if any("ca.crt" in (one, isinstance(one, dict) and one.get("source")) for one in service.get("secrets") or ())
    ]
    if not wanted:
        return None
    return f"redis_app_services: {', '.join(wanted)} has the secret ca.crt, and there is none with redis_tls = 'off'"


def _extra_config_is_extra(s: Settings) -> str | None:
    clash = sorted(set(s.redis_extra_config) & managed_directives(s))
    return f"redis_extra_config: {', '.join(clash)} is set by Redoubt; use its own setting" if clash else None


def _some_backup_kept(s: Settings) -> str | None:
    if any(s.backups_kept.values()):
        return None
    return "redis_backup_keep_hourly, _daily, _weekly and _monthly are all 0: no backup would stay; keep some"


def _repository_files_given(s: Settings) -> str | None:
    given, used = s.redis_backup_repository_files, s.repository_files_used
    if unused := sorted(set(given) - set(used)):
        why = f"redis_backup_restic_repository = {s.redis_backup_restic_repository!r}"
        return f"redis_backup_repository_files: {', '.join(unused)}: set, but {why} does not use it"
    # Without these SSH would ask, and nobody is there at night.
    if s.redis_backup_restic_repository.startswith("sftp:") and (
        missing := [name for name in used if name not in given]
    ):
        return f"redis_backup_repository_files: a repository reached by SFTP needs {' and '.join(missing)} as well"
    if lost := [f"{name} = {path!r}" for name, path in given.items() if not Path(path).is_file()]:
        return f"redis_backup_repository_files: {', '.join(lost)}: there is no such file on this machine"
    return None


CROSS_FIELD_RULES: tuple[Rule, ...] = (
    (("redis_maxmemory", "redis_container_memory"), _memory_fits),
    (("redis_maxclients", "redis_container_nofile"), _nofile_fits),
    (("redis_image", "redis_image_source", "redis_image_archive"), _archive_named),
    (("redis_disabled_commands", "redis_renamed_commands"), _commands_distinct),
    (("redis_disabled_commands", "redis_renamed_commands"), _commands_usable),
    (("redis_bind", "redis_allow_from", "redis_tls"), _not_open_to_everybody),
    (("redis_tls", "redis_port", "redis_tls_port"), _tls_ports_distinct),
    (("redis_tls", "redis_tls_source", "redis_tls_cert", "redis_tls_key", "redis_tls_ca"), _tls_files_named),
    (("redis_tls", "redis_tls_source", "redis_tls_names", "redis_bind"), _tls_names_known),
    (("redis_secrets_source", "redis_secrets_command"), _secrets_command_named),
    (("redis_users",), _users_usable),
    (("redis_appendonly", "redis_save"), _persistence_kept),
    (tuple(f"redis_backup_keep_{period}" for period in PERIODS), _some_backup_kept),
    (("redis_backup_restic_repository", "redis_backup_repository_files"), _repository_files_given),
    (("redis_app_services", "redis_name"), _app_services_named),
    (("redis_app_services", "redis_tls"), _ca_given_to_services),
    (("redis_extra_config",), _extra_config_is_extra),
)
