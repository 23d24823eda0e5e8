"""The state of an instance, for deploys, drift checks and other verbs.

Collects everything that a deploy, a drift check, a stop, a start and a removal need to know. Changes nothing. Works for
an instance that was never deployed, and on a host without Docker.
"""

import contextlib
import json
import os
import re
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from redisctl import paths
from redisctl.core import docker, journal, lock, mounts, network_filter, process
from redisctl.core.answers import ImplausibleAnswer, parse_info
from redisctl.core.aof_manifest import DIRECTORY as AOF_DIRECTORY
from redisctl.core.aof_manifest import MAX_PARTS
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE, read_small
from redisctl.core.formatting import words
from redisctl.core.instance import Instance, UnusableSecret, deployed_owner
from redisctl.core.keyspace import keyspace
from redisctl.core.resp import RespError, RespRefusal
from redisctl.core.server_changes import primary_of
from redisctl.core.untrusted_files import disk_usage
from redisctl.deploy import containers
from redisctl.schema import (
    InstanceState,
    InterruptedTransaction,
    StateRequest,
    StoredData,
    UnitState,
)

# What the container reads when it starts, below the root.
_READ_AT_START = ("config/redis.conf", "config/users.acl", "config/activedefrag.conf", "ca.crt")
_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_V2 = ("memory.max", "memory.swap.max", "pids.max", "cpu.max")
_CGROUP_V1 = {
    "memory": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    "pids": ("pids.max",),
    "cpu": ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
}
_HASH = re.compile(r"#[0-9a-f]{64}")
# Seconds for each command, on a host that may be busy with the deploy.
_TIMEOUT = 10
# Characters of an error of Redis.
_MAX_ERROR = 200


def collect(instance: Instance, request: StateRequest) -> InstanceState:
    """Return the state of an instance.

    Without Docker, and if Docker does not answer, it has no containers. Raises Failure if Docker answers only in part.
    """
    root = instance.root
    with ThreadPoolExecutor(max_workers=4) as pool:
        # These wait for other programs, not for each other.
        units = pool.submit(_units, instance.name)
        network_filter_differences = pool.submit(_network_filter, instance)
        backlogs = pool.submit(_backlogs)
        unmounted = pool.submit(mounts.unmounted, root)
        containers = pool.submit(_docker, instance, request, pool)
        values = {
            "units": units.result(),
            "network_filter": network_filter_differences.result(),
            "backlogs": backlogs.result(),
            "unmounted": unmounted.result(),
            **containers.result(),
        }
    return InstanceState(
        files=_modification_times(root),
        somaxconn=int(_text(Path("/proc/sys/net/core/somaxconn")) or 0),
        activedefrag=_text(root / paths.ACTIVEDEFRAG_FILE),
        configured=(root / paths.PROGRAM_CONFIG).exists(),
        configured_appendonly=_directive(_text(root / "config/redis.conf"), "appendonly"),
        stored=_stored(instance),
        deployed_settings=_deployed_settings(root),
        generation=_number(_text(root / paths.SERVER_SECRETS / "generation")),
        certificates=_certificates(root),
        certificate_source=_directive(_text(root / "config/tls.conf"), "# source"),
        repository_password=(root / paths.REPOSITORY_SECRETS / "password").exists(),
        interrupted=_interrupted(instance, request.run),
        config_saved=(root / paths.ROLLBACK_CONFIG).is_dir(),
        owner=_owner(instance, has_containers=bool(values.get("containers"))),
        sizes=_sizes(instance) if request.sizes else {},
        **values,
    )


# -- Docker


def _docker(instance: Instance, request: StateRequest, pool: ThreadPoolExecutor) -> dict[str, Any]:
    # Each call of the docker command takes 20 ms of a processor: one lists all containers, one inspects them.
    if shutil.which("docker") is None or (listed := docker.listing()) is None:
        return {}
    image = pool.submit(docker.image, request.image) if request.image else None
    networks = pool.submit(containers.networks, instance.name)
    inspected = docker.inspect(*containers.of_instances(instance.name, listed))
    own = next((item for item in inspected if item["Name"] == f"/{instance.name}"), {})
    project = [item for item in inspected if _project(item) == instance.name]
    # What also asks Redis reads this, without asking Docker again.
    instance.know_container(own)
    has_override = containers.override_is_for(instance.root / paths.COMPOSE_OVERRIDE, str(own.get("Id", "")))
    has_compose = (instance.root / paths.COMPOSE_FILE).exists()
    hashes = pool.submit(containers.compose_hashes, instance, override=has_override) if has_compose else None
    client_limits = pool.submit(_client_limits, instance, own)
    translated = pool.submit(network_filter.docker_publishes, own)
    return {
        "containers": tuple(containers.parse_container(item) for item in project if containers.is_service(item)),
        "published": tuple(
            port
            for item in project
            if item["Config"]["Labels"].get(docker.SERVICE_LABEL) == instance.name
            for port in containers.published(item)
        ),
        "image": image.result() if image else None,
        "networks": networks.result(),
        "other_instances": containers.other_instances(instance.name, inspected),
        "hashes": hashes.result() if hashes else {},
        "has_override": has_override,
        "foreign_container": containers.foreign(instance.name, own),
        "data_dir": containers.data_directory(own),
        "client_limits": client_limits.result(),
        "translated": translated.result(),
        **_redis(instance, request, own),
        **_of_process(instance, request, own),
    }


def _project(inspected: dict[str, Any]) -> str:
    return str((inspected["Config"]["Labels"] or {}).get(docker.PROJECT_LABEL, ""))


# -- The running Redis


def _redis(instance: Instance, request: StateRequest, own: dict[str, Any]) -> dict[str, Any]:
    """Return what Redis reports, or why it cannot be asked.

    Returns nothing if it does not run.
    """
    if not own.get("State", {}).get("Running") or own["State"].get("Paused"):
        return {}
    try:
        with instance.connect_quickly(_TIMEOUT) as redis:
            config = instance.execute_renamed(redis, "CONFIG", "GET", "*")
            acl, role = redis.execute("ACL", "LIST"), redis.execute("ROLE", raw=True)
            info: dict[str, Any] = {}
            for section in ("server", "memory", "keyspace"):
                info |= parse_info(redis.execute("INFO", section))
        return _answers(request, config, acl, info, primary_of(role))
    except UnusableSecret as error:
        # Nothing can be changed live. A deploy restores the files, and Redis reads them when it restarts.
        return {"refusal": f"cannot be asked: {_printable(error)}"}
    except RespRefusal as error:
        return _refusal(_printable(error)[:_MAX_ERROR])
    except (ImplausibleAnswer, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        # A compromised Redis may answer anything.
        return {"unanswered": "its answers cannot be read"}
    except (RespError, Failure, OSError) as error:
        return {"unanswered": _printable(error)}


def _refusal(error: str) -> dict[str, Any]:
    """Return what an error of Redis means.

    A restart gives admin its password and its rights back.
    """
    if error.startswith(("WRONGPASS", "NOAUTH")):
        return {"refusal": "refuses the password of admin"}
    if error.startswith("NOPERM"):
        return {"refusal": f"denies admin its rights: {error}"}
    return {"unanswered": f"it answers: {error}"}


def _answers(request: StateRequest, config: Any, acl: Any, info: dict[str, Any], primary: str) -> dict[str, Any]:
    """Return the answers of Redis as text that is safe to print.

    Raises an exception if they are malformed.
    """
    if not isinstance(config, list):
        raise TypeError
    pairs = dict(zip(config[::2], config[1::2], strict=True))
    is_valkey = "valkey_version" in info
    return {
        "config": {_printable(name): _printable(value) for name, value in pairs.items()},
        "acl": tuple(_printable(_HASH.sub("#", line)) for line in acl if _names_user(line)),
        "passwords": tuple(map(_printable, _differing_passwords(request.acl, acl))),
        "running_engine": "valkey" if is_valkey else "redis",
        "running_version": _printable(info["valkey_version" if is_valkey else "redis_version"]),
        "primary": primary,
        "used_memory": int(info["used_memory"]) - int(info.get("mem_not_counted_for_evict", 0)),
        "used_databases": max((int(name.removeprefix("db")) + 1 for name in keyspace(info)), default=0),
    }


def _names_user(line: str) -> bool:
    """Return True for a line of ACL LIST. Raises ValueError for another one."""
    if not line.startswith("user "):
        raise ValueError(line)
    return True


def _printable(value: Any) -> str:
    return words(str(value).encode(errors="backslashreplace"))


def _differing_passwords(desired: str, acl: list[str]) -> tuple[str, ...]:
    """Return users whose password hashes differ from the desired ACL file.

    The hashes never leave the host.
    """
    if not desired:
        return ()
    running, expected = _hashes_by_user(acl), _hashes_by_user(desired.split("\n"))
    users = set(running) | set(expected)
    return tuple(sorted(user for user in users if running.get(user, set()) != expected.get(user, set())))


def _hashes_by_user(acl: list[str]) -> dict[str, set[str]]:
    users = (line.split(" ") for line in acl if line)
    return {name: {rule for rule in rules if _HASH.fullmatch(rule)} for _, name, *rules in users}


def _of_process(instance: Instance, request: StateRequest, own: dict[str, Any]) -> dict[str, Any]:
    """Return what the kernel says of the container's first process.

    It says which mounts were replaced, and the limits.
    """
    pid = own.get("State", {}).get("Pid", 0)
    if not pid:
        return {}
    inside = Path(f"/proc/{pid}/root")
    mounted = {mount["Destination"] for mount in own.get("Mounts", ())}
    stale = []
    for directory, target in request.mounts:
        if target not in mounted and directory != paths.LIVE:
            # The deploy adds it, so nothing was replaced. Data without a mount would be lost with the container.
            continue
        try:
            same = os.path.samestat(os.stat(instance.root / directory), os.stat(f"{inside}{target}"))
        except OSError:
            same = False
        if not same:
            stale.append(directory)
    return {"stale_mounts": tuple(stale) if inside.exists() else (), "cgroup": _cgroup_limits(pid)}


def _cgroup_limits(pid: int) -> dict[str, str]:
    """Return the limits that the kernel enforces.

    systemd sets them again at every daemon-reload.
    """
    limits = {}
    # Lines of number:controllers:path; version 2 has a single line, without controllers.
    for line in _text(Path(f"/proc/{pid}/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if (_CGROUP / "cgroup.controllers").exists():
            files_by_controller: dict[str, tuple[str, ...]] = {"": _CGROUP_V2} if not controllers else {}
        else:
            files_by_controller = {name: files for name, files in _CGROUP_V1.items() if name in controllers.split(",")}
        for controller, files in files_by_controller.items():
            for file in files:
                value = _text(_CGROUP / controller / path.lstrip("/") / file)
                if value:
                    limits[file] = value
    return limits


# -- Files


def _modification_times(root: Path) -> dict[str, float]:
    read = [root / name for name in _READ_AT_START]
    secrets = root / paths.SECRETS
    if secrets.is_dir() and not secrets.is_symlink():
        read += [Path(base) / name for base, _, names in os.walk(secrets) for name in names]
    times = {}
    for path in read:
        try:
            status = path.lstat()
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            times[str(path.relative_to(root))] = status.st_mtime
    return times


def _stored(instance: Instance) -> StoredData:
    live = instance.live
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = instance.live_files.list_names(AOF_DIRECTORY)
    snapshots = [(RDB_FILE,), *((AOF_DIRECTORY, name) for name in sorted(names) if name.endswith(".base.rdb"))]
    heads = [head for head in (_head(instance, *path) for path in snapshots[:MAX_PARTS]) if head is not None]
    return StoredData(
        missing=not live.is_dir(),
        is_mount_point=os.path.ismount(live),
        rdb=_head(instance, RDB_FILE) is not None,
        aof=any(name.endswith(".manifest") for name in names),
        formats=tuple(sorted({head for head in heads if head})),
        size=_disk_usage(instance.root / paths.DATA),
    )


def _head(instance: Instance, *names: str) -> str | None:
    """Return the letters that name the format of an RDB snapshot; None without one.

    They are REDIS0012 or VALKEY080, for example.
    """
    try:
        with instance.live_files.open_file(*names) as file:
            return re.sub(r"[^0-9A-Za-z]", "", file.read(9).decode(errors="replace"))
    except OSError:
        return None


def _disk_usage(path: Path) -> int:
    """Return the bytes on disk; 0 if Redis has made them too many to count."""
    try:
        return disk_usage(path)
    except Failure:
        return 0


def _deployed_settings(root: Path) -> dict[str, Any]:
    """Return the settings of the last deploy that finished.

    Returns nothing if they are unreadable, so that a deploy writes them again.
    """
    try:
        settings = json.loads(_text(root / paths.DEPLOYED_SETTINGS))
    except ValueError:
        return {}
    return settings if isinstance(settings, dict) else {}


def _owner(instance: Instance, *, has_containers: bool) -> str:
    """Return the uid:gid of the files of Redis; empty if there are none.

    redisctl.json names it. Without a container, the data may be that of an instance that was removed.
    """
    deployed = deployed_owner(instance.root)
    owner = f"{deployed[0]}:{deployed[1]}" if deployed else ""
    try:
        status = instance.live.lstat()
    except OSError:
        return owner
    # Root creates the directory on a new disk.
    is_kept = not has_containers and stat.S_ISDIR(status.st_mode) and status.st_uid != 0
    return f"{status.st_uid}:{status.st_gid}" if is_kept else owner


def _certificates(root: Path) -> tuple[str, ...]:
    files = [root / "ca.crt", root / "config/tls.conf", root / "config/tls"]
    if files[-1].is_dir():
        files += sorted(files[-1].iterdir())
    return tuple(str(path) for path in files if path.exists())


def _sizes(instance: Instance) -> dict[str, int]:
    own = paths.removable(instance.name, instance.root, data=True)
    return {str(path): (_disk_usage(path) + 1023) // 1024 for path in own if os.path.lexists(path)}


def _interrupted(instance: Instance, run: str) -> InterruptedTransaction | None:
    try:
        record = journal.read(instance)
    except Failure as error:
        return InterruptedTransaction(str(error), "unknown")
    if record is None or _is_under_way(instance, run) or (run and record.run == run):
        return None
    return InterruptedTransaction(record.operation, record.stage.value)


def _is_under_way(instance: Instance, run: str) -> bool:
    """Say whether another deploy or verb works on the transaction.

    It holds the lock then. ``run`` is the id of the deploy that asks.
    """
    holder = lock.holder(instance.name)
    return holder is not None and not (run and holder.run == run)


# -- systemd, network filter, listeners


def _units(name: str) -> dict[str, UnitState]:
    names = paths.units(name)
    properties = "--property=Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload"
    result = process.run(["systemctl", "show", properties, *names])
    states = {}
    for block in result.stdout.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if values.get("Id") in names:
            states[values["Id"]] = UnitState(
                present=values.get("LoadState") != "not-found",
                active=values.get("ActiveState") in ("active", "activating"),
                enabled=values.get("UnitFileState") == "enabled",
                outdated=values.get("NeedDaemonReload") == "yes",
            )
    return states


def _network_filter(instance: Instance) -> tuple[str, ...]:
    """Return how the loaded nftables table differs from its file, if there is one."""
    return network_filter.differences(instance) if (instance.root / paths.NETWORK_FILTER).exists() else ()


def _client_limits(instance: Instance, own: dict[str, Any]) -> tuple[str, ...]:
    """Return how the table in the container differs from its file, if there is one."""
    if not (instance.root / paths.CLIENT_LIMITS).exists():
        return ()
    return network_filter.client_limit_differences(instance, own.get("State", {}).get("Pid", 0))


def _backlogs() -> dict[str, int]:
    result = process.run(["ss", "-Hltn"])
    fields = (line.split() for line in result.stdout.splitlines())
    return {words[3]: int(words[2]) for words in fields if len(words) > 3 and words[2].isdigit()}


def _text(path: Path) -> str:
    return read_small(path, 1024 * 1024).strip()


def _directive(text: str, name: str) -> str:
    """Return the value of the last line that begins with this name."""
    values = [line[len(name) + 1 :].strip() for line in text.splitlines() if line.startswith(f"{name} ")]
    return values[-1] if values else ""


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and text.isascii() else 0
