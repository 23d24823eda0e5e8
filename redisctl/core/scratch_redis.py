"""A Redis beside the instance, of the same image, to load data in: without network, bounded, gone afterwards.

It keeps keys whose time is over, as a replica does that waits for its primary's word: so what was loaded can be counted
and compared with what it was, however long ago.
"""

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as NotConnected
from redis.retry import Retry

from redisctl.core import aof_manifest
from redisctl.core.aof_manifest import read_manifest
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE, REDIS_GID, REDIS_UID
from redisctl.core.formatting import size
from redisctl.core.instance import Instance
from redisctl.core.lock import LABEL

# Of memory that the data took where it was: fragmentation and buffers of another process, and its own needs in bytes.
# A million sessions and jobs took 1.0 times what they took before, see docs/backups.md.
MEMORY_FACTOR, BASE_MEMORY = 1.2, 128 * 1024**2
# Seconds that loading may take: 1 TB at 100 MB/s are three hours.
LOAD_TIMEOUT = 4 * 3600
_PAUSE = 0.05
CONF = "scratch.conf"

_OPTIONS = {
    "port": "0",
    "unixsocket": "/run/redis/redis.sock",
    "unixsocketperm": "700",
    "dir": "/data",
    "save": '""',
    "appendonly": "no",
    "appendfsync": "no",
    "auto-aof-rewrite-percentage": "0",
    # What was cut is not whole.
    "aof-load-truncated": "no",
    "loglevel": "notice",
}
# A primary that is never there.
KEEP_EXPIRED = {"replicaof": "127.0.0.1 1", "replica-serve-stale-data": "yes"}


class NotLoadable(Failure):
    """Data that Redis refuses, in its own words."""


@dataclass(frozen=True)
class Source:
    """Data files to be loaded: a snapshot, or a directory with a log of writes. ``memory`` is what they need, in bytes.

    ``databases`` is how many there are at least.
    """

    path: Path
    memory: int
    databases: int = 16

    @property
    def is_aof(self) -> bool:
        """Whether it is a log of writes."""
        return self.path.is_dir()


@contextmanager
def loaded_redis(instance: Instance, source: Source) -> Iterator[Redis]:
    """A client of a Redis that has loaded the source, which is not altered. It does not decode.

    Raises Failure, with Redis's own words, where it does not load.
    """
    ensure_memory(source.memory)
    with directory(instance) as place:
        options: dict[str, str] = {"databases": str(source.databases), **KEEP_EXPIRED}
        if source.is_aof:
            stage_aof(source.path, place)
            options |= {"appendonly": "yes"}
        else:
            (place / RDB_FILE).symlink_to(f"/source/{source.path.name}")
        mounted = source.path if source.is_aof else source.path.parent
        with running_redis(instance, place, options, source.memory, mounts={str(mounted): "/source"}) as redis:
            yield redis


@contextmanager
def directory(instance: Instance) -> Iterator[Path]:
    """A directory for a scratch container's data, removed afterwards."""
    place = instance.backups / f".scratch-{secrets.token_hex(4)}.partial"
    place.mkdir(mode=0o700)
    os.chown(place, REDIS_UID, REDIS_GID)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def stage_aof(log: Path, place: Path) -> None:
    """Lay out a log of writes for a Redis that may not write to it: it writes to one more part, which is its own."""
    parts = read_manifest(log)
    more = aof_manifest.Part("scratch.incr.aof", max(part.seq for part in parts) + 1, aof_manifest.INCREMENT)
    laid = place / aof_manifest.DIRECTORY
    laid.mkdir(mode=0o700)
    for part in parts:
        (laid / part.name).symlink_to(f"/source/{part.name}")
    (laid / more.name).touch(mode=0o600)
    (laid / aof_manifest.MANIFEST).write_text(aof_manifest.to_text([*parts, more]))
    for path in (laid, laid / more.name, laid / aof_manifest.MANIFEST):
        os.chown(path, REDIS_UID, REDIS_GID)


@contextmanager
def running_redis(
    instance: Instance,
    place: Path,
    options: Mapping[str, str],
    memory: int,
    *,
    mounts: Mapping[str, str] | None = None,
    network: str = "none",
) -> Iterator[Redis]:
    """A client of a scratch Redis with its data in ``place``, which Redis owns, once it is loaded. It does not decode.

    ``mounts`` are further directories, which it only reads. Raises Failure where it does not start.
    """
    container = f"{instance.name}-scratch-{secrets.token_hex(4)}"
    # A log of writes has renamed commands under their names.
    names = instance.root / "secrets/server/commands.conf"
    text = names.read_text() if names.exists() else ""
    try:
        start(instance, container, place, options, memory, label=LABEL, mounts=mounts, network=network, more=text)
        with connected(container, memory) as redis:
            yield redis
    finally:
        # Where it never came to be, the engine says so, and that is right.
        subprocess.run(["docker", "rm", "--force", container], capture_output=True, timeout=120, check=False)
        (place / CONF).unlink(missing_ok=True)


def start(
    instance: Instance,
    container: str,
    place: Path,
    options: Mapping[str, str],
    memory: int,
    *,
    label: str,
    mounts: Mapping[str, str] | None = None,
    network: str = "none",
    more: str = "",
) -> None:
    """Start a scratch Redis under a name and a label, with further lines of configuration, and do not wait for it.

    What options and lines say is in a file that Redis and root alone read. Raises Failure where the engine refuses it.
    """
    conf = place / CONF
    conf.unlink(missing_ok=True)
    lines = [f"{name} {value}" for name, value in {**_OPTIONS, **options}.items()]
    with open(conf, "w", opener=_for_owner) as file:
        file.write("\n".join([*lines, more, ""]))
    os.chown(conf, REDIS_UID, REDIS_GID)
    volumes = {str(place): "/data:rw", **{path: f"{inside}:ro" for path, inside in (mounts or {}).items()}}
    _docker(
        *("run", "--detach", "--name", container, "--label", f"{label}={instance.name}", "--network", network),
        *("--user", f"{REDIS_UID}:{REDIS_GID}", "--read-only", "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges", "--security-opt", "label=disable", "--init"),
        # Beside the instance, not in its way.
        *("--memory", str(memory_needed(memory)), "--cpu-shares", "128", "--pids-limit", "64"),
        *("--log-driver", "json-file", "--log-opt", "max-size=4m"),
        *("--tmpfs", f"/run/redis:uid={REDIS_UID},gid={REDIS_GID},mode=0700,size=64k"),
        *(word for path, inside in volumes.items() for word in ("--volume", f"{path}:{inside}")),
        *("--entrypoint", "redis-server", instance.image_id, f"/data/{CONF}"),
    )


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o400)


def run_checker(instance: Instance, place: Path, *words: str) -> tuple[int, str]:
    """Run a program of the image over the files in ``place``, which Redis owns: its exit code and its words."""
    container = f"{instance.name}-scratch-{secrets.token_hex(4)}"
    program, *arguments = words
    done = subprocess.run(
        [
            *("docker", "run", "--rm", "--interactive", "--name", container, "--label", f"{LABEL}={instance.name}"),
            *("--network", "none", "--user", f"{REDIS_UID}:{REDIS_GID}", "--read-only", "--cap-drop", "ALL"),
            *("--security-opt", "no-new-privileges", "--security-opt", "label=disable", "--init"),
            *("--volume", f"{place}:/data:rw", "--workdir", "/data", "--cpu-shares", "128"),
            *("--entrypoint", program, instance.image_id, *arguments),
        ],
        # redis-check-aof asks before it cuts.
        input="y\n",
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=LOAD_TIMEOUT,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@contextmanager
def connected(container: str, memory: int) -> Iterator[Redis]:
    """A client of a scratch Redis, once it has loaded everything. Raises Failure where it ended."""
    deadline = time.monotonic() + LOAD_TIMEOUT
    while True:
        with client(container, memory) as redis:
            try:
                redis.ping()
            except (BusyLoadingError, NotConnected):
                pass
            else:
                yield redis
                return
        if time.monotonic() > deadline:
            raise Failure(f"it was not loaded within {LOAD_TIMEOUT / 3600:.0f} h")
        time.sleep(_PAUSE)


def client(container: str, memory: int, **options: Any) -> Redis:
    """A client of a scratch Redis that runs, whether it has loaded everything or not. Raises Failure where it ended."""
    state = json.loads(_docker("inspect", container))[0]["State"]
    if not state["Running"]:
        if state["OOMKilled"]:
            raise Failure(f"loading it took more than {size(memory_needed(memory))} of memory")
        raise NotLoadable(f"it cannot be loaded: {_last_words(container, state)}")
    return Redis(
        unix_socket_path=f"/proc/{state['Pid']}/root/run/redis/redis.sock",
        # It is asked in small steps, and has the least of the processor.
        socket_timeout=60,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        **options,
    )


def _last_words(container: str, state: Mapping[str, object]) -> str:
    lines = log(container)
    # What it says of its end, without the marks of process and time.
    said = [line.partition(" # ")[2] for line in lines if " # " in line and "WARNING" not in line]
    return " / ".join(said[-3:]) or f"it ended with {state.get('ExitCode')}"


def log(container: str, lines: int = 12) -> list[str]:
    """The last lines that a scratch Redis wrote."""
    words = ["docker", "logs", "--tail", str(lines), container]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    return (done.stdout + done.stderr).decode(errors="backslashreplace").splitlines()


def ensure_memory(memory: int) -> None:
    """Raise Failure where the host has no room for as much data once more."""
    free = free_memory()
    if free < memory_needed(memory):
        raise Failure(
            f"loading it takes {size(memory_needed(memory))} of memory for a while, and the host has {size(free)} "
            "left: it would push Redis out. Verify it on another host, or give this one more"
        )


def free_memory() -> int:
    """Bytes of memory that the host can give without swapping."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))


def memory_needed(memory: int) -> int:
    """What a scratch Redis may take for data that takes so many bytes where it was."""
    return int(memory * MEMORY_FACTOR) + BASE_MEMORY


def _docker(*words: str) -> str:
    try:
        done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        raise Failure("the engine did not answer within 120 s: systemctl status docker") from None
    if done.returncode != 0:
        raise Failure(f"the engine says: {done.stderr.strip()}")
    return done.stdout
