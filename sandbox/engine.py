"""Docker: the one that runs on this machine, or one that the sandbox starts.

The sandbox uses the operator's Docker without changing it. On a machine without Docker it starts a dockerd for this
checkout, with its own socket, data, cgroups and log, so that it can be removed without a trace.
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
# Seconds.
_TIMEOUT = 120
_CGROUPS = Path("/sys/fs/cgroup")
_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
# linux/capability.h
_CAP_NET_ADMIN = 12

# What a dockerd creates outside its own directories, innermost first.
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
    """Return a client of a Docker that answers, or None.

    It is the sandbox's Docker if that runs, else the one that the command `docker` uses.
    """
    try:
        client = _own_client() if is_running() else _default_client()
        client.ping()
    except (docker.errors.DockerException, requests.RequestException):
        return None
    return client


@functools.cache
def _own_client() -> docker.DockerClient:
    return docker.DockerClient(base_url=f"unix://{_SOCKET}", version="auto", timeout=_TIMEOUT)


@functools.cache
def _default_client() -> docker.DockerClient:
    return docker.from_env(version="auto", timeout=_TIMEOUT)


def is_running() -> bool:
    """Return whether the sandbox's Docker runs."""
    return _pid() is not None


def containers() -> list[str]:
    """Return the names of the running containers of the sandbox's Docker."""
    client = answering() if is_running() else None
    return [str(container.name) for container in client.containers.list()] if client else []


def was_started() -> bool:
    """Return whether this checkout has ever started its own Docker."""
    return _BEFORE.exists()


def ensure() -> docker.DockerClient:
    """Return a client of Docker; start the sandbox's Docker if none answers."""
    client = answering()
    if client is None:
        start()
        client = answering()
    if client is None:
        raise SandboxError(f"Docker stopped while it started\n{tail(_LOG)}")
    return client


def stop() -> None:
    """Stop the sandbox's Docker with its containers. Another Docker keeps running."""
    pid = _pid()
    if pid is not None:
        say("docker", "stopping")
        os.kill(pid, signal.SIGTERM)
        if not wait_until("docker", "waiting for dockerd to end", lambda: _pid() != pid, 60):
            raise SandboxError(f"dockerd (pid {pid}) did not end within 60 s\n{tail(_LOG)}")
    if was_started():
        network.unplug()


def remove() -> None:
    """Remove the sandbox's Docker and everything that it created.

    This includes its processes, mounts and data.
    """
    stop()
    if not was_started():
        return
    before = json.loads(_BEFORE.read_text())
    _end_leftovers()
    _unmount_below(RUNTIME, Path(before["data"]))
    for path in map(Path, before["absent"]):
        # A directory that is not empty is used by another Docker.
        with suppress(OSError):
            path.unlink() if path.is_file() else path.rmdir()
    others = [path for path in Path("/run").glob("redoubt-*/docker.sock") if path != _SOCKET]
    if before["ip_forward"] == "0" and not others and not Path("/run/docker.sock").exists():
        _IP_FORWARD.write_text("0")
    wait_until("docker", "removing its cgroups", _remove_cgroups, 10)
    if before["mounted_cgroups"]:
        subprocess.run(["umount", _CGROUPS], check=False)
    for directory in (Path(before["data"]), _HOME, RUNTIME):
        shutil.rmtree(directory, ignore_errors=True)


def _pid() -> int | None:
    """Return the process id of the sandbox's dockerd; None if it does not run."""
    return running(_PIDFILE, f"--pidfile={_PIDFILE}")


def start() -> None:
    """Start the sandbox's Docker with the network of the hosts, unless it runs.

    Raises NoEngineError if even root cannot, before anything is fetched if possible.
    """
    if is_running():
        return
    _ensure_possible()
    data = _record_machine()["data"]
    env = tools.provide({"dockerd": "docker.io", "iptables": "iptables", "nft": "nftables"})
    _launch(data, env)
    try:
        network.ensure(_own_client(), own_engine=True)
    except SandboxError as error:
        stop()
        raise NoEngineError(str(error)) from None


def _launch(data: str, env: dict[str, str]) -> None:
    """Start dockerd and wait until it answers."""
    _LOG.parent.mkdir(exist_ok=True)
    runtime_dir()
    options = {
        "host": f"unix://{_SOCKET}",
        "pidfile": _PIDFILE,
        "data-root": data,
        "exec-root": RUNTIME / "exec",
        # Its own cgroup, without asking systemd for one.
        "exec-opt": "native.cgroupdriver=cgroupfs",
        "cgroup-parent": f"/{PREFIX}",
        # No docker0 and no firewall chains: a second Docker would use the same names. network.py adds its own.
        "bridge": "none",
        "iptables": "false",
        "ip6tables": "false",
    }
    say("docker", "starting")
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

    def is_settled() -> bool:
        return dockerd.poll() is not None or (_SOCKET.exists() and answering() is not None)

    if not wait_until("docker", "waiting for an answer", is_settled, 60):
        dockerd.terminate()
        raise NoEngineError(f"Docker did not answer within 60 s\n{tail(_LOG)}")
    if dockerd.poll() is not None:
        last_line = shorten(tail(_LOG, lines=1).rpartition("| ")[2], 200)
        raise NoEngineError(f"Docker ended at once (exit code {dockerd.returncode}): {last_line}\n{tail(_LOG)}")
    say("docker", f"answers after {time.monotonic() - begin:.1f} s")


def _ensure_possible() -> None:
    if os.environ.get("DOCKER_HOST"):
        raise SandboxError(
            f"Docker does not answer at DOCKER_HOST={os.environ['DOCKER_HOST']}: start it, or unset "
            "DOCKER_HOST, so that the sandbox starts its own"
        )
    if not Path("/proc/self/ns").exists():
        raise SandboxError("Docker does not answer: start it (for example Docker Desktop) and try again")
    if os.geteuid() != 0:
        raise SandboxError(
            "Docker does not answer, and only root can start it: run this as root, or start Docker "
            "and become a member of the group `docker`"
        )
    denied = lacking(capabilities_of_this_process("CapEff"), mounts=_may_mount())
    if denied:
        raise NoEngineError(f"root may not {denied} here, so this is an unprivileged container")


def lacking(effective: int, *, mounts: bool) -> str:
    """Return what Docker needs and root may not do here; empty if nothing is missing.

    `effective` are root's capabilities as a bit mask. `mounts` says whether a mount succeeded: a security module can
    forbid mounts to a root that has all capabilities.
    """
    rights = {"mount": mounts, "set up networks": bool(effective >> _CAP_NET_ADMIN & 1)}
    return " or ".join(name for name, is_granted in rights.items() if not is_granted)


def _may_mount() -> bool:
    with tempfile.TemporaryDirectory() as directory:
        if (
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], capture_output=True, check=False).returncode
            != 0
        ):
            return False
        subprocess.run(["umount", directory], check=True)
    return True


def _record_machine() -> dict[str, Any]:
    """Record the state of the machine before the first start, and return it.

    Later starts read the record.
    """
    if not _BEFORE.exists():
        _HOME.mkdir(parents=True, exist_ok=True)
        before = {
            "data": str(_data_root()),
            "absent": [path for path in _FOOTPRINT if not Path(path).exists()],
            "ip_forward": _IP_FORWARD.read_text().strip(),
            "mounted_cgroups": _mount_cgroups(),
        }
        _BEFORE.write_text(json.dumps(before, indent=2))
    record: dict[str, Any] = json.loads(_BEFORE.read_text())
    return record


def _mount_cgroups() -> bool:
    """Mount the cgroup tree if the machine has none. Return whether it was mounted."""
    if any(_CGROUPS.iterdir()):
        return False
    mount = ["mount", "-t", "cgroup2", "cgroup2", str(_CGROUPS)]
    try:
        run_logged("docker", f"mounting the cgroup tree, because {_CGROUPS} is empty", mount, timeout=10)
    except SandboxError as error:
        raise NoEngineError(str(error)) from None
    return True


def _data_root() -> Path:
    """Return a directory that can hold overlay layers, under `.sandbox/` if possible."""
    for path in (_HOME / "data", Path("/var/lib") / PREFIX):
        path.mkdir(parents=True, exist_ok=True)
        if _holds_overlays(path):
            return path
        path.rmdir()
    raise NoEngineError(
        f"neither {STATE} nor /var/lib is on a file system that can hold overlay layers, such as ext4 or xfs"
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
    """Return the cgroups of the sandbox's Docker, innermost first.

    With cgroup v1, these are the cgroups of each hierarchy.
    """
    tops = [*_CGROUPS.glob(PREFIX), *_CGROUPS.glob(f"*/{PREFIX}")]
    return [Path(directory) for top in tops for directory, _, _ in os.walk(top, topdown=False)]


def _end_leftovers() -> None:
    """Kill the containers and shims that survive a killed Docker."""

    def survivors() -> set[int]:
        shims = [process.name for process in Path("/proc").glob("[0-9]*") if _is_shim(process.name)]
        pids = set(map(int, shims))
        for group in _own_cgroups():
            with suppress(OSError):
                pids.update(map(int, (group / "cgroup.procs").read_text().split()))
        return pids

    def have_ended() -> bool:
        pids = survivors()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    if not wait_until("docker", "ending its processes", have_ended, 30):
        raise SandboxError(f"these processes of Docker do not end: {sorted(survivors())}")


def _is_shim(pid: str) -> bool:
    return any(str(RUNTIME / "exec") in word for word in arguments_of(pid))


def _remove_cgroups() -> bool:
    """Remove the empty cgroups of the sandbox's Docker. Return whether none is left."""
    for group in _own_cgroups():
        # One of its processes may still be ending.
        with suppress(OSError):
            group.rmdir()
    return not _own_cgroups()


def _unmount_below(*roots: Path) -> None:
    """Unmount what a killed Docker left mounted, innermost first."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in reversed(mounted):
        if any(Path(point).is_relative_to(root) for root in roots):
            subprocess.run(["umount", "--lazy", point], check=False)
