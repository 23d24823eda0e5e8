"""The Docker engine: the one that answers here, or one of our own.

An engine that the operator has is used as it is. On a bare machine a dockerd is started for
this checkout alone, with its socket, data, cgroups and log apart from any other engine's, so
that it can be taken away again without a trace.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import requests

from sandbox import network, tools
from sandbox.util import (
    PREFIX,
    RUNTIME,
    STATE,
    NoEngineError,
    SandboxError,
    arguments_of,
    capabilities_of_this_process,
    run_logged,
    running,
    runtime_dir,
    say,
    shorten,
    tail,
    wait_until,
)

_SOCKET = RUNTIME / "docker.sock"
_PIDFILE = RUNTIME / "dockerd.pid"
_HOME = STATE / "engine"
_LOG = STATE / "log" / "dockerd.log"
_BEFORE = _HOME / "before.json"
_PATIENCE = 120
_CGROUPS = Path("/sys/fs/cgroup")
_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
# linux/capability.h
_CAP_NET_ADMIN = 12

# What a dockerd makes outside the directories that it is given, innermost first.
_FOOTPRINT = (
    "/etc/docker/key.json",
    "/etc/docker",
    "/opt/containerd/bin",
    "/opt/containerd/lib",
    "/opt/containerd",
    "/run/docker/plugins",
    "/run/docker",
    "/run/containerd/s",
    "/run/containerd",
)


def answering() -> docker.DockerClient | None:
    """The engine in use: ours if it runs, else the one a `docker` command would talk to."""
    try:
        client = _own_client() if is_running() else _found_client()
        client.ping()
    except (docker.errors.DockerException, requests.RequestException):
        return None
    return client


@functools.cache
def _own_client() -> docker.DockerClient:
    return docker.DockerClient(base_url=f"unix://{_SOCKET}", version="auto", timeout=_PATIENCE)


@functools.cache
def _found_client() -> docker.DockerClient:
    return docker.from_env(version="auto", timeout=_PATIENCE)


def is_running() -> bool:
    """Whether an engine of our own runs."""
    return _pid() is not None


def containers() -> list[str]:
    """The names of the containers that run in our own engine."""
    client = answering() if is_running() else None
    return [str(container.name) for container in client.containers.list()] if client else []


def was_started() -> bool:
    """Whether this checkout ever started an engine of its own, running now or not."""
    return _BEFORE.exists()


def ensure() -> docker.DockerClient:
    """Return an engine that answers; start one of our own if there is none."""
    client = answering()
    if client is None:
        start()
        client = answering()
    if client is None:
        raise SandboxError(f"the engine went away while starting\n{tail(_LOG)}")
    return client


def stop() -> None:
    """Stop our own engine, with the containers in it. Another engine is left alone."""
    pid = _pid()
    if pid is not None:
        say("engine", "stopping")
        os.kill(pid, signal.SIGTERM)
        if not wait_until("engine", "waiting for it to end", lambda: _pid() != pid, 60):
            raise SandboxError(f"dockerd (pid {pid}) did not end within 60 s\n{tail(_LOG)}")
    if was_started():
        network.unplug()


def remove() -> None:
    """Take our own engine off the machine: processes, mounts, data, whatever else it made."""
    stop()
    if not was_started():
        return
    before = json.loads(_BEFORE.read_text())
    _end_leftovers()
    _unmount_below(RUNTIME, Path(before["data"]))
    for path in map(Path, before["absent"]):
        with suppress(OSError):  # not there, or not empty: another engine came to use it
            path.unlink() if path.is_file() else path.rmdir()
    others = [path for path in Path("/run").glob("redoubt-*/docker.sock") if path != _SOCKET]
    if before["ip_forward"] == "0" and not others and not Path("/run/docker.sock").exists():
        _IP_FORWARD.write_text("0")
    wait_until("engine", "removing its cgroups", _remove_cgroups, 10)
    if before["mounted_cgroups"]:
        subprocess.run(["umount", _CGROUPS], check=False)
    for directory in (Path(before["data"]), _HOME, RUNTIME):
        shutil.rmtree(directory, ignore_errors=True)


def _pid() -> int | None:
    """The process id of our own dockerd, None if it does not run."""
    return running(_PIDFILE, f"--pidfile={_PIDFILE}")


def start() -> None:
    """Start our own engine with the fleet network, unless it runs.

    Raises NoEngineError where even root cannot: before anything is fetched, if that can be told.
    """
    if is_running():
        return
    _refuse_if_impossible()
    data = _remember_machine()["data"]
    env = tools.provide({"dockerd": "docker.io", "iptables": "iptables", "nft": "nftables"})
    _launch(data, env)
    try:
        network.ensure(_own_client(), own_engine=True)
    except SandboxError as error:
        stop()
        raise NoEngineError(str(error)) from None


def _launch(data: str, env: dict[str, str]) -> None:
    """Start dockerd, and wait until it answers."""
    _LOG.parent.mkdir(exist_ok=True)
    runtime_dir()
    options = {
        "host": f"unix://{_SOCKET}",
        "pidfile": _PIDFILE,
        "data-root": data,
        "exec-root": RUNTIME / "exec",
        # Its own place in the cgroup tree, also where it would ask systemd for one.
        "exec-opt": "native.cgroupdriver=cgroupfs",
        "cgroup-parent": f"/{PREFIX}",
        # No docker0, no firewall chains: both have names that a second engine would share.
        # The fleet network has its own bridge and its own rules, see network.py.
        "bridge": "none",
        "iptables": "false",
        "ip6tables": "false",
    }
    say("engine", "starting")
    begin = time.monotonic()
    with _LOG.open("wb") as log:
        dockerd = subprocess.Popen(
            ["dockerd", *(f"--{name}={value}" for name, value in options.items())],
            executable=tools.find("dockerd"),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
        )

    def settled() -> bool:
        return dockerd.poll() is not None or (_SOCKET.exists() and answering() is not None)

    if not wait_until("engine", "waiting for it to answer", settled, 60):
        dockerd.terminate()
        raise NoEngineError(f"the engine did not answer within 60 s\n{tail(_LOG)}")
    if dockerd.poll() is not None:
        last = shorten(tail(_LOG, lines=1).rpartition("| ")[2], 200)
        raise NoEngineError(f"the engine ended at once (exit code {dockerd.returncode}): {last}\n{tail(_LOG)}")
    say("engine", f"answers after {time.monotonic() - begin:.1f} s")


def _refuse_if_impossible() -> None:
    if os.environ.get("DOCKER_HOST"):
        raise SandboxError(
            f"no engine answers at DOCKER_HOST={os.environ['DOCKER_HOST']}: start it, or unset "
            "DOCKER_HOST to have the sandbox start one of its own"
        )
    if not Path("/proc/self/ns").exists():
        raise SandboxError("no Docker engine answers: start it (Docker Desktop, for one) and try again")
    if os.geteuid() != 0:
        raise SandboxError(
            "no Docker engine answers, and only root can start one: run this as root, or "
            "start Docker and make yourself a member of the group `docker`"
        )
    lacks = lacking(capabilities_of_this_process("CapEff"), mounts=_may_mount())
    if lacks:
        raise NoEngineError(f"root may not {lacks} here, so this is an unprivileged container")


def lacking(effective: int, *, mounts: bool) -> str:
    """What root may not do here though an engine has to; nothing if it may all.

    `effective` are its capabilities as a bit mask, and `mounts` says whether a mount came off: a security module can
    forbid that to root with all capabilities.
    """
    tried = {"mount": mounts, "set up networks": bool(effective >> _CAP_NET_ADMIN & 1)}
    return " or ".join(what for what, may in tried.items() if not may)


def _may_mount() -> bool:
    with tempfile.TemporaryDirectory() as where:
        if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", where], capture_output=True, check=False).returncode != 0:
            return False
        subprocess.run(["umount", where], check=True)
    return True


def _remember_machine() -> dict[str, Any]:
    """Write down how the machine was before our first engine; later starts change nothing."""
    if not _BEFORE.exists():
        _HOME.mkdir(parents=True, exist_ok=True)
        before = {
            "data": str(_data_root()),
            "absent": [path for path in _FOOTPRINT if not Path(path).exists()],
            "ip_forward": _IP_FORWARD.read_text().strip(),
            "mounted_cgroups": _mount_cgroups(),
        }
        _BEFORE.write_text(json.dumps(before, indent=2))
    loaded: dict[str, Any] = json.loads(_BEFORE.read_text())
    return loaded


def _mount_cgroups() -> bool:
    """Mount the cgroup tree if the machine has none; return whether that was done."""
    if any(_CGROUPS.iterdir()):
        return False
    mount = ["mount", "-t", "cgroup2", "cgroup2", str(_CGROUPS)]
    try:
        run_logged("engine", f"mounting the cgroup tree: {_CGROUPS} is empty", mount, timeout=10)
    except SandboxError as error:
        raise NoEngineError(str(error)) from None
    return True


def _data_root() -> Path:
    """A directory that can hold the engine's layers: under `.sandbox/` if possible."""
    for path in (_HOME / "data", Path("/var/lib") / PREFIX):
        path.mkdir(parents=True, exist_ok=True)
        if _holds_overlays(path):
            return path
        path.rmdir()
    raise NoEngineError(
        f"neither {STATE} nor /var/lib is on a filesystem that can hold overlay layers (ext4 and xfs can)"
    )


def _holds_overlays(path: Path) -> bool:
    with tempfile.TemporaryDirectory(dir=path) as temporary:
        lower, upper, work, merged = (Path(temporary, name) for name in "luwm")
        for directory in (lower, upper, work, merged):
            directory.mkdir()
        layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
        mount = ["mount", "-t", "overlay", "overlay", "-o", layers, str(merged)]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            return False
        subprocess.run(["umount", merged], check=True)
        return True


def _own_cgroups() -> list[Path]:
    """Our engine's part of the cgroup tree, or of each tree on cgroup v1; the innermost first."""
    tops = [*_CGROUPS.glob(PREFIX), *_CGROUPS.glob(f"*/{PREFIX}")]
    return [Path(directory) for top in tops for directory, _, _ in os.walk(top, topdown=False)]


def _end_leftovers() -> None:
    """Kill what survives an engine that was killed itself: containers and their keepers."""

    def survivors() -> set[int]:
        keepers = [process.name for process in Path("/proc").glob("[0-9]*") if _is_keeper(process.name)]
        pids = set(map(int, keepers))
        for group in _own_cgroups():
            with suppress(OSError):  # gone meanwhile
                pids.update(map(int, (group / "cgroup.procs").read_text().split()))
        return pids

    def all_ended() -> bool:
        found = survivors()
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    if not wait_until("engine", "ending what it left running", all_ended, 30):
        raise SandboxError(f"these processes of our engine cannot be ended: {sorted(survivors())}")


def _is_keeper(pid: str) -> bool:
    return any(str(RUNTIME / "exec") in word for word in arguments_of(pid))


def _remove_cgroups() -> bool:
    """Remove our engine's cgroups, which are empty; return whether none is left."""
    for group in _own_cgroups():
        with suppress(OSError):  # a process in it is still ending
            group.rmdir()
    return not _own_cgroups()


def _unmount_below(*roots: Path) -> None:
    """Unmount what a killed engine left mounted, innermost first."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in reversed(mounted):
        if any(Path(point).is_relative_to(root) for root in roots):
            subprocess.run(["umount", "--lazy", point], check=False)
