"""A scratch Redis: a second server of the instance's image, to load data.

It has no network and limited memory. Its modules and encodings are those of the instance, so that it needs as much
memory. It validates what it loads, because a damaged value can crash a server when a client reads it.
"""

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from redis import Redis
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from redisctl import paths
from redisctl.core import docker, process, progress, redis_socket
from redisctl.core.client import client as bounded_client
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE
from redisctl.core.formatting import size
from redisctl.core.instance import Instance
from redisctl.core.lock import LABEL
from redisctl.core.untrusted_files import UntrustedDirectory, remove_tree

# Memory of a scratch Redis: the data's, times a factor for fragmentation and buffers, plus its own in bytes. A million
# sessions and jobs took as much memory as before, see docs/backups.md.
MEMORY_FACTOR, BASE_MEMORY = 1.2, 128 * 1024**2
# Seconds that loading may take: 1 TB at 100 MB/s takes three hours.
LOAD_TIMEOUT = 4 * 3600
# Seconds that a save of the loaded data may take.
SAVE_TIMEOUT = 4 * 3600
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
    # Validates every value completely.
    "sanitize-dump-payload": "yes",
    "loglevel": "notice",
}
# Directives of redis.conf that decide whether data loads, and how much memory it takes.
_LOADING = re.compile(
    r"^(?:loadmodule|maxmemory-policy|lfu-[a-z-]+|(?:hash|list|set|zset|stream|hll)-[a-z-]+) .*$", re.MULTILINE
)
# Bytes of the host's memory that a scratch Redis leaves free at least.
_RESERVE = 256 * 1024**2


class Ended(Failure):
    """A scratch Redis has ended by itself, or something removed it."""


class NotLoadable(Ended):
    """Redis does not load the data; the message is what Redis logs."""


class OutOfMemory(Ended):
    """The data needs more memory than its scratch Redis may use."""


@contextmanager
def scratch_directory(instance: Instance) -> Iterator[Path]:
    """Create a directory for the data of a scratch Redis, and remove it at the end."""
    name = f".scratch-{secrets.token_hex(4)}.partial"
    instance.untrusted(instance.backups).make_directory(name)
    try:
        yield instance.backups / name
    finally:
        remove_tree(instance.backups / name, ignore_errors=True)


def scratch_name(instance: Instance) -> str:
    """Return a new name for a container."""
    return f"{instance.name}-scratch-{secrets.token_hex(4)}"


@contextmanager
def running_redis(
    instance: Instance,
    container: str,
    directory: Path,
    options: Mapping[str, str],
    memory: int | None,
    *,
    mounts: Mapping[str, str] | None = None,
    more: str = "",
) -> Iterator[Redis]:
    """Start a scratch Redis on ``directory`` and give a client once it has loaded it.

    The client does not decode answers. ``memory`` is what the data should need; None if it is unknown. A Redis that
    needs more starts again with more, up to what the host has free. ``mounts`` are further directories, read-only,
    ``more`` further lines of configuration. Raises Failure if Redis does not start, and OutOfMemory.
    """
    maxmemory = int(instance.config_value("maxmemory", "0"))
    limits = memory_limits(memory, maxmemory, free_memory())
    for limit in limits:
        with ExitStack() as stack:
            stack.callback(_remove, instance, container, directory)
            start(instance, container, directory, options, limit, label=LABEL, mounts=mounts, more=more)
            try:
                redis = stack.enter_context(connected(container, instance.owner, limit))
            except OutOfMemory:
                continue
            yield redis
            return
    raise OutOfMemory(describe_shortage(limits[-1], memory, free_memory()))


def _remove(instance: Instance, container: str, directory: Path) -> None:
    # It fails if the container was never created.
    process.run(["docker", "rm", "--force", container], timeout=_DOCKER_TIMEOUT)
    instance.untrusted(directory).remove_file(CONF)


def loading_directives(instance: Instance) -> list[str]:
    """Return the lines of redis.conf that decide how data loads.

    Another image may not know those of the present redis.conf, so it gets those of its own.
    """
    if instance.image_override:
        text = instance.config_override
    else:
        text = (instance.root / paths.CONFIG / "redis.conf").read_text()
    return [match[0] for match in _LOADING.finditer(text)]


def start(
    instance: Instance,
    container: str,
    directory: Path,
    options: Mapping[str, str],
    limit: int,
    *,
    label: str,
    mounts: Mapping[str, str] | None = None,
    network: str = "none",
    more: str = "",
) -> None:
    """Start a scratch Redis under a name and a label, and do not wait for it.

    ``limit`` is the container's memory in bytes. ``options`` and ``more``, further lines of configuration, are in a
    file that only Redis and root can read. Raises Failure if Docker refuses it.
    """
    lines = [*loading_directives(instance), *(f"{name} {value}" for name, value in {**_OPTIONS, **options}.items())]
    instance.untrusted(directory).write_file(CONF, mode=0o400, text="\n".join([*lines, more, ""]))
    volumes = {str(directory): "/data:rw", **{path: f"{target}:ro" for path, target in (mounts or {}).items()}}
    command = [
        *("docker", "run", "--detach", "--name", container, "--label", f"{label}={instance.name}"),
        *("--network", network, *_confinement(instance)),
        # The instance comes first.
        *("--memory", str(limit), "--oom-score-adj", "1000", "--cpu-shares", "128", "--pids-limit", "64"),
        *("--log-driver", "json-file", "--log-opt", "max-size=4m"),
        *("--tmpfs", f"/run/redis:uid={instance.uid},gid={instance.gid},mode=0700,size=64k"),
        *(word for path, target in volumes.items() for word in ("--volume", f"{path}:{target}")),
        *docker.private_program(instance.image_id, "redis-server", f"/data/{CONF}"),
    ]
    process.check(command, timeout=_DOCKER_TIMEOUT)


def _confinement(instance: Instance) -> tuple[str, ...]:
    return ("--user", f"{instance.uid}:{instance.gid}", "--init", *docker.CONFINEMENT)


def run_checker(instance: Instance, directory: Path, program: str, *arguments: str) -> tuple[int, str]:
    """Run a program of the image on the files in ``directory``, which Redis owns.

    Only redis-check-aof can write there. Returns exit code and output.
    """
    container = scratch_name(instance)
    mode = "rw" if program == "redis-check-aof" else "ro"
    command = [
        *("docker", "run", "--rm", "--interactive", "--name", container),
        *("--label", f"{LABEL}={instance.name}", "--network", "none", *_confinement(instance)),
        *("--memory", str(memory_limits(None, 0, free_memory())[-1]), "--oom-score-adj", "1000", "--pids-limit", "64"),
        *("--volume", f"{directory}:/data:{mode}", "--workdir", "/data", "--cpu-shares", "128"),
        *docker.private_program(instance.image_id, program, *arguments),
    ]
    try:
        # redis-check-aof asks before it cuts.
        name = _describe_check(directory, program, arguments[-1])
        result = process.run(command, stdin="y\n", timeout=LOAD_TIMEOUT, name=name)
    except BaseException:
        # Only Docker's client was killed, and the checker could run for hours.
        process.run(["docker", "rm", "--force", container], timeout=_DOCKER_TIMEOUT)
        raise
    return result.returncode, result.stdout + result.stderr


def _describe_check(directory: Path, program: str, file: str) -> str:
    with suppress(OSError):
        return f"{program} of {size(UntrustedDirectory(directory).file_size(*file.split('/')))}"
    return program


@contextmanager
def connected(container: str, owner: tuple[int, int], limit: int) -> Iterator[Redis]:
    """Give a client of a scratch Redis once it has loaded everything.

    Raises Failure if Redis exits.
    """
    deadline = monotonic() + LOAD_TIMEOUT
    while True:
        with client(container, owner, limit) as redis:
            if _has_loaded(redis):
                yield redis
                return
        if monotonic() > deadline:
            raise Failure(f"the data was not loaded within {LOAD_TIMEOUT / 3600:.0f} h: is the disk slow?")
        sleep(_POLL)


def _has_loaded(redis: Redis) -> bool:
    try:
        try:
            redis.ping()
        except BusyLoadingError:
            percent = float(redis.info("persistence").get("loading_loaded_perc", 0))
            progress.report(f"loading the data in a second Redis: {percent:.0f} %")
            return False
    except (RedisConnectionError, RedisTimeoutError):
        # It may be busy, or exit at any time. The next inspection of its container says why.
        return False
    return True


def client(container: str, owner: tuple[int, int], limit: int, **options: Any) -> Redis:
    """Return a client of a scratch Redis that runs, even if it is still loading.

    ``limit`` is the memory of its container. Raises Ended if it does not run, and Failure if Docker does not say so.
    """
    inspected = docker.container(container)
    if not inspected:
        raise Ended(f"the container {container} is gone: something removed it")
    state = inspected["State"]
    if not state.get("Running"):
        if state.get("OOMKilled"):
            raise OutOfMemory(f"loading the data takes more than {size(limit)} of memory, which was the limit")
        raise NotLoadable(f"the data does not load: {_last_messages(container, state)}")
    return bounded_client(
        connect=partial(redis_socket.connect, int(state["Pid"]), owner[0]),
        # It has the lowest share of the CPU.
        socket_timeout=60,
        **options,
    )


def _last_messages(container: str, state: Mapping[str, object]) -> str:
    code = int(str(state.get("ExitCode") or 0))
    if code < 0 or code > 128:
        return f"Redis crashes when it loads the data (exit code {code})"
    # Warnings of Redis, without process and time.
    messages = [line.partition(" # ")[2] for line in log(container) if " # " in line and "WARNING" not in line]
    return " / ".join(messages[-3:]) or f"Redis exited with {code}"


def log(container: str, lines: int | None = 12) -> list[str]:
    """Return the last lines that a scratch Redis logged.

    With None these are all that Docker keeps, some MiB.
    """
    tail = "all" if lines is None else str(lines)
    result = process.run(["docker", "logs", "--tail", tail, container])
    return (result.stdout + result.stderr).splitlines()


def write_rdb(redis: Redis, directory: Path, bgsave: str = "BGSAVE") -> Path:
    """Have a scratch Redis write an RDB snapshot of its data; return the file.

    ``bgsave`` is the command. Redis may have put anything there: open it without following links. Raises Failure.
    """
    redis.execute_command(bgsave)
    deadline = monotonic() + SAVE_TIMEOUT
    while (info := redis.info("persistence"))["rdb_bgsave_in_progress"]:
        progress.report(f"a second Redis writes the data: {info.get('current_save_keys_processed', 0)} keys")
        if monotonic() > deadline:
            raise Failure(f"the copy did not finish saving within {SAVE_TIMEOUT / 3600:.0f} h: is the disk very slow?")
        sleep(_POLL)
    if info["rdb_last_bgsave_status"] != "ok":
        raise Failure(f"the copy could not save: is the disk of {directory} full?")
    return directory / RDB_FILE


def free_memory() -> int:
    """Return the bytes of memory that the host can give without swapping."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))


def memory_limits(memory: int | None, maxmemory: int, free: int) -> list[int]:
    """Return the limits that a scratch Redis gets, one after the other, in bytes.

    ``memory`` is what the data should need; None if it is unknown. ``maxmemory`` is that of the instance, 0 without
    one. Both may be wrong, so the last limit is what the host has ``free``.
    """
    largest = max(BASE_MEMORY, free - _RESERVE)
    guesses = [memory_needed(guess) for guess in (memory, maxmemory or None) if guess is not None]
    limits: list[int] = []
    for limit in (*guesses, largest):
        if not limits or min(limit, largest) > limits[-1]:
            limits.append(min(limit, largest))
    return limits


def describe_shortage(limit: int, memory: int | None, free: int) -> str:
    """Say what the data needs that did not load within a limit. Sizes are in bytes."""
    needed = memory_needed(memory) if memory is not None else 0
    recorded = f", and should take about {size(needed)}" if needed > limit else ""
    return (
        f"loading the data takes more than {size(limit)} of memory{recorded}. The host has {size(free)} free: stop "
        "something else, give the host more memory, or load the data on another host"
    )


def memory_needed(memory: int) -> int:
    """Return what a scratch Redis may use for data of this many bytes."""
    return int(memory * MEMORY_FACTOR) + BASE_MEMORY
