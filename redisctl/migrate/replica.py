"""A copy that follows another Redis: a scratch Redis that is its replica, until somebody ends it.

It is of the instance's image and listens on its own socket alone. The instance takes no part in it. It outlives the
command that started it, and the verbs that clear up after themselves leave it alone.
"""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from redisctl.core import scratch_redis
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE, REDIS_GID, REDIS_UID
from redisctl.core.instance import Instance, error_text
from redisctl.core.keyspace import keyspace
from redisctl.migrate.source import SourceServer, is_final, trouble

LABEL = "redoubt.import"
# As many as Redis takes here: those of the source may be more than it tells.
DATABASES = 1024
SAVING = 3600
_POLL = 0.1

COPYING, LOADING, FOLLOWS, DOWN = "copying", "loading", "follows", "down"

# What is asked of a copy, and what a source sends that changes nothing. All else was written by somebody.
_SEEN = (
    "ping info select multi exec replconf publish spublish auth hello client config time type pexpiretime pttl ttl "
    "strlen llen hlen scard zcard xlen get lrange hgetall smembers zrange xrange scan randomkey dbsize bgsave save "
    "lastsave role command"
)
_QUIET = frozenset(_SEEN.split())
_REMOVALS = frozenset({"del", "unlink"})


@dataclass(frozen=True)
class Progress:
    """How far a copy came.

    ``percent`` is of the first copy; ``offset`` is how many bytes of the source's writes it has; ``trouble`` is what it
    says of itself, in its own words. ``written`` are the commands that it was sent so far, by name.
    """

    stage: str
    percent: float
    offset: int
    databases: dict[str, dict[str, int]]
    memory: int
    written: dict[str, int]
    trouble: str = ""
    down: int = 0

    @property
    def keys(self) -> int:
        """Keys in all databases."""
        return sum(database["keys"] for database in self.databases.values())


@dataclass(frozen=True)
class Replica:
    """The copy of an instance's import, in its directory. ``memory`` is what it may take, in bytes."""

    instance: Instance
    place: Path
    memory: int

    @property
    def container(self) -> str:
        """Its container's name."""
        return f"{self.instance.name}-import"

    def begin(self, source: SourceServer) -> None:
        """Start it. Raises Failure."""
        self.place.mkdir(mode=0o700)
        os.chown(self.place, REDIS_UID, REDIS_GID)
        options = {
            "databases": str(DATABASES),
            "replicaof": f"{source.host} {source.port}",
            "replica-serve-stale-data": "yes",
            "replica-read-only": "yes",
            # A Sentinel there must not make it the primary.
            "replica-priority": "0",
            "replica-announced": "no",
            "rdb-del-sync-files": "yes",
        }
        if source.password:
            options["masterauth"] = quoted(source.password)
            if source.user:
                options["masteruser"] = quoted(source.user)
        if source.tls:
            options |= self._tls(source)
        scratch_redis.start(
            self.instance, self.container, self.place, options, self.memory, label=LABEL, network="host"
        )

    def _tls(self, source: SourceServer) -> dict[str, str]:
        options = {"tls-replication": "yes"}
        cert, key = (Path(source.cert), Path(source.key)) if source.cert else _own_certificate(self.place)
        for name, file in (("ca-cert", Path(source.ca)), ("cert", cert), ("key", key)):
            inside = self.place / f"{name}.pem"
            if file != inside:
                _copy(file, inside)
            inside.chmod(0o400)
            os.chown(inside, REDIS_UID, REDIS_GID)
            options[f"tls-{name}-file"] = f"/data/{inside.name}"
        return options

    def client(self, db: int = 0) -> Redis:
        """A client of it, which does not decode. Raises Failure where it has ended."""
        return scratch_redis.client(self.container, self.memory, db=db)

    def read(self) -> Progress:
        """How far it came. Raises Failure where it has ended, or is gone."""
        words = trouble(scratch_redis.log(self.container, 60))
        try:
            with self.client() as redis:
                info: dict[str, Any] = redis.info("all")
        except RedisError as error:
            # Loading, it answers now and then.
            return Progress(LOADING, 0.0, 0, {}, 0, {}, error_text(error))
        return progress(info, words)

    def save(self) -> Path:
        """Have it write a snapshot of what it has now. Raises Failure."""
        with self.client() as redis:
            redis.bgsave()
            deadline = time.monotonic() + SAVING
            while (info := redis.info("persistence"))["rdb_bgsave_in_progress"]:
                if time.monotonic() > deadline:
                    raise Failure(f"the copy saved for {SAVING / 3600:.0f} h")
                time.sleep(_POLL)
        if info["rdb_last_bgsave_status"] != "ok":
            raise Failure(f"the copy could not be saved: is the disk of {self.place} full?")
        return self.place / RDB_FILE

    def end(self) -> None:
        """Remove it and its data, if it is there."""
        subprocess.run(["docker", "rm", "--force", self.container], capture_output=True, timeout=120, check=False)
        shutil.rmtree(self.place, ignore_errors=True)


def _own_certificate(place: Path) -> tuple[Path, Path]:
    """A certificate that nobody knows: Redis speaks no TLS without one, and shows it only to who asks for one."""
    cert, key = place / "cert.pem", place / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-days", "365", "-subj", "/CN=redisctl import", "-keyout", str(key), "-out", str(cert)]
    try:
        subprocess.run(words, capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        raise Failure(
            "Redis needs a certificate of its own to replicate by TLS, and openssl is not here to make one: "
            "apt-get install openssl, or give --cert and --key"
        ) from None
    return cert, key


def _copy(file: Path, target: Path) -> None:
    try:
        shutil.copyfile(file, target)
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}") from None


def quoted(text: str) -> str:
    """A word as redis.conf has it, whatever is in it."""
    return (
        '"' + "".join(chr(one) if chr(one).isalnum() and one < 128 else f"\\x{one:02x}" for one in text.encode()) + '"'
    )


def progress(info: dict[str, Any], words: str) -> Progress:
    """How far a copy came, from its INFO and what its log says is wrong."""
    follows = info.get("master_link_status") == "up"
    # One that is refused asks for a copy again and again.
    copying, loading = info.get("master_sync_in_progress") and not is_final(words), info.get("loading")
    whole = int(info.get("master_sync_total_bytes", 0))
    # A primary that sends what it has not on disk does not say how much it will be.
    percent = 100.0 * int(info.get("master_sync_read_bytes", 0)) / whole if copying and whole > 0 else 0.0
    if loading:
        percent = float(info.get("loading_loaded_perc", 0))
    written: dict[str, int] = {}
    for name, told in info.items():
        # Of commands with parts, such as XGROUP, the sum.
        command = name.removeprefix("cmdstat_").partition("|")[0]
        if command != name.partition("|")[0] and command not in _QUIET:
            written[command] = written.get(command, 0) + int(told["calls"])
    return Progress(
        stage=LOADING if loading else COPYING if copying else FOLLOWS if follows else DOWN,
        percent=100.0 if follows else percent,
        offset=int(info.get("slave_repl_offset", 0)),
        databases={name: {"keys": told["keys"], "expires": told["expires"]} for name, told in keyspace(info).items()},
        memory=int(info.get("used_memory", 0)),
        written=written,
        trouble="" if follows else words,
        down=int(info.get("master_link_down_since_seconds", 0)),
    )


def writes(before: Progress, after: Progress, gone: int) -> dict[str, int]:
    """Commands that somebody sent to the source between two looks. ``gone`` keys it removed by itself meanwhile."""
    found = {name: calls - before.written.get(name, 0) for name, calls in after.written.items()}
    removed = sum(found.pop(name, 0) for name in _REMOVALS)
    if removed > gone:
        found["del"] = removed - gone
    return {name: calls for name, calls in sorted(found.items()) if calls > 0}
