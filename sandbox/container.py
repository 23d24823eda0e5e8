"""Hosts as system containers, with systemd as PID 1 and a Docker of their own.

They boot in seconds and share the kernel of this machine: its settings (vm.* sysctls, transparent huge pages) are the
same on all of them.
"""

from __future__ import annotations

import dataclasses
import io
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import docker
from docker.models.containers import Container

from sandbox import engine, image_build, network, ssh_identity
from sandbox.ssh import KeyPair
from sandbox.ssh_identity import File
from sandbox.util import ID, LABEL, LABELS, PREFIX, SandboxError, capabilities_of_this_process

if TYPE_CHECKING:
    from sandbox.hosts import Host

# On two busy emulated cores, systemd took about 70 s.
BOOT_TIMEOUT = 180.0

# Limits of a host, so that it cannot exhaust this machine.
_MEMORY = "3g"
_PIDS = 4096
_SHUTDOWN = 30

# In the kernel's order (linux/capability.h). The three later ones are parts of SYS_ADMIN that not every Docker knows.
_CAPABILITIES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
    SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP
    MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
""".split()  # noqa: SIM905 - a list of them is a page long


_UNPAUSE = "docker ps --quiet --filter status=paused | xargs -r docker unpause"


def create(host: Host, *, host_key: KeyPair, authorized_key: str) -> Host:
    """Create the container and its volume.

    If necessary, also start Docker and create the network and the image.
    """
    client = engine.ensure()
    fleet = network.ensure(client, own_engine=engine.is_running())
    image = image_build.ensure_host(client, host.image)
    legacy = client.info().get("CgroupVersion", "1") == "1"
    address = network.free_address(network.subnet_of(fleet), _addresses(client))
    # An interrupted attempt may have left a container.
    remove(host)
    client.volumes.create(_volume(host), labels=LABELS)
    api = client.api
    host_config = api.create_host_config(
        cap_add=capabilities(capabilities_of_this_process("CapBnd")),
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
        device_cgroup_rules=["a *:* rwm"],
        tmpfs={"/run": "", "/run/lock": "", **({"/sys/fs/cgroup": "mode=755"} if legacy else {})},
        binds=[
            *(f"{path}:{path}:rw" for path in (_legacy_cgroups() if legacy else [])),
            # Overlays cannot lie on overlays, so those of the host's Docker need a volume.
            f"{_volume(host)}:/var/lib/docker",
        ],
        mem_limit=_MEMORY,
        memswap_limit=_MEMORY,
        pids_limit=_PIDS,
        port_bindings={22: ("127.0.0.1", host.ssh_port)},
        network_mode=PREFIX,
    )
    # As with `--security-opt systempaths=unconfined`: the host's Docker needs all of /proc.
    host_config["MaskedPaths"] = []
    host_config["ReadonlyPaths"] = []
    # A private cgroup namespace breaks journald and nested containers on cgroup v1. On v2 the host's Docker needs one
    # to place, pause and limit its containers.
    host_config["CgroupnsMode"] = "host" if legacy else "private"
    container = api.create_container(
        image,
        command=_init(legacy),
        name=_container_name(host),
        hostname=host.name,
        environment={"container": "docker"},
        labels=LABELS,
        ports=[22],
        host_config=host_config,
        networking_config=api.create_networking_config(
            {PREFIX: api.create_endpoint_config(ipv4_address=address, aliases=[host.name])}  # type: ignore[arg-type]
        ),
    )
    api.put_archive(container["Id"], "/", _archive(ssh_identity.files(host_key, authorized_key)))
    return dataclasses.replace(host, address=address)


def start(host: Host) -> None:
    """Start the container, and Docker and the network if they are down."""
    client = engine.ensure()
    network.ensure(client, own_engine=engine.is_running())
    try:
        _container(host).start()
    except docker.errors.APIError as error:
        reason = str(error.explanation or error)
        raise SandboxError(f"Docker cannot start {host.name}: {reason}{host.port_hint(reason)}") from error


def stop(host: Host) -> None:
    """Have systemd shut down, and stop the container."""
    _container(host).stop(timeout=_SHUTDOWN)


def kill(host: Host) -> None:
    """Kill the container."""
    _container(host).kill()


def remove(host: Host) -> None:
    """Remove the container and its volume."""
    client = engine.ensure() if engine.was_started() else engine.answering()
    if client is None:
        if host.kind == "container":
            raise SandboxError(f"the Docker that runs {host.name} does not answer: start it and try again")
        return
    with suppress(docker.errors.NotFound):
        container = client.containers.get(_container_name(host))
        if container.status == "running":
            # With cgroup v1 a paused container inside cannot be killed, and neither can the host.
            with suppress(docker.errors.APIError):
                container.exec_run(["timeout", "20", "sh", "-c", _UNPAUSE])
        container.remove(force=True, v=True)
    with suppress(docker.errors.NotFound):
        client.volumes.get(_volume(host)).remove()


def is_running(host: Host) -> bool:
    """Return whether the container runs."""
    client = engine.answering()
    if client is None:
        return False
    try:
        return client.containers.get(_container_name(host)).status == "running"
    except docker.errors.NotFound:
        return False


def diagnose(host: Host, *, lines: int = 25, priority: str = "notice") -> str:
    """Return the end of the journal and the failed units, read with docker exec."""
    container = _container(host)
    if container.status != "running":
        code = container.attrs["State"]["ExitCode"]
        return f"the container is {container.status} (exit code {code}):\n{_text(container.logs(tail=20))}"
    commands = ("systemctl --failed --no-pager", f"journalctl --no-pager -n {lines} -p {priority}")
    return "\n".join(_text(container.exec_run(command).output) for command in commands)


def capabilities(bounding_set: int) -> list[str]:
    """Return the capabilities to request: ALL, or the names of those available.

    If this machine lacks one, `--privileged` fails. ALL fails as well, with newer versions of Docker even without the
    missing one.
    """
    present = [name for bit, name in enumerate(_CAPABILITIES) if bounding_set >> bit & 1]
    return ["ALL"] if present == _CAPABILITIES else present


def _init(legacy: bool) -> list[str]:
    """Return the command of the first process, which needs a usable cgroup tree."""
    if legacy:
        # systemd accepts cgroup v1 only with both options.
        return ["/sbin/init", "systemd.unified_cgroup_hierarchy=0", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]
    # Docker mounts the tree of a private namespace read-only.
    return ["/bin/sh", "-c", "mount -o remount,rw /sys/fs/cgroup && exec /sbin/init"]


def _legacy_cgroups() -> list[str]:
    """Return the cgroup v1 hierarchies that a host needs.

    They do not include their tmpfs: systemd would add directories to the machine's and remount it read-only.
    """
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [path for path in mounted if path.startswith("/sys/fs/cgroup/")]


def _archive(files: Iterable[File]) -> bytes:
    """Return files as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in files:
            info = tarfile.TarInfo(file.path.lstrip("/"))
            info.size, info.mode, info.uid, info.gid = len(file.text), file.mode, file.uid, 0
            archive.addfile(info, io.BytesIO(file.text.encode()))
    return buffer.getvalue()


def _text(output: bytes | Iterator[bytes]) -> str:
    data = output if isinstance(output, bytes) else b"".join(output)
    return data.decode(errors="replace").strip()


def _container(host: Host) -> Container:
    try:
        return engine.ensure().containers.get(_container_name(host))
    except docker.errors.NotFound:
        raise SandboxError(
            f"{host.name} has no container: run `python -m sandbox down {host.name}`, then `up`"
        ) from None


def _container_name(host: Host) -> str:
    return f"{PREFIX}-{host.name}"


def _volume(host: Host) -> str:
    return f"{PREFIX}-{host.name}-docker"


def _addresses(client: docker.DockerClient) -> list[str | None]:
    """Return the addresses of all hosts, also of stopped ones."""
    containers = client.containers.list(all=True, filters={"label": f"{LABEL}={ID}"})
    settings = [container.attrs["NetworkSettings"]["Networks"] for container in containers]
    return [
        (networks[PREFIX].get("IPAMConfig") or {}).get("IPv4Address") for networks in settings if PREFIX in networks
    ]
