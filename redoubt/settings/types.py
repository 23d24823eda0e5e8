"""The types of settings, with the checks of single values."""

import ipaddress
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

from redoubt import key_patterns
from redoubt.sizes import parse_docker_size, parse_redis_size

Engine = Literal["redis", "valkey"]

# Characters of a pattern of keys, and its wildcards. More take too long to compare with other patterns.
MAX_PATTERN, MAX_WILDCARDS = 200, 10

TITLES: dict[Engine, str] = {"redis": "Redis", "valkey": "Valkey"}

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HOST_NAME = rf"{_LABEL}(\.{_LABEL})*"

# Credentials that restic can use, by the start of the repository's address.
REPOSITORY_FILES: Mapping[str, tuple[str, ...]] = {
    "/": (),
    "sftp:": ("ssh_key", "known_hosts"),
    "s3:": ("aws_credentials", "ca_certificate"),
    "gs:": ("google_credentials",),
    "rest:": ("ca_certificate", "client_certificate"),
}
# Files with secrets that the container of Redis sees.
SERVER_SECRETS = ("health", "commands.conf", "generation")

_REPOSITORY = (
    r"/[A-Za-z0-9._/-]*[A-Za-z0-9_-]",
    # The two forms of sftp: user@host:path, and a URL, which can have a port. ssh would read a user or host that begins
    # with "-" as an option.
    rf"sftp:([A-Za-z0-9_][A-Za-z0-9._-]*@)?{HOST_NAME}:[A-Za-z0-9._/~-]+",
    rf"sftp://([A-Za-z0-9_][A-Za-z0-9._-]*@)?({HOST_NAME}|\[[0-9a-fA-F:.]+\])(:\d{{1,5}})?/[A-Za-z0-9._/~-]+",
    r"(s3|gs|rest):[A-Za-z0-9][A-Za-z0-9._:/\[\]-]*",
)


def matching(pattern: str, words: str) -> AfterValidator:
    """Return the check of a text by a pattern; ``words`` describe it to the operator."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{value!r} is not {words}")
        return value

    return AfterValidator(check)


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number")
    return value


def _one_line(value: str) -> str:
    if "\n" in value or "\r" in value:
        raise ValueError("must not contain a line break")
    return value


def _absolute(value: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9._/-]*[A-Za-z0-9_-]", value) or ".." in value or "//" in value:
        raise ValueError(
            f"{value!r} is not an absolute path of letters, digits, '.', '_' and '-' (no '..' and no '//')"
        )
    return value


def _address(value: object) -> str:
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        raise ValueError(f"{value!r} is not an IP address, for example 127.0.0.1 or ::1") from None


def _network(value: object) -> str:
    try:
        return str(ipaddress.ip_network(str(value)))
    except ValueError as error:
        raise ValueError(f"{value!r} is not a network, for example 10.0.0.0/24 or 10.0.0.7 ({error})") from None


def _edge_subnet(value: object) -> str:
    text = _network(value)
    parsed = ipaddress.ip_network(text)
    if parsed.version != 4 or not 16 <= parsed.prefixlen <= 28:
        raise ValueError(f"{value!r} is not an IPv4 network of 16 to 65536 addresses, for example 198.18.7.16/28")
    if parsed.is_loopback or parsed.is_multicast or parsed.is_link_local or parsed.is_unspecified:
        raise ValueError(f"{value!r} is reserved by the kernel: use a private network, for example 198.18.7.16/28")
    return text


def _certificate_name(value: object) -> str:
    text = str(value)
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    if not re.fullmatch(rf"(\*\.)?{HOST_NAME}", text) or re.fullmatch(r"[\d.]+", text):
        raise ValueError(f"{value!r} is not a host name (for example redis-1.example.com) or an IP address")
    return text


def check_save_points(value: str) -> str:
    """Return save points with single spaces. Raises ValueError."""
    numbers = value.split()
    if len(numbers) % 2 or not all(number.isdigit() and int(number) > 0 for number in numbers):
        raise ValueError(
            f"{value!r} is not a list of '<seconds> <changes>' pairs, for example '900 1 300 10' ('' turns it off)"
        )
    return " ".join(numbers)


def check_keyspace_events(value: str) -> str:
    """Check the classes of keyspace events. Raises ValueError."""
    unknown = set(value) - set("KEg$lshzxetdmnocrA")
    if unknown:
        raise ValueError(f"{value!r} contains {''.join(sorted(unknown))!r}, which is not a class of keyspace events")
    if value and not set(value) & set("KE"):
        raise ValueError(f"{value!r} publishes nothing: add K (keyspace) or E (keyevent)")
    return value


def check_image(value: str) -> str:
    """Check an image reference, which must have a version. Raises ValueError."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._:/-]*?(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?", value):
        raise ValueError(f"{value!r} is not an image reference, for example docker.io/library/redis:8.10.2")
    name, _, digest = value.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if not digest and tag in ("", "latest"):
        raise ValueError(f"{value!r} has no version, so the next deploy could upgrade Redis: use a tag or a digest")
    return value


def _schedule(value: str) -> str:
    if value and not re.fullmatch(r"[A-Za-z0-9*][A-Za-z0-9*:.,/~+_ -]*", value):
        raise ValueError(
            f"{value!r} is not a calendar expression of systemd, for example daily or '*-*-* 03:00:00' ('' turns "
            "backups off)"
        )
    return value


def _repository(value: str) -> str:
    if re.search(r":[^@]*:[^@]*@", value):
        # "secret" keeps the value out of the message.
        raise PydanticCustomError(
            "secret",
            "the address contains a password, which every user of the host could see: remove it, and provide "
            "credentials as files (redis_backup_repository_files)",
        )
    if value and not any(re.fullmatch(form, value) for form in _REPOSITORY):
        raise ValueError(
            f"{value!r} is not a supported repository: use an absolute path, sftp:user@host:/path, "
            "s3:https://host/bucket, gs:bucket:/path or rest:https://host/path (for all others restic reads the "
            "credentials only from its environment)"
        )
    return value


def check_acl_rules(value: str) -> str:
    """Return ACL rules for commands with single spaces.

    ``redoubt.acl.problems`` checks what they allow. Raises ValueError for other rules.
    """
    rules = value.split()
    if invalid := [rule for rule in rules if not re.fullmatch(r"[+-](@[a-z]+|[a-z0-9_.-]+(\|[a-z0-9_-]+)?)", rule)]:
        raise ValueError(
            f"{invalid[0]!r} is not a command rule, for example +get, -sort or +@hash (keys and channels have "
            "their own lists)"
        )
    return " ".join(rules)


def _app_service(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise PydanticCustomError(
            "secret", "cannot be written to a Compose file: {error}", {"error": str(error)}
        ) from None
    for part, kinds in (("secrets", (list,)), ("networks", (list, dict)), ("depends_on", (list, dict))):
        if part in value and not isinstance(value[part], (*kinds, tuple)):
            raise ValueError(
                f"{part} must be a list{' or a dictionary' if dict in kinds else ''}, as in a Compose file"
            )
    return value


def _pattern(value: str) -> str:
    if len(value) > MAX_PATTERN:
        raise ValueError(f"has {len(value)} characters; a pattern has at most {MAX_PATTERN}")
    if (count := key_patterns.wildcards(value)) > MAX_WILDCARDS:
        raise ValueError(f"{value!r} has {count} wildcards (*, ? and [...]); a pattern has at most {MAX_WILDCARDS}")
    return value


def split_words(value: object) -> object:
    """Split the words of a string, as the command line gives a list."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _command_name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z]+", value):
        raise ValueError(f"{value!r} is not the name of a Redis command")
    return value.upper()


RedisSize = Annotated[int, BeforeValidator(parse_redis_size)]
DockerSize = Annotated[int, BeforeValidator(parse_docker_size)]
Int = Annotated[int, BeforeValidator(_not_bool)]
Float = Annotated[float, BeforeValidator(_not_bool)]
Line = Annotated[str, AfterValidator(_one_line)]
HostPath = Annotated[str, AfterValidator(_absolute)]
Network = Annotated[str, BeforeValidator(_network)]
EdgeSubnet = Annotated[str, BeforeValidator(_edge_subnet)]
Address = Annotated[str, BeforeValidator(_address)]
CertificateName = Annotated[str, BeforeValidator(_certificate_name)]
Command = Annotated[str, BeforeValidator(_command_name)]
Schedule = Annotated[str, AfterValidator(_schedule)]
Repository = Annotated[str, AfterValidator(_repository)]
RepositoryFile = Literal[
    "ssh_key", "known_hosts", "aws_credentials", "google_credentials", "ca_certificate", "client_certificate"
]
# One word of an ACL rule, without characters that an ACL file or redis-cli would interpret.
Pattern = Annotated[
    str,
    matching(r"[!#-&(-\[\]-~]+", "a pattern without spaces, quotes and backslashes: 'shop:*'"),
    AfterValidator(_pattern),
]
UserName = Annotated[
    str, matching(r"[a-z][a-z0-9_-]{0,30}", "a user name of up to 31 lower-case letters, digits, '_' and '-'")
]
# A service of the user, as in a Compose file. A deploy adds to these three parts of it.
AppService = Annotated[dict[str, Any], AfterValidator(_app_service)]
