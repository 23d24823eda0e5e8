"""The state of an instance, for deploys, drift checks and other verbs.

Collects everything that a deploy, a drift check, a stop, a start and a removal need to know. Changes nothing. Works for
an instance that was never deployed, and on a host without Docker.
"""

import json
import os
import re
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from redisctl import paths
from redisctl.core import docker, journal, lock, mounts, process
from redisctl.core.errors import Failure
from redisctl.core.files import disk_usage, read_small
from redisctl.core.formatting import words
from redisctl.core.instance import Instance, UnusableSecret
from redisctl.core.resp import RespError, RespRefusal, parse_info
from redisctl.deploy.service import compose_hashes, override_is_for
from redisctl.deploy.users import parse_users
from redisctl.schema import (
    Container,
    InstanceState,
    InterruptedTransaction,
    Network,
    OtherInstance,
    StateRequest,
    StoredData,
    UnitState,
)

# The limits in docker inspect that docker update can change without a trace in Compose's hash.
_LIMITS = ("Memory", "MemoryReservation", "NanoCpus", "CpuShares", "PidsLimit")
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
    """Return the state of an instance. Raises Failure if Docker does not answer."""
    root = instance.root
    with ThreadPoolExecutor(max_workers=4) as pool:
        # These wait for other programs, not for each other.
        units = pool.submit(_units, instance.name)
        firewall = pool.submit(_firewall, instance)
        backlogs = pool.submit(_backlogs)
        unmounted = pool.submit(mounts.unmounted, root)
        containers = pool.submit(_docker, instance, request, pool)
        values = {
            "units": units.result(),
            "firewall": firewall.result(),
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
        sizes=_sizes(instance) if request.sizes else {},
        **values,
    )


# -- Docker


def _docker(instance: Instance, request: StateRequest, pool: ThreadPoolExecutor) -> dict[str, Any]:
    if shutil.which("docker") is None or not docker.answers():
        return {}
    project = pool.submit(docker.project_containers, instance.name)
    image = pool.submit(docker.image, request.image) if request.image else None
    networks = pool.submit(_networks, instance.name)
    others = pool.submit(_other_instances, instance.name)
    own = docker.container(instance.name)
    has_override = override_is_for(instance.root / paths.COMPOSE_OVERRIDE, str(own.get("Id", "")))
    has_compose = (instance.root / paths.COMPOSE_FILE).exists()
    hashes = pool.submit(compose_hashes, instance, override=has_override) if has_compose else None
    inspected = docker.inspect(*project.result())
    return {
        "containers": tuple(_container(item) for item in inspected if _is_service(item)),
        "published": tuple(
            port
            for item in inspected
            if item["Config"]["Labels"].get(docker.SERVICE_LABEL) == instance.name
            for port in _ports(item)
        ),
        "image": image.result() if image else None,
        "networks": networks.result(),
        "other_instances": others.result(),
        "hashes": hashes.result() if hashes else {},
        "has_override": has_override,
        "foreign_container": _foreign(instance.name, own),
        "data_dir": _data_dir(own),
        **_redis(instance, request, own),
        **_of_process(instance, request, own),
    }


def _is_service(inspected: dict[str, Any]) -> bool:
    """Say whether Compose made it as a service.

    A container made by hand or with ``docker compose run`` is none.
    """
    labels = inspected["Config"]["Labels"]
    return docker.HASH_LABEL in labels and labels.get(docker.ONE_OFF_LABEL) != "True"


def _container(inspected: dict[str, Any]) -> Container:
    labels, state, limits = inspected["Config"]["Labels"], inspected["State"], inspected["HostConfig"]
    return Container(
        name=inspected["Name"].removeprefix("/"),
        service=labels.get(docker.SERVICE_LABEL, ""),
        config_hash=labels[docker.HASH_LABEL],
        image_id=inspected["Image"],
        status=state["Status"],
        health=(state.get("Health") or {}).get("Status"),
        started=_seconds(state["StartedAt"]),
        networks=frozenset(inspected["NetworkSettings"]["Networks"]),
        limits={
            **{name: limits.get(name) for name in _LIMITS},
            "RestartPolicy": (limits.get("RestartPolicy") or {}).get("Name"),
        },
        definition=labels.get(docker.DEFINITION_LABEL, ""),
        created_with=labels.get("redoubt.live", ""),
        stop_grace=inspected["Config"].get("StopTimeout"),
    )


def _seconds(timestamp: str) -> float:
    """Docker's RFC 3339 time with nanoseconds, to the microsecond."""
    whole, _, fraction = timestamp.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}+00:00").timestamp()


def _networks(name: str) -> dict[str, Network]:
    result = process.run(["docker", "network", "inspect", f"{name}_backend", f"{name}_edge"])
    return {network["Name"]: _network(network) for network in json.loads(result.stdout or "[]")}


def _network(inspected: dict[str, Any]) -> Network:
    # Docker masquerades by default.
    option = (inspected["Options"] or {}).get("com.docker.network.bridge.enable_ip_masquerade", "true")
    return Network(
        internal=inspected["Internal"],
        masquerade=not inspected["Internal"] and option != "false",
        members=frozenset(member["Name"] for member in (inspected["Containers"] or {}).values()),
    )


def _other_instances(name: str) -> tuple[OtherInstance, ...]:
    command = ["docker", "ps", "--all", "--quiet", "--filter", f"label={docker.DEFINITION_LABEL}"]
    ids = process.check([*command, "--filter", f"label={docker.ONE_OFF_LABEL}=False"]).split()
    others = []
    for container in docker.inspect(*ids):
        project = container["Config"]["Labels"].get(docker.PROJECT_LABEL, "")
        if project != name:
            memory = container["HostConfig"]["Memory"]
            others.append(OtherInstance(project, _data_dir(container), memory, _ports(container)))
    return tuple(others)


def _ports(inspected: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    bindings = inspected["HostConfig"]["PortBindings"] or {}
    return tuple(
        (binding["HostIp"] or "0.0.0.0", int(binding["HostPort"]))
        for listed in bindings.values()
        for binding in listed or ()
        if binding["HostPort"]
    )


def _data_dir(inspected: dict[str, Any]) -> str:
    return next((mount["Source"] for mount in inspected.get("Mounts", []) if mount["Destination"] == "/data"), "")


def _foreign(name: str, own: dict[str, Any]) -> str:
    if not own:
        return ""
    project = (own["Config"]["Labels"] or {}).get(docker.PROJECT_LABEL, "")
    return "" if project == name else f"{project} {own['Image']}".strip()


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
            acl = redis.execute("ACL", "LIST")
            info = parse_info(redis.execute("INFO", "server")) | parse_info(redis.execute("INFO", "memory"))
        return _answers(request, config, acl, info)
    except UnusableSecret as error:
        # Nothing can be changed live. A deploy restores the files, and Redis reads them when it restarts.
        return {"refusal": f"cannot be asked: {_printable(error)}"}
    except RespRefusal as error:
        return _refusal(_printable(error)[:_MAX_ERROR])
    except (RespError, Failure, OSError) as error:
        return {"unanswered": _printable(error)}
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        # A compromised Redis may answer anything.
        return {"unanswered": "its answers cannot be read"}


def _refusal(error: str) -> dict[str, Any]:
    """Return what an error of Redis means.

    A restart gives admin its password and its rights back.
    """
    if error.startswith(("WRONGPASS", "NOAUTH")):
        return {"refusal": "refuses the password of admin"}
    if error.startswith("NOPERM"):
        return {"refusal": f"denies admin its rights: {error}"}
    return {"unanswered": f"it answers: {error}"}


def _answers(request: StateRequest, config: Any, acl: Any, info: dict[str, Any]) -> dict[str, Any]:
    """Return the answers of Redis as text that is safe to print.

    Raises an exception if they are malformed.
    """
    if not isinstance(config, list):
        raise TypeError
    pairs = dict(zip(config[::2], config[1::2], strict=True))
    is_valkey = "valkey_version" in info
    return {
        "config": {_printable(name): _printable(value) for name, value in pairs.items()},
        "acl": tuple(_printable(_HASH.sub("#", line)) for line in acl),
        "passwords": tuple(map(_printable, _differing_passwords(request.acl, acl))),
        "running_engine": "valkey" if is_valkey else "redis",
        "running_version": _printable(info["valkey_version" if is_valkey else "redis_version"]),
        "used_memory": int(info["used_memory"]) - int(info.get("mem_not_counted_for_evict", 0)),
    }


def _printable(value: Any) -> str:
    return words(str(value).encode(errors="backslashreplace"))


def _differing_passwords(desired: str, acl: list[str]) -> tuple[str, ...]:
    """Return users whose password hashes differ from the desired ACL file.

    The hashes never leave the host.
    """
    if not desired:
        return ()
    running = {user: _hashes_of(rules) for user, rules in parse_users("\n".join(acl)).items()}
    expected = {user: _hashes_of(rules) for user, rules in parse_users(desired).items()}
    users = set(running) | set(expected)
    return tuple(sorted(user for user in users if running.get(user, set()) != expected.get(user, set())))


def _hashes_of(rules: list[str]) -> set[str]:
    return {rule for rule in rules if _HASH.fullmatch(rule)}


def _of_process(instance: Instance, request: StateRequest, own: dict[str, Any]) -> dict[str, Any]:
    """Return what the kernel says of the container's first process.

    It says which mounts were replaced, and the limits.
    """
    pid = own.get("State", {}).get("Pid", 0)
    if not pid:
        return {}
    inside = Path(f"/proc/{pid}/root")
    stale = []
    for directory, target in request.mounts:
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
    rdb, aof = live / "dump.rdb", live / "appendonlydir"
    bases = sorted(aof.glob("*.base.rdb")) if aof.is_dir() and not aof.is_symlink() else []
    # The first letters of an RDB file name its format: REDIS0012, VALKEY080.
    heads = [re.sub(r"[^0-9A-Za-z]", "", read_small(path, 9)) for path in (rdb, *bases)]
    return StoredData(
        missing=not live.is_dir(),
        is_mount_point=os.path.ismount(live),
        rdb=rdb.is_file(),
        aof=aof.is_dir() and any(aof.glob("*.manifest")),
        formats=tuple(sorted({head for head in heads if head})),
        size=disk_usage(instance.root / paths.DATA),
    )


def _deployed_settings(root: Path) -> dict[str, Any]:
    """Return the settings of the last deploy that finished.

    Returns nothing if they are unreadable, so that a deploy writes them again.
    """
    try:
        settings = json.loads(_text(root / paths.DEPLOYED_SETTINGS))
    except ValueError:
        return {}
    return settings if isinstance(settings, dict) else {}


def _certificates(root: Path) -> tuple[str, ...]:
    files = [root / "ca.crt", root / "config/tls.conf", root / "config/tls"]
    if files[-1].is_dir():
        files += sorted(files[-1].iterdir())
    return tuple(str(path) for path in files if path.exists())


def _sizes(instance: Instance) -> dict[str, int]:
    own = paths.removable(instance.name, instance.root, data=True)
    return {str(path): (disk_usage(path) + 1023) // 1024 for path in own if os.path.lexists(path)}


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


# -- systemd, firewall, listeners


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


def _firewall(instance: Instance) -> tuple[str, ...]:
    """Return how the loaded nftables table differs from its file.

    A private network namespace loads the file and lists it.
    """
    rules = instance.root / "network.nft"
    if shutil.which("nft") is None or not rules.exists():
        return ()
    name = _table_name(_text(rules))
    expected = process.run(
        ["unshare", "--net", "sh", "-c", 'nft -f "$1" && nft --stateless list table inet "$2"', "-", str(rules), name]
    )
    loaded = process.run(["nft", "--stateless", "list", "table", "inet", name])
    return () if expected.stdout == loaded.stdout and loaded.returncode == 0 else (f"other rules than {rules}",)


def _table_name(rules: str) -> str:
    match = re.search(r"^table inet (\S+)", rules, re.MULTILINE)
    return match[1] if match else ""


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
