"""The source of an import: its address, what it reports, what its errors mean."""

import re
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    RedisError,
)
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import TimeoutError as TooSlow

from redisctl.core.client import client
from redisctl.core.errors import Failure
from redisctl.core.instance import error_text
from redisctl.core.keyspace import keyspace

# Seconds to connect, and to answer.
CONNECT_TIMEOUT, ANSWER_TIMEOUT = 5, 30
# The rights that its user needs: to replicate, and to compare.
REPLICATE = "+psync +replconf +ping"
RULES = f"{REPLICATE} +info +select +time +@read ~*"
# Keys of the health check.
PREFIX = "redoubt:health:"


@dataclass(frozen=True)
class SourceServer:
    """The address of the source, and the user that logs in.

    ``ca``, ``cert`` and ``key`` are PEM files.
    """

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""

    @property
    def name(self) -> str:
        """Its address, for people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def connect(self, db: int = 0) -> Redis:
        """Return a client of a database that does not decode and never retries."""
        tls: dict[str, Any] = {}
        if self.tls:
            tls = {"ssl": True, "ssl_ca_certs": self.ca, "ssl_check_hostname": True}
            if self.cert:
                tls |= {"ssl_certfile": self.cert, "ssl_keyfile": self.key}
        return client(
            host=self.host,
            port=self.port,
            db=db,
            username=self.user or None,
            password=self.password or None,
            socket_connect_timeout=CONNECT_TIMEOUT,
            socket_timeout=ANSWER_TIMEOUT,
            **tls,
        )


@dataclass(frozen=True)
class SourceFacts:
    """What the source reports.

    Sizes are in bytes; ``databases`` are keys and keys with a TTL by name.
    """

    version: str
    run_id: str
    memory: int
    is_cluster: bool
    databases: dict[str, dict[str, int]]

    @property
    def keys(self) -> int:
        """The number of keys in all databases."""
        return sum(database["keys"] for database in self.databases.values())

    @property
    def has_absolute_expiry(self) -> bool:
        """Whether it knows PEXPIRETIME."""
        return int(self.version.partition(".")[0]) >= 7


def parse(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT`` or ``[ADDRESS]:PORT``. Raises Failure."""
    match = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\]:(\d+)|([A-Za-z0-9._-]+):(\d+)", text)
    if not match:
        # Without the text, which may be a URL with a password.
        raise Failure(
            "--from must be HOST:PORT and nothing else; redisctl asks for the password or reads --password-file. For a "
            "file: redisctl restore FILE"
        )
    port = int(match[2] or match[4])
    if not 0 < port < 65536:
        raise Failure(f"--from: {port} is not a port: use 1 to 65535")
    return match[1] or match[3], port


def fetch_facts(source: SourceServer) -> SourceFacts:
    """Ask it for its INFO. Raises Failure."""
    with source.connect() as redis:
        try:
            redis.ping()
            return parse_facts(redis.info("all"))
        except RedisError as error:
            raise refusal(source, error) from None


def check_rights(source: SourceServer) -> None:
    """Check the rights of the source's user, as far as possible without replicating.

    Raises Failure.
    """
    with source.connect() as redis:
        try:
            redis.time()
            redis.execute_command("SCAN", "0", "COUNT", "1")
            # Without arguments it changes nothing, but fails if the user may not call it.
            redis.execute_command("REPLCONF")
        except RedisError as error:
            raise refusal(source, error) from None


def parse_facts(info: dict[str, Any]) -> SourceFacts:
    """Parse INFO."""
    return SourceFacts(
        version=str(info.get("redis_version", "0")),
        run_id=str(info.get("run_id", "")),
        memory=int(info.get("used_memory", 0)),
        is_cluster=bool(info.get("cluster_enabled")),
        databases={
            name: {"keys": database["keys"], "expires": database["expires"]}
            for name, database in keyspace(info).items()
        },
    )


def refusal(source: SourceServer, error: RedisError) -> Failure:
    """Return a Failure that explains an error of the source, with a remedy."""
    message = error_text(error).rstrip(".")
    if isinstance(error, AuthenticationError) or "WRONGPASS" in message or "invalid password" in message:
        user = f"user {source.user}" if source.user else "the default user"
        return Failure(f"{source.name} refuses {user}: Redis reports: {message}. Correct --user or the password")
    if isinstance(error, NoPermissionError):
        return Failure(f"{source.name}: Redis reports: {message}. {rights(source)}")
    if "unknown command" in message:
        return Failure(f"{source.name}: Redis reports: {message}. {MANAGED}")
    if isinstance(error, (NotConnected, TooSlow)):
        return Failure(f"{source.name} cannot be reached: {message}. {_connection_remedy(source, message)}")
    return Failure(f"{source.name}: Redis reports: {message}")


MANAGED = (
    "It does not allow replication, like most managed services. Export its data as a file (an export, a snapshot, or "
    "redis-cli --rdb), copy it to this host, and run redisctl restore FILE"
)


def rights(source: SourceServer) -> str:
    """Return how to give its user the rights."""
    return f"On that Redis, as its administrator: ACL SETUSER {source.user or 'default'} {RULES}"


def _connection_remedy(source: SourceServer, message: str) -> str:
    lower = message.lower()
    if "ssl" in lower or "certificate" in lower:
        if "hostname" in lower or "ip address mismatch" in lower:
            return "Use a name or address that is in its certificate"
        return "Is --ca the CA of its certificate? If it asks for client certificates, set --cert and --key"
    if "closed" in lower or "reset" in lower:
        if not source.tls:
            return "If it uses TLS, set --tls --ca FILE"
        if not source.cert:
            return "If it asks for client certificates, set --cert and --key"
    return "Does it listen on an address that this host reaches (bind, protected-mode)? Is there a firewall in between?"


# -- Errors in the log of the copy

_PREFIX = re.compile(r"^\d+:[A-Z] .{20,30}? [*#.-] ")
_DATA = (
    r"RDB format version|Wrong signature|can't load|Failed trying to load the (?:MASTER|PRIMARY)|Internal error in RDB|"
    r"Bad file format|Unexpected EOF|Unrecoverable"
)
_REFUSED = r"Unable to AUTH|WRONGPASS|NOAUTH|NOPERM|unknown command"
_ERROR = re.compile(
    rf"{_DATA}|{_REFUSED}|error|Error|aborted|Failed|FATAL|Can't|Timeout|timeout|Connection (?:refused|lost)"
)


def messages(lines: list[str]) -> list[str]:
    """Return log lines without process and time."""
    return [_PREFIX.sub("", line).strip() for line in lines]


def replication_errors(lines: list[str]) -> str:
    """Return the errors that a replica has logged since its last success.

    Empty if there are none.
    """
    errors: list[str] = []
    for line in messages(lines):
        if re.search(r"sync: Finished with success|Successful partial resync|Connecting to (?:MASTER|PRIMARY)", line):
            # The errors of failed attempts stay until one succeeds.
            errors = [] if "Connecting" not in line else errors[-6:]
        elif "Full resync from" in line:
            # It is accepted now, but it may still be unable to read the data.
            errors = [error for error in errors if not re.search(_REFUSED, error)]
        elif _ERROR.search(line) and line not in errors:
            errors.append(line)
    return " / ".join(errors[-4:])


def is_final(errors: str) -> bool:
    """Say whether another attempt would fail in the same way."""
    return bool(re.search(rf"{_DATA}|{_REFUSED}", errors))


def next_step(source: SourceServer, errors: str) -> str:
    """Return what to do about errors of a replica."""
    if "NOPERM" in errors:
        return rights(source)
    if "unknown command" in errors:
        return MANAGED
    if re.search("Unable to AUTH|WRONGPASS|NOAUTH", errors):
        return "Its password has changed: cancel the import, and start it with the new one"
    if re.search(_DATA, errors):
        return (
            "The image of this instance cannot read its data, which is of a newer version, another engine or a module: "
            "deploy a newer redis_image first"
        )
    return "The copy keeps trying"
