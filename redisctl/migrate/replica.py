"""The copy of an import: a scratch Redis that replicates from another Redis.

It has the instance's image and listens only on its own socket, and the instance takes no part in it. It outlives the
command that started it; other verbs that remove leftover containers do not remove it.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from redisctl.core import process, scratch_redis
from redisctl.core.errors import Failure
from redisctl.core.files import copy, own
from redisctl.core.formatting import size
from redisctl.core.instance import Instance, error_text
from redisctl.core.keyspace import keyspace
from redisctl.core.scratch_redis import OutOfMemory
from redisctl.core.untrusted_files import UntrustedDirectory, remove_tree
from redisctl.migrate.source import SourceServer, is_final, replication_errors

LABEL = "redoubt.import"
# More than any source has: INFO shows only databases with keys.
DATABASES = 1024
# Seconds until the copy has saved, and until it has caught up.
SAVE_TIMEOUT = 3600
SYNC_TIMEOUT = 20
_POLL = 0.1

COPYING, LOADING, FOLLOWS, DOWN = "copying", "loading", "follows", "down"

# Commands that change nothing: those that redisctl sends to the copy, and those of the replication. Clients wrote all
# others.
_READS = (
    "ping info select multi exec replconf publish spublish auth hello client config time type pexpiretime pttl ttl "
    "strlen llen hlen scard zcard xlen get lrange hgetall smembers zrange xrange scan randomkey dbsize bgsave save "
    "lastsave role command memory"
)
_NO_WRITES = frozenset(_READS.split())
_REMOVALS = frozenset({"del", "unlink"})


@dataclass(frozen=True)
class Progress:
    """The progress of a copy.

    ``percent`` is that of the first copy; ``offset`` counts the bytes of the source's writes that it has received;
    ``errors`` are those in its log. ``written`` counts the write commands that it has received, by name.
    """

    stage: str
    percent: float
    offset: int
    databases: dict[str, dict[str, int]]
    memory: int
    written: dict[str, int]
    errors: str = ""
    down: int = 0

    @property
    def keys(self) -> int:
        """The number of keys in all databases."""
        return sum(database["keys"] for database in self.databases.values())


@dataclass(frozen=True)
class Replica:
    """The copy of an import, in its directory.

    ``memory`` is what its data took in the source, and ``limit`` what it may use, in bytes.
    """

    instance: Instance
    directory: Path
    memory: int
    limit: int

    @property
    def container(self) -> str:
        """The name of its container."""
        return f"{self.instance.name}-import"

    def begin(self, source: SourceServer) -> None:
        """Start the copy. Raises Failure."""
        # It is root's until everything is in it: from the start on Redis can write there.
        self.directory.mkdir(mode=0o700)
        options = {
            "databases": str(DATABASES),
            "replicaof": f"{source.host} {source.port}",
            "replica-serve-stale-data": "yes",
            "replica-read-only": "yes",
            # A Sentinel of the source must not promote it.
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
        os.chown(self.directory, *self.instance.owner)
        scratch_redis.start(
            self.instance, self.container, self.directory, options, self.limit, label=LABEL, network="host"
        )

    def _tls(self, source: SourceServer) -> dict[str, str]:
        options = {"tls-replication": "yes"}
        cert, key = (Path(source.cert), Path(source.key)) if source.cert else _own_certificate(self.directory)
        for name, file in (("ca-cert", Path(source.ca)), ("cert", cert), ("key", key)):
            inside = self.directory / f"{name}.pem"
            if file != inside:
                _copy(file, inside)
            own(inside, self.instance.owner)
            options[f"tls-{name}-file"] = f"/data/{inside.name}"
        return options

    def client(self, db: int = 0) -> Redis:
        """Return a client of the copy that does not decode.

        Raises Ended if the copy does not run.
        """
        try:
            return scratch_redis.client(self.container, self.instance.owner, self.limit, db=db)
        except OutOfMemory:
            raise OutOfMemory(
                f"it was killed for lack of memory. It may use up to {size(self.limit)}, its data should take about "
                f"{size(scratch_redis.memory_needed(self.memory))}, and the host has "
                f"{size(scratch_redis.free_memory())} free now: stop something else or give the host more memory, and "
                "start the import again, or bring the data as a file (redisctl restore FILE)"
            ) from None

    def read(self) -> Progress:
        """Return its progress.

        Raises Ended if the copy does not run, and Failure if Docker does not answer.
        """
        errors = replication_errors(scratch_redis.log(self.container, 60))
        try:
            with self.client() as redis:
                info: dict[str, Any] = redis.info("all")
        except RedisError as error:
            # While it loads, it answers only now and then.
            return Progress(LOADING, 0.0, 0, {}, 0, {}, error_text(error))
        return progress(info, errors)

    def save(self) -> Path:
        """Write an RDB snapshot of its data; return the file. Raises Failure."""
        with self.client() as redis:
            return scratch_redis.write_rdb(redis, self.directory)

    def end(self) -> None:
        """Remove the copy and its data, if it exists."""
        process.run(["docker", "rm", "--force", self.container], timeout=120)
        remove_tree(self.directory, ignore_errors=True)


def _own_certificate(directory: Path) -> tuple[Path, Path]:
    """Create a certificate for the copy, and return the paths of it and its key.

    Redis needs one to use TLS, and shows it only to servers that ask for one. Raises Failure.
    """
    cert, key = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "365", "-subj", "/CN=redisctl import", "-keyout", str(key), "-out", str(cert)]
    try:
        process.check(command)
    except Failure as error:
        raise Failure(
            f"the copy needs a certificate to replicate over TLS, and openssl cannot create it: {error}. Run 'apt-get "
            "install openssl', or set --cert and --key"
        ) from None
    return cert, key


def _copy(file: Path, target: Path) -> None:
    try:
        with UntrustedDirectory(file.resolve().parent).open_file(file.resolve().name) as source:
            copy(source, None, target)
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}") from None


def quoted(text: str) -> str:
    """Quote a word for redis.conf, whatever characters it has."""
    escaped = (chr(byte) if byte < 128 and chr(byte).isalnum() else f"\\x{byte:02x}" for byte in text.encode())
    return f'"{"".join(escaped)}"'


def progress(info: dict[str, Any], errors: str) -> Progress:
    """Return the progress of a copy from its INFO and the errors in its log."""
    follows = info.get("master_link_status") == "up"
    # A copy that is refused starts its first copy again and again.
    copying, loading = info.get("master_sync_in_progress") and not is_final(errors), info.get("loading")
    total = int(info.get("master_sync_total_bytes", 0))
    # With diskless replication, the primary does not send the total size.
    percent = 100.0 * int(info.get("master_sync_read_bytes", 0)) / total if copying and total > 0 else 0.0
    if loading:
        percent = float(info.get("loading_loaded_perc", 0))
    written: dict[str, int] = {}
    for name, values in info.items():
        # Subcommands, such as those of XGROUP, are summed up.
        command = name.removeprefix("cmdstat_").partition("|")[0]
        is_command = command != name.partition("|")[0]
        if is_command and command not in _NO_WRITES and name != "cmdstat_function|list":
            written[command] = written.get(command, 0) + int(values["calls"])
    return Progress(
        stage=LOADING if loading else COPYING if copying else FOLLOWS if follows else DOWN,
        percent=100.0 if follows else percent,
        offset=int(info.get("slave_repl_offset", 0)),
        databases={name: {"keys": db["keys"], "expires": db["expires"]} for name, db in keyspace(info).items()},
        memory=int(info.get("used_memory", 0)),
        written=written,
        errors="" if follows else errors,
        down=int(info.get("master_link_down_since_seconds", 0)),
    )


def writes(before: Progress, after: Progress, removals: int) -> dict[str, int]:
    """Return the commands of clients between two samples.

    ``removals`` is the number of keys that expired or were evicted.
    """
    commands = {name: calls - before.written.get(name, 0) for name, calls in after.written.items()}
    removed = sum(commands.pop(name, 0) for name in _REMOVALS)
    if removed > removals:
        commands["del"] = removed - removals
    return {name: calls for name, calls in sorted(commands.items()) if calls > 0}


def describe_writes(written: dict[str, int]) -> str:
    """Return commands with their counts, for people."""
    return ", ".join(f"{name.upper()} {count}" for name, count in written.items())


def wait_for_offset(source: Redis, copy: Redis) -> None:
    """Wait until a replica has everything that its primary has now.

    Raises Failure if that takes too long.
    """
    target = int(source.info("replication")["master_repl_offset"])
    deadline = time.monotonic() + SYNC_TIMEOUT
    while True:
        state = copy.info("replication")
        if state.get("master_link_status") == "up" and int(state["slave_repl_offset"]) >= target:
            return
        if time.monotonic() > deadline:
            raise Failure(f"the copy did not catch up within {SYNC_TIMEOUT} s: see redisctl import status")
        time.sleep(0.01)
