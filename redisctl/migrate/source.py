"""Another Redis, whose data is to come here: how it is reached, what it says of itself, and its refusals in words."""

import re
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    RedisError,
)
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import TimeoutError as TooSlow
from redis.retry import Retry

from redisctl.core.errors import Failure
from redisctl.core.instance import error_text
from redisctl.core.keyspace import keyspace

# Seconds until it has to be reached, and to answer.
REACH, ANSWER = 5, 30
# What a user there needs: to replicate, and to compare.
REPLICATE = "+psync +replconf +ping"
RULES = f"{REPLICATE} +info +select +time +@read ~*"
PREFIX = "redoubt:health:"


@dataclass(frozen=True)
class SourceServer:
    """Where it listens, and who logs in. ``ca``, ``cert`` and ``key`` are files with certificates in PEM."""

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
        """In words."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def connect(self, db: int = 0) -> Redis:
        """A client of a database of it. It does not decode, and never retries."""
        tls: dict[str, Any] = {}
        if self.tls:
            tls = {"ssl": True, "ssl_ca_certs": self.ca, "ssl_check_hostname": True}
            if self.cert:
                tls |= {"ssl_certfile": self.cert, "ssl_keyfile": self.key}
        return Redis(
            host=self.host,
            port=self.port,
            db=db,
            username=self.user or None,
            password=self.password or None,
            socket_connect_timeout=REACH,
            socket_timeout=ANSWER,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            **tls,
        )


@dataclass(frozen=True)
class SourceFacts:
    """What it says of itself. Sizes are in bytes; ``databases`` are keys and keys with a TTL by name."""

    version: str
    run_id: str
    memory: int
    memory_peak: int
    is_cluster: bool
    databases: dict[str, dict[str, int]]

    @property
    def keys(self) -> int:
        """Keys in all databases."""
        return sum(database["keys"] for database in self.databases.values())

    @property
    def has_absolute_expiry(self) -> bool:
        """Whether it tells the moment at which a key ends."""
        return int(self.version.partition(".")[0]) >= 7


def parse(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` or ``[ADDRESS]:PORT``. Raises Failure."""
    found = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\]:(\d+)|([A-Za-z0-9._-]+):(\d+)", text)
    if not found:
        # Not the text: it may be a URL with a password in it.
        raise Failure("--from is HOST:PORT and nothing else; the password is asked for, or read from --password-file")
    port = int(found[2] or found[4])
    if not 0 < port < 65536:
        raise Failure(f"--from: {port} is no port")
    return found[1] or found[3], port


def fetch_facts(source: SourceServer) -> SourceFacts:
    """Ask it what it is. Raises Failure."""
    with source.connect() as redis:
        try:
            redis.ping()
            return parse_facts(redis.info("all"))
        except RedisError as error:
            raise refusal(source, error) from None


def check_rights(source: SourceServer) -> None:
    """See that its user may do what an import needs, as far as that shows without doing it. Raises Failure."""
    with source.connect() as redis:
        try:
            redis.time()
            redis.execute_command("SCAN", "0", "COUNT", "1")
            # Without more it changes nothing: whether it may be called is all that is asked.
            redis.execute_command("REPLCONF")
        except RedisError as error:
            raise refusal(source, error) from None


def parse_facts(info: dict[str, Any]) -> SourceFacts:
    """What INFO says."""
    return SourceFacts(
        version=str(info.get("redis_version", "0")),
        run_id=str(info.get("run_id", "")),
        memory=int(info.get("used_memory", 0)),
        memory_peak=int(info.get("used_memory_peak", 0)),
        is_cluster=bool(info.get("cluster_enabled")),
        databases={
            name: {"keys": database["keys"], "expires": database["expires"]}
            for name, database in keyspace(info).items()
        },
    )


def refusal(source: SourceServer, error: RedisError) -> Failure:
    """Why it cannot be used, and what to do, from what a client was told."""
    said = error_text(error).rstrip(".")
    if isinstance(error, AuthenticationError) or "WRONGPASS" in said or "invalid password" in said:
        who = f"user {source.user}" if source.user else "its default user"
        return Failure(f"{source.name} does not let {who} in: Redis says: {said}. Mend --user or the password")
    if isinstance(error, NoPermissionError):
        return Failure(f"{source.name}: Redis says: {said}. {rights(source)}")
    if "unknown command" in said:
        return Failure(f"{source.name}: Redis says: {said}. {MANAGED}")
    if isinstance(error, (NotConnected, TooSlow)):
        return Failure(f"{source.name} cannot be reached: {said}. {_way(source, said)}")
    return Failure(f"{source.name}: Redis says: {said}")


MANAGED = (
    "It lets nobody replicate, as services that manage Redis do. Take its data as a file there (an export, a snapshot, "
    "or redis-cli --rdb), bring it to this host, and: redisctl restore FILE"
)


def rights(source: SourceServer) -> str:
    """What to give the user there."""
    return f"There, as its administrator: ACL SETUSER {source.user or 'default'} {RULES}"


def _way(source: SourceServer, said: str) -> str:
    lower = said.lower()
    if "ssl" in lower or "certificate" in lower:
        if "hostname" in lower or "ip address mismatch" in lower:
            return "Call it by a name that is in its certificate"
        return "Is --ca the CA of its certificate? Where it wants certificates of clients: --cert and --key"
    if "closed" in lower or "reset" in lower:
        if not source.tls:
            return "Where it speaks TLS: --tls --ca FILE"
        if not source.cert:
            return "Where it wants certificates of clients: --cert and --key"
    return "Does it listen where this host reaches it (bind, protected-mode), and does no firewall stand between?"


# -- What a replica writes into its log

_MARKS = re.compile(r"^\d+:[A-Z] .{20,30}? [*#.-] ")
_DATA = (
    r"RDB format version|Wrong signature|can't load|Failed trying to load the (?:MASTER|PRIMARY)|Internal error in RDB|"
    r"Bad file format|Unexpected EOF|Unrecoverable"
)
_REFUSED = r"Unable to AUTH|WRONGPASS|NOAUTH|NOPERM|unknown command"
_TROUBLE = re.compile(
    rf"{_DATA}|{_REFUSED}|error|Error|aborted|Failed|FATAL|Can't|Timeout|timeout|Connection (?:refused|lost)"
)


def said(lines: list[str]) -> list[str]:
    """What a log says, without the marks of process and time."""
    return [_MARKS.sub("", line).strip() for line in lines]


def trouble(lines: list[str]) -> str:
    """What a replica says is wrong since it last got on, in its own words; empty when nothing is."""
    found: list[str] = []
    for line in said(lines):
        if re.search(r"sync: Finished with success|Successful partial resync|Connecting to (?:MASTER|PRIMARY)", line):
            # Of an attempt that failed the words stay until one has succeeded.
            found = [] if "Connecting" not in line else found[-6:]
        elif "Full resync from" in line:
            # It is let in. Whether it can read what comes is yet to be seen.
            found = [one for one in found if not re.search(_REFUSED, one)]
        elif _TROUBLE.search(line) and line not in found:
            found.append(line)
    return " / ".join(found[-4:])


def is_final(words: str) -> bool:
    """Whether the same will be said however often it is tried."""
    return bool(re.search(rf"{_DATA}|{_REFUSED}", words))


def next_step(source: SourceServer, words: str) -> str:
    """What to do about what a replica says."""
    if re.search("NOPERM", words):
        return rights(source)
    if re.search("unknown command", words):
        return MANAGED
    if re.search("Unable to AUTH|WRONGPASS|NOAUTH", words):
        return "The password was changed there: cancel, and start with the new one"
    if re.search(_DATA, words):
        return (
            "Its data is of a newer version, of another engine or of a module, and the image of this instance does "
            "not read it: deploy a newer redis_image here first"
        )
    return "It tries again by itself"
