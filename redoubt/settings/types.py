"""The types of settings, with the checks of single values."""

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from redoubt.sizes import parse_docker_size, parse_redis_size

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HOST_NAME = rf"{_LABEL}(\.{_LABEL})*"


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number")
    return value


def _one_line(value: str) -> str:
    if "\n" in value or "\r" in value:
        raise ValueError("a line break is not possible here")
    return value


def _absolute(value: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9._/-]*[A-Za-z0-9_-]", value) or ".." in value.split("/"):
        raise ValueError(f"{value!r} is not an absolute path of letters, digits, '.', '_' and '-' (no '..')")
    return value


def _address(value: object) -> str:
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        raise ValueError(f"{value!r} is not an IP address, such as 127.0.0.1 or ::1") from None


def _network(value: object) -> str:
    try:
        return str(ipaddress.ip_network(str(value)))
    except ValueError as error:
        raise ValueError(f"{value!r} is not a network such as 10.0.0.0/24 or 10.0.0.7 ({error})") from None


def _certificate_name(value: object) -> str:
    text = str(value)
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    if not re.fullmatch(rf"(\*\.)?{HOST_NAME}", text) or re.fullmatch(r"[\d.]+", text):
        raise ValueError(f"{value!r} is neither a name such as redis-1.example.com nor an IP address")
    return text


def check_save_points(value: str) -> str:
    numbers = value.split()
    if len(numbers) % 2 or not all(n.isdigit() and int(n) > 0 for n in numbers):
        raise ValueError(
            f"{value!r} is not a list of '<seconds> <changes>' pairs, such as '900 1 300 10' ('' turns it off)"
        )
    return " ".join(numbers)


def check_keyspace_events(value: str) -> str:
    unknown = set(value) - set("KEg$lshzxetdmnocrA")
    if unknown:
        raise ValueError(f"{value!r} holds {''.join(sorted(unknown))!r}, which is no class of event")
    if value and not set(value) & set("KE"):
        raise ValueError(f"{value!r} publishes nothing: it needs K (keyspace) or E (keyevent)")
    return value


def check_image(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._:/-]*?(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?", value):
        raise ValueError(f"{value!r} is not an image reference, such as docker.io/library/redis:8.10.2")
    name, _, digest = value.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if not digest and tag in ("", "latest"):
        raise ValueError(
            f"{value!r} names no version: pin a tag or a digest, or the next deploy may bring another Redis"
        )
    return value


def _schedule(value: str) -> str:
    if value and not re.fullmatch(r"[A-Za-z0-9*][A-Za-z0-9*:.,/~+_ -]*", value):
        raise ValueError(f"{value!r} is not a calendar event of systemd, such as daily or '*-*-* 03:00:00' ('': off)")
    return value


# What restic is given on the host to reach a repository, by the start of the repository's name: names of files.
REPOSITORY_FILES: Mapping[str, tuple[str, ...]] = {
    "/": (),
    "sftp:": ("ssh_key", "known_hosts"),
    "s3:": ("aws_credentials", "ca_certificate"),
    "gs:": ("google_credentials",),
    "rest:": ("ca_certificate", "client_certificate"),
}
_REPOSITORY = (
    r"/[A-Za-z0-9._/-]*[A-Za-z0-9_-]",
    # The two forms of sftp: user@host:path, and a URL, which can name a port. A name that begins with - is an option.
    rf"sftp:([A-Za-z0-9_][A-Za-z0-9._-]*@)?{HOST_NAME}:[A-Za-z0-9._/~-]+",
    rf"sftp://([A-Za-z0-9_][A-Za-z0-9._-]*@)?({HOST_NAME}|\[[0-9a-fA-F:.]+\])(:\d{{1,5}})?/[A-Za-z0-9._/~-]+",
    r"(s3|gs|rest):[A-Za-z0-9][A-Za-z0-9._:/\[\]-]*",
)


def _repository(value: str) -> str:
    if re.search(r":[^@]*:[^@]*@", value):
        # The value is not repeated: problems are shown and logged.
        raise PydanticCustomError(
            "secret",
            "the address holds a password, which everybody on the host would see: leave it out, and give credentials "
            "as files (redis_backup_repository_files)",
        )
    if value and not any(re.fullmatch(form, value) for form in _REPOSITORY):
        raise ValueError(
            f"{value!r} is no repository that can be used: an absolute path, sftp:user@host:/path, "
            "s3:https://host/bucket, gs:bucket:/path or rest:https://host/path (restic takes the credentials of "
            "others from its environment alone)"
        )
    return value


def check_acl_rules(value: str) -> str:
    rules = value.split()
    if wrong := [rule for rule in rules if not re.fullmatch(r"[+-](@[a-z]+|[a-z0-9_.-]+(\|[a-z0-9_-]+)?)", rule)]:
        raise ValueError(f"{wrong[0]!r} is not a rule such as +get, -sort or +@hash (keys and channels stand apart)")
    if wrong := [rule for rule in rules if rule[0] == "+" and rule[1:].partition("|")[0] in _ADMINISTRATION]:
        raise ValueError(f"{wrong[0]!r} is a way to everybody's data or to more rights: that is for admin alone")
    return " ".join(rules)


# A user with one of these could give itself the rest, read all keys or stop the server.
_ADMINISTRATION = {
    *("@all", "@admin", "@dangerous", "acl", "config", "module", "debug", "function", "keys", "monitor", "shutdown"),
    *("replicaof", "slaveof", "failover", "cluster", "sync", "psync", "migrate", "restore", "restore-asking"),
    *("flushall", "flushdb", "swapdb"),
}


def split_words(value: object) -> object:
    """A list, or its words as the command line gives them."""
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
Address = Annotated[str, BeforeValidator(_address)]
CertificateName = Annotated[str, BeforeValidator(_certificate_name)]
Command = Annotated[str, BeforeValidator(_command_name)]
Schedule = Annotated[str, AfterValidator(_schedule)]
Repository = Annotated[str, AfterValidator(_repository)]
RepositoryFile = Literal[
    "ssh_key", "known_hosts", "aws_credentials", "google_credentials", "ca_certificate", "client_certificate"
]
# One word of an ACL rule, which neither an ACL file nor redis-cli reads as something else.
Pattern = Annotated[str, Field(pattern=r"^[!#-&(-\[\]-~]+$")]
UserName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]


Engine = Literal["redis", "valkey"]


TITLES: dict[Engine, str] = {"redis": "Redis", "valkey": "Valkey"}
