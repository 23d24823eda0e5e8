"""The Docker engine: the one that answers here, or one of our own.

An engine that the operator has is used as it is. On a bare machine a dockerd is started
for this checkout alone, with its socket, data and log apart from any other engine's, so
that it can be taken away again without a trace.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import docker
import requests

from sandbox import network, toolbox
from sandbox.common import (
    PREFIX,
    RUNTIME,
    STATE,
    SandboxError,
    run_logged,
    runtime_dir,
    say,
    tail,
    wait_until,
)

SOCKET = RUNTIME / "docker.sock"
CGROUP = f"/{PREFIX}"
_PIDFILE = RUNTIME / "dockerd.pid"
_HOME = STATE / "engine"
_LOG = STATE / "log" / "dockerd.log"
_RECORD = _HOME / "before.json"

# What a dockerd makes outside the directories that it is given.
_FOOTPRINT = tuple(
    map(
        Path,
        (
            "/etc/docker/key.json",
            "/etc/docker",
            "/opt/containerd/bin",
            "/opt/containerd/lib",
            "/opt/containerd",
            "/run/docker/plugins",
            "/run/docker",
            "/run/containerd/s",
            "/run/containerd",
        ),
    )
)
_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


def answering() -> docker.DockerClient | None:
    """The engine in use: ours if it runs, else the one a `docker` command would talk to."""
    if is_running():
        return docker.DockerClient(base_url=f"unix://{SOCKET}", version="auto", timeout=120)
    try:
        client = docker.from_env(version="auto", timeout=10)
        client.ping()
    except (docker.errors.DockerException, requests.RequestException):
        return None
    client.api.timeout = 120
    return client


def is_running() -> bool:
    """Whether an engine of our own runs."""
    return _pid() is not None


def ensure() -> docker.DockerClient:
    """Return an engine that answers; start one of our own if there is none."""
    client = answering()
    if client is None:
        _start()
        client = answering()
    if client is None:
        raise SandboxError(f"the engine went away while starting\n{tail(_LOG)}")
    return client


def stop() -> None:
    """Stop our own engine, with the containers in it. Another engine is left alone."""
    pid = _pid()
    if pid is None:
        return
    say("engine", "stopping")
    network.unroute()
    os.kill(pid, signal.SIGTERM)
    if not wait_until("engine", "waiting for it to end", lambda: not _alive(pid), 60):
        raise SandboxError(f"dockerd (pid {pid}) did not end within 60 s\n{tail(_LOG)}")


def remove() -> None:
    """Take our own engine off the machine: process, mounts, data, whatever else it made."""
    stop()
    if RUNTIME.exists() or _HOME.exists():
        _unmount_below(RUNTIME, _HOME)
    before = json.loads(_RECORD.read_text()) if _RECORD.exists() else {}
    for path in _FOOTPRINT:
        if str(path) not in before.get("absent", []):
            continue
        try:
            path.unlink() if path.is_file() else path.rmdir()
        except OSError:
            pass  # not there, or not empty: another engine came to use it
    others = [path for path in Path("/run").glob("redoubt-*/docker.sock") if path != SOCKET]
    if before.get("ip_forward") == "0" and not others and not Path("/run/docker.sock").exists():
        _IP_FORWARD.write_text("0")
    _remove_cgroups()
    if before.get("mounted_cgroups"):
        subprocess.run(["umount", "/sys/fs/cgroup"], check=False)
    shutil.rmtree(before.get("data", _HOME), ignore_errors=True)
    shutil.rmtree(_HOME, ignore_errors=True)
    shutil.rmtree(RUNTIME, ignore_errors=True)


def _pid() -> int | None:
    """The process id of our own dockerd, None if it does not run."""
    try:
        pid = int(_PIDFILE.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    # A pid alone proves nothing: after a crash it may be somebody else's.
    return pid if f"--pidfile={_PIDFILE}".encode() in command else None


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _start() -> None:
    _refuse_if_impossible()
    env = toolbox.provide({"dockerd": "docker.io", "iptables": "iptables"})
    _HOME.mkdir(parents=True, exist_ok=True)
    _LOG.parent.mkdir(exist_ok=True)
    record = _remember(_data_root())
    runtime_dir()
    say("engine", "starting")
    start = time.monotonic()
    options = {
        "host": f"unix://{SOCKET}",
        "pidfile": _PIDFILE,
        "data-root": record["data"],
        "exec-root": RUNTIME / "exec",
        "cgroup-parent": CGROUP,
        # No docker0, no firewall chains: both have names that a second engine would share.
        # The fleet network has its own bridge and its own rules, see network.py.
        "bridge": "none",
        "iptables": "false",
        "ip6tables": "false",
    }
    with _LOG.open("wb") as log:
        dockerd = subprocess.Popen(
            ["dockerd", *(f"--{name}={value}" for name, value in options.items())],
            executable=toolbox.find("dockerd"),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
        )

    def settled() -> bool:
        return dockerd.poll() is not None or (SOCKET.exists() and answering() is not None)

    if not wait_until("engine", "waiting for it to answer", settled, 60):
        dockerd.terminate()
        raise SandboxError(f"the engine did not answer within 60 s\n{tail(_LOG)}")
    if dockerd.poll() is not None:
        raise SandboxError(
            f"the engine ended at once (exit code {dockerd.returncode})\n{tail(_LOG)}\n"
            "Inside an unprivileged container no engine can run; on a machine, the log says why."
        )
    say("engine", f"answers after {time.monotonic() - start:.1f} s")


def _refuse_if_impossible() -> None:
    if os.environ.get("DOCKER_HOST"):
        raise SandboxError(
            f"no engine answers at DOCKER_HOST={os.environ['DOCKER_HOST']}: start it, or unset "
            "DOCKER_HOST to have the sandbox start one of its own"
        )
    if not Path("/proc/self/ns").exists():
        raise SandboxError("no Docker engine answers: start it (Docker Desktop, for one)")
    if os.geteuid() != 0:
        raise SandboxError(
            "no Docker engine answers, and only root can start one: run this as root, or "
            "start Docker and make yourself a member of the group `docker`"
        )
    with tempfile.TemporaryDirectory() as where:
        probe = subprocess.run(
            ["mount", "-t", "tmpfs", "tmpfs", where], capture_output=True, text=True, check=False
        )
        if probe.returncode != 0:
            raise SandboxError(
                "root may not mount here, so no engine can run: this seems to be an unprivileged "
                f"container. Use a machine, or a container with --privileged.\n{probe.stderr}"
            )
        subprocess.run(["umount", where], check=True)


def _remember(data: Path) -> dict[str, object]:
    """Write down how the machine was before our first engine; later starts change nothing."""
    if not _RECORD.exists():
        record = {
            "data": str(data),
            "absent": [str(path) for path in _FOOTPRINT if not path.exists()],
            "ip_forward": _IP_FORWARD.read_text().strip(),
            "mounted_cgroups": _mount_cgroups(),
        }
        _RECORD.write_text(json.dumps(record, indent=2))
    loaded: dict[str, object] = json.loads(_RECORD.read_text())
    return loaded


def exists() -> bool:
    """Whether this checkout ever started an engine of its own."""
    return _RECORD.exists()


def _mount_cgroups() -> bool:
    """Mount the cgroup tree if the machine has none; return whether that was done."""
    if any(Path("/sys/fs/cgroup").iterdir()):
        return False
    mount = ["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"]
    run_logged("engine", "mounting /sys/fs/cgroup, which is empty", mount, timeout=10)
    return True


def _data_root() -> Path:
    """A directory that can hold the engine's layers: under `.sandbox/` if possible."""
    for path in (_HOME / "data", Path("/var/lib") / PREFIX):
        path.mkdir(parents=True, exist_ok=True)
        if _holds_overlays(path):
            return path
        path.rmdir()
    raise SandboxError(
        f"neither {STATE} nor /var/lib is on a filesystem that can hold overlay layers "
        "(ext4 or xfs can): put the checkout on one that can"
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


def _unmount_below(*roots: Path) -> None:
    """Unmount what a killed engine left mounted, innermost first."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in reversed(mounted):
        if any(Path(point).is_relative_to(root) for root in roots):
            subprocess.run(["umount", "--lazy", point], check=False)


def _remove_cgroups() -> None:
    """Remove the empty cgroups that the engine leaves where its containers were."""
    for top in Path("/sys/fs/cgroup").glob(f"**{CGROUP}"):
        for directory, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                return
