"""A scratch Redis: a second server of the instance's image that loads data.

It has no network and limited memory. It keeps expired keys, like a replica that waits for its primary. So loaded data
can be counted and compared with what it was, however old it is.
"""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from redisctl import paths
from redisctl.core import aof_manifest, docker, process
from redisctl.core.aof_manifest import read_manifest
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE, REDIS_GID, REDIS_UID
from redisctl.core.formatting import size
from redisctl.core.instance import Instance
from redisctl.core.lock import LABEL

# Memory of a scratch Redis: the data's, times a factor for fragmentation and buffers, plus its own in bytes. A million
# sessions and jobs took as much memory as before, see docs/backups.md.
MEMORY_FACTOR, BASE_MEMORY = 1.2, 128 * 1024**2
# Seconds that loading may take: 1 TB at 100 MB/s takes three hours.
LOAD_TIMEOUT = 4 * 3600
# Seconds for a Docker command.
_DOCKER_TIMEOUT = 120
_POLL = 0.05
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
    # A truncated AOF must be an error here.
    "aof-load-truncated": "no",
    "loglevel": "notice",
}
# The primary does not exist.
KEEP_EXPIRED = {"replicaof": "127.0.0.1 1", "replica-serve-stale-data": "yes"}

_HARDENING = (
    *("--user", f"{REDIS_UID}:{REDIS_GID}", "--read-only", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges", "--security-opt", "label=disable", "--init"),
)


class NotLoadable(Failure):
    """Redis does not load the data; the message is what Redis logs."""


@dataclass(frozen=True)
class Source:
    """Data to load: an RDB snapshot, or the directory of an AOF.

    ``memory`` is what the data needs, in bytes. ``databases`` is the least number of databases.
    """

    path: Path
    memory: int
    databases: int = 16

    @property
    def is_aof(self) -> bool:
        """Say whether it is an AOF."""
        return self.path.is_dir()


@contextmanager
def loaded_redis(instance: Instance, source: Source) -> Iterator[Redis]:
    """Give a client of a Redis that has loaded the source.

    The client does not decode answers, and the source is only read. Raises NotLoadable with what Redis logs if it does
    not load the data, and Failure if there is not enough memory.
    """
    ensure_memory(source.memory)
    with scratch_directory(instance) as directory:
        options: dict[str, str] = {"databases": str(source.databases), **KEEP_EXPIRED}
        if source.is_aof:
            stage_aof(source.path, directory)
            options |= {"appendonly": "yes"}
        else:
            (directory / RDB_FILE).symlink_to(f"/source/{source.path.name}")
        mounted = source.path if source.is_aof else source.path.parent
        with running_redis(instance, directory, options, source.memory, mounts={str(mounted): "/source"}) as redis:
            yield redis


@contextmanager
def scratch_directory(instance: Instance) -> Iterator[Path]:
    """Create a directory for the data of a scratch Redis, and remove it at the end."""
    directory = instance.backups / f".scratch-{secrets.token_hex(4)}.partial"
    directory.mkdir(mode=0o700)
    os.chown(directory, REDIS_UID, REDIS_GID)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def stage_aof(aof: Path, directory: Path) -> None:
    """Stage an AOF for a Redis that may not write to it.

    That Redis writes to an additional increment of its own.
    """
    parts = read_manifest(aof)
    own_part = aof_manifest.Part("scratch.incr.aof", max(part.seq for part in parts) + 1, aof_manifest.INCREMENT)
    staged = directory / aof_manifest.DIRECTORY
    staged.mkdir(mode=0o700)
    for part in parts:
        (staged / part.name).symlink_to(f"/source/{part.name}")
    (staged / own_part.name).touch(mode=0o600)
    (staged / aof_manifest.MANIFEST).write_text(aof_manifest.to_text([*parts, own_part]))
    for path in (staged, staged / own_part.name, staged / aof_manifest.MANIFEST):
        os.chown(path, REDIS_UID, REDIS_GID)


@contextmanager
def running_redis(
    instance: Instance,
    directory: Path,
    options: Mapping[str, str],
    memory: int,
    *,
    mounts: Mapping[str, str] | None = None,
    network: str = "none",
) -> Iterator[Redis]:
    """Start a scratch Redis on ``directory`` and give a client once it has loaded it.

    The client does not decode answers. ``mounts`` are further directories, read-only. Raises Failure if Redis does not
    start.
    """
    container = f"{instance.name}-scratch-{secrets.token_hex(4)}"
    # An AOF contains renamed commands under their new names.
    renames = instance.root / paths.SERVER_SECRETS / "commands.conf"
    text = renames.read_text() if renames.exists() else ""
    try:
        start(instance, container, directory, options, memory, label=LABEL, mounts=mounts, network=network, more=text)
        with connected(container, memory) as redis:
            yield redis
    finally:
        # It fails if the container was never created.
        process.run(["docker", "rm", "--force", container], timeout=_DOCKER_TIMEOUT)
        (directory / CONF).unlink(missing_ok=True)


def start(
    instance: Instance,
    container: str,
    directory: Path,
    options: Mapping[str, str],
    memory: int,
    *,
    label: str,
    mounts: Mapping[str, str] | None = None,
    network: str = "none",
    more: str = "",
) -> None:
    """Start a scratch Redis under a name and a label, and do not wait for it.

    ``options`` and ``more``, further lines of configuration, are in a file that only Redis and root can read. Raises
    Failure if Docker refuses it.
    """
    conf = directory / CONF
    conf.unlink(missing_ok=True)
    lines = [f"{name} {value}" for name, value in {**_OPTIONS, **options}.items()]
    with open(conf, "w", opener=_open_private) as file:
        file.write("\n".join([*lines, more, ""]))
    os.chown(conf, REDIS_UID, REDIS_GID)
    volumes = {str(directory): "/data:rw", **{path: f"{target}:ro" for path, target in (mounts or {}).items()}}
    command = [
        *("docker", "run", "--detach", "--name", container, "--label", f"{label}={instance.name}"),
        *("--network", network, *_HARDENING),
        # The instance comes first.
        *("--memory", str(memory_needed(memory)), "--cpu-shares", "128", "--pids-limit", "64"),
        *("--log-driver", "json-file", "--log-opt", "max-size=4m"),
        *("--tmpfs", f"/run/redis:uid={REDIS_UID},gid={REDIS_GID},mode=0700,size=64k"),
        *(word for path, target in volumes.items() for word in ("--volume", f"{path}:{target}")),
        *("--entrypoint", "redis-server", instance.image_id, f"/data/{CONF}"),
    ]
    process.check(command, timeout=_DOCKER_TIMEOUT)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o400)


def run_checker(instance: Instance, directory: Path, program: str, *arguments: str) -> tuple[int, str]:
    """Run a program of the image on the files in ``directory``, which Redis owns.

    Returns exit code and output.
    """
    container = f"{instance.name}-scratch-{secrets.token_hex(4)}"
    command = [
        *("docker", "run", "--rm", "--interactive", "--name", container, "--label", f"{LABEL}={instance.name}"),
        *("--network", "none", *_HARDENING),
        *("--volume", f"{directory}:/data:rw", "--workdir", "/data", "--cpu-shares", "128"),
        *("--entrypoint", program, instance.image_id, *arguments),
    ]
    # redis-check-aof asks before it cuts.
    result = process.run(command, stdin="y\n", timeout=LOAD_TIMEOUT)
    return result.returncode, result.stdout + result.stderr


@contextmanager
def connected(container: str, memory: int) -> Iterator[Redis]:
    """Give a client of a scratch Redis once it has loaded everything.

    Raises Failure if Redis exits.
    """
    deadline = monotonic() + LOAD_TIMEOUT
    while True:
        with client(container, memory) as redis:
            try:
                redis.ping()
            except (BusyLoadingError, RedisConnectionError):
                pass
            else:
                yield redis
                return
        if monotonic() > deadline:
            raise Failure(f"the data was not loaded within {LOAD_TIMEOUT / 3600:.0f} h: is the disk slow?")
        sleep(_POLL)


def client(container: str, memory: int, **options: Any) -> Redis:
    """Return a client of a scratch Redis that runs, even if it is still loading.

    Raises Failure.
    """
    inspected = docker.container(container)
    if not inspected:
        raise Failure(f"the container {container} is gone: something removed it")
    state = inspected["State"]
    if not state.get("Running"):
        if state.get("OOMKilled"):
            raise Failure(f"loading the data took more than {size(memory_needed(memory))} of memory")
        raise NotLoadable(f"the data does not load: {_last_messages(container, state)}")
    return Redis(
        unix_socket_path=f"/proc/{state['Pid']}/root/run/redis/redis.sock",
        # It has the lowest share of the CPU.
        socket_timeout=60,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        **options,
    )


def _last_messages(container: str, state: Mapping[str, object]) -> str:
    # Warnings of Redis, without process and time.
    messages = [line.partition(" # ")[2] for line in log(container) if " # " in line and "WARNING" not in line]
    return " / ".join(messages[-3:]) or f"Redis exited with {state.get('ExitCode')}"


def log(container: str, lines: int = 12) -> list[str]:
    """Return the last lines that a scratch Redis logged."""
    result = process.run(["docker", "logs", "--tail", str(lines), container])
    return (result.stdout + result.stderr).splitlines()


def ensure_memory(memory: int) -> None:
    """Raise Failure if the host has not enough free memory to load the data."""
    free = free_memory()
    if free < memory_needed(memory):
        raise Failure(
            f"loading the data takes {size(memory_needed(memory))} of memory for a while, and the host has "
            f"{size(free)} left: verify it on another host, or give this one more memory"
        )


def free_memory() -> int:
    """Return the bytes of memory that the host can give without swapping."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))


def memory_needed(memory: int) -> int:
    """Return what a scratch Redis may use for data of this many bytes."""
    return int(memory * MEMORY_FACTOR) + BASE_MEMORY
