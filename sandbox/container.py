"""Hosts as system containers: systemd as the first process, and an engine of their own inside.

They boot in seconds at native speed, and share the machine's kernel: what a deploy sets
there (vm.* sysctls, transparent huge pages) is the machine's, and shows on all of them.
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

# On two emulated cores, shared with other work, systemd alone took 69 s or a little more.
BOOT_TIMEOUT = 180.0

# A runaway in a host must not take the machine with it.
_MEMORY = "3g"
_PIDS = 4096
_SHUTDOWN = 30

# By number, as the kernel counts them (linux/capability.h). The three after these are not
# known to every engine, and parts of SYS_ADMIN.
_CAPABILITIES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
    SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP
    MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
""".split()  # noqa: SIM905 - a list of them is a page long


# Resumes what its own engine has paused.
_THAW = "docker ps --quiet --filter status=paused | xargs -r docker unpause"


def create(host: Host, *, host_key: KeyPair, authorized_key: str) -> Host:
    """Make the container and its volume; engine, network and image are made if need be."""
    client = engine.ensure()
    fleet = network.ensure(client, own_engine=engine.is_running())
    image = image_build.ensure_host(client, host.image)
    legacy = client.info().get("CgroupVersion", "1") == "1"
    address = network.free_address(network.subnet_of(fleet), _addresses(client))
    remove(host)  # what an interrupted attempt may have left
    client.volumes.create(_volume(host), labels=LABELS)
    api = client.api
    host_config = api.create_host_config(
        cap_add=capabilities(capabilities_of_this_process("CapBnd")),
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
        device_cgroup_rules=["a *:* rwm"],
        tmpfs={"/run": "", "/run/lock": "", **({"/sys/fs/cgroup": "mode=755"} if legacy else {})},
        binds=[
            *(f"{path}:{path}:rw" for path in (_legacy_cgroups() if legacy else [])),
            # Layers on layers do not work: the inner engine's have to lie on the disk itself.
            f"{_volume(host)}:/var/lib/docker",
        ],
        mem_limit=_MEMORY,
        memswap_limit=_MEMORY,
        pids_limit=_PIDS,
        port_bindings={22: ("127.0.0.1", host.ssh_port)},
        network_mode=PREFIX,
    )
    # What `--security-opt systempaths=unconfined` does; the engine inside needs all of /proc.
    host_config["MaskedPaths"] = []
    host_config["ReadonlyPaths"] = []
    # A private cgroup namespace breaks journald and nested containers on cgroup v1. On v2 it
    # takes one for the engine inside to place, pause and limit its containers in this host.
    host_config["CgroupnsMode"] = "host" if legacy else "private"
    created = api.create_container(
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
    api.put_archive(created["Id"], "/", _archive(ssh_identity.files(host_key, authorized_key)))
    return dataclasses.replace(host, address=address)


def start(host: Host) -> None:
    """Start the container, and the engine and network if they are down."""
    client = engine.ensure()
    network.ensure(client, own_engine=engine.is_running())
    try:
        _container(host).start()
    except docker.errors.APIError as error:
        why = str(error.explanation or error)
        raise SandboxError(f"the engine cannot start {host.name}: {why}{host.port_hint(why)}") from error


def stop(host: Host) -> None:
    """Have systemd shut everything down, then stop the container."""
    _container(host).stop(timeout=_SHUTDOWN)


def kill(host: Host) -> None:
    """Kill the container's first process, and so all others."""
    _container(host).kill()


def remove(host: Host) -> None:
    """Remove the container and its volume."""
    client = engine.ensure() if engine.was_started() else engine.answering()
    if client is None:
        if host.kind == "container":
            raise SandboxError(f"the engine that has {host.name} does not answer: start it, and try again")
        return
    with suppress(docker.errors.NotFound):
        container = client.containers.get(_container_name(host))
        if container.status == "running":
            # By version 1 of cgroups what is frozen in it cannot be killed, and so neither can the host.
            with suppress(docker.errors.APIError):
                container.exec_run(["timeout", "20", "sh", "-c", _THAW])
        container.remove(force=True, v=True)
    with suppress(docker.errors.NotFound):
        client.volumes.get(_volume(host)).remove()


def is_running(host: Host) -> bool:
    """Whether the container runs; without an engine, none does."""
    client = engine.answering()
    if client is None:
        return False
    try:
        return client.containers.get(_container_name(host)).status == "running"
    except docker.errors.NotFound:
        return False


def diagnose(host: Host) -> str:
    """The end of the journal and the units that failed, read through the engine."""
    container = _container(host)
    if container.status != "running":
        code = container.attrs["State"]["ExitCode"]
        return f"the container is {container.status} (exit code {code}):\n{_text(container.logs(tail=20))}"
    commands = ("systemctl --failed --no-pager", "journalctl --no-pager -n 25 -p notice")
    return "\n".join(_text(container.exec_run(command).output) for command in commands)


def capabilities(bounding_set: int) -> list[str]:
    """What to ask the engine for: everything, or by name what the machine itself has.

    Where the machine lacks one, `--privileged` fails. So does ALL with older engines, and ALL
    without the one that is missing with newer ones.
    """
    there = [name for bit, name in enumerate(_CAPABILITIES) if bounding_set >> bit & 1]
    return ["ALL"] if there == _CAPABILITIES else there


def _init(legacy: bool) -> list[str]:
    """The first process, which has to find a cgroup tree that it can use."""
    if legacy:
        # systemd refuses cgroup v1 unless told twice.
        return ["/sbin/init", "systemd.unified_cgroup_hierarchy=0", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]
    # The engine mounts the tree of a private namespace, but read-only.
    return ["/bin/sh", "-c", "mount -o remount,rw /sys/fs/cgroup && exec /sbin/init"]


def _legacy_cgroups() -> list[str]:
    """What a host has to see of the machine's cgroup v1 tree.

    That is each hierarchy, but not the tmpfs that holds them: systemd adds directories
    there and remounts it read-only, which would happen to the machine's.
    """
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [path for path in mounted if path.startswith("/sys/fs/cgroup/")]


def _archive(files: Iterable[File]) -> bytes:
    """Files as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in files:
            info = tarfile.TarInfo(file.path.lstrip("/"))
            info.size, info.mode, info.uid, info.gid = len(file.text), file.mode, file.uid, 0
            archive.addfile(info, io.BytesIO(file.text.encode()))
    return buffer.getvalue()


def _text(output: bytes | Iterator[bytes]) -> str:
    whole = output if isinstance(output, bytes) else b"".join(output)
    return whole.decode(errors="replace").strip()


def _container(host: Host) -> Container:
    try:
        return engine.ensure().containers.get(_container_name(host))
    except docker.errors.NotFound:
        raise SandboxError(
            f"{host.name} has lost its container: `python -m sandbox down {host.name}`, then `up`"
        ) from None


def _container_name(host: Host) -> str:
    return f"{PREFIX}-{host.name}"


def _volume(host: Host) -> str:
    return f"{PREFIX}-{host.name}-docker"


def _addresses(client: docker.DockerClient) -> list[str | None]:
    """The addresses that the hosts have, stopped ones too."""
    found = client.containers.list(all=True, filters={"label": f"{LABEL}={ID}"})
    settings = [container.attrs["NetworkSettings"]["Networks"] for container in found]
    return [
        (networks[PREFIX].get("IPAMConfig") or {}).get("IPv4Address") for networks in settings if PREFIX in networks
    ]
