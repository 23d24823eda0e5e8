"""Hosts as virtual machines, with their own kernel, boot, disk and power switch.

They run under QEMU, with KVM if the processor has it. Otherwise they are emulated: a boot takes half a minute, and
everything is several times slower. Their network is QEMU's: they reach the archives through this machine, and they are
reached only over SSH on a loopback port of this machine.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import docker

from sandbox import disk, ssh, ssh_identity
from sandbox.disk import Image
from sandbox.ssh import KeyPair
from sandbox.ssh_identity import File
from sandbox.util import STATE, SandboxError, run_logged, running, runtime_dir, tail, wait_until

if TYPE_CHECKING:
    from sandbox.hosts import Host

# Emulated on two cores during a test run, it took 22 s until SSH answered.
BOOT_TIMEOUT = 300.0

_CORES = 2
# Redis with default settings may use 1536 MiB, and Docker needs some memory as well.
_MEMORY_MIB = 2560
_SHUTDOWN = 120

_MACHINES = STATE / "machines"


def create(host: Host, *, host_key: KeyPair, authorized_key: str) -> Host:
    """Create the machine's disk, and the identity that it reads when it boots."""
    image = disk.ensure(host.image)
    disk.qemu()
    # An interrupted attempt may have left files.
    remove(host)
    directory = _directory(host)
    directory.mkdir(parents=True)
    disk.copy(image, directory / "disk.raw")
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(image.directory / name, directory / name)
    credential = directory / "identity"
    credential.touch(mode=0o600)
    credential.write_text(tmpfiles([*ssh_identity.files(host_key, authorized_key), _hosts(host)]))
    return host


def start(host: Host) -> None:
    """Start the machine."""
    directory = _directory(host)
    if not (directory / "disk.raw").exists():
        raise SandboxError(f"{host.name} has no disk: run `python -m sandbox down {host.name}`, then `up`")
    _console(host).parent.mkdir(parents=True, exist_ok=True)
    options = command(host, Image(directory), _console(host), _pidfile(host), kvm=has_kvm())
    text = "starting with KVM" if has_kvm() else "starting, emulated and therefore slow"
    try:
        run_logged(host.name, text, [*disk.qemu(), *options], timeout=60)
    except SandboxError as error:
        raise SandboxError(f"{error}{host.port_hint(str(error))}") from None


def stop(host: Host) -> None:
    """Have systemd shut down, and wait until the machine is off."""
    # The connection ends with the machine, so the result of ssh says nothing.
    with suppress(subprocess.TimeoutExpired):
        host.run("systemctl poweroff", timeout=_SHUTDOWN)
    ssh.hang_up(host.name)
    if not wait_until(host.name, "waiting for the shutdown", lambda: not is_running(host), _SHUTDOWN):
        raise SandboxError(f"{host.name} did not shut down within {_SHUTDOWN} s\n{diagnose(host)}")


def kill(host: Host) -> None:
    """Cut the power: the machine loses what it has not written to its disk."""
    pid = _pid(host)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if not wait_until(host.name, "waiting for QEMU to end", lambda: _has_ended(pid), 60):
            raise SandboxError(f"QEMU (pid {pid}) does not end: kill it and try again")


def remove(host: Host) -> None:
    """Kill the machine and remove its disk."""
    kill(host)
    shutil.rmtree(_directory(host), ignore_errors=True)


def is_running(host: Host) -> bool:
    """Return whether the machine runs."""
    return _pid(host) is not None


def diagnose(host: Host, *, lines: int = 40, priority: str = "") -> str:
    """Return the end of its serial console, over all of its boots.

    The console has no priorities.
    """
    return tail(_console(host), lines=lines)


@contextmanager
def engine(host: Host) -> Iterator[docker.DockerClient]:
    """Yield a client of the Docker in a virtual machine of image `host`.

    It is for a machine that cannot run Docker itself.
    """
    path = runtime_dir() / f"{host.name}-docker.sock"
    path.unlink(missing_ok=True)
    # A separate connection, which ends with the process.
    forward = ssh.command(host.name, "-o", "ControlPath=none", "-N", "-L", f"{path}:/run/docker.sock")
    process = subprocess.Popen(forward, env=ssh.environment(), stdin=subprocess.DEVNULL)
    try:
        if not wait_until(host.name, "waiting for its Docker", path.exists, 60):
            raise SandboxError(f"Docker in {host.name} cannot be reached over SSH")
        yield docker.DockerClient(base_url=f"unix://{path}", version="auto", timeout=600)
    finally:
        process.terminate()
        process.wait()
        path.unlink(missing_ok=True)


def has_kvm() -> bool:
    """Return whether KVM works.

    A machine that is a guest itself may have only the device.
    """
    flags = set(Path("/proc/cpuinfo").read_text().split())
    return bool(flags & {"vmx", "svm"}) and os.access("/dev/kvm", os.R_OK | os.W_OK)


def command(host: Host, image: Image, console: Path, pidfile: Path, *, kvm: bool) -> list[str]:
    """Return QEMU's options for a machine."""
    # An emulated AVX is slow, and programs use it where the processor has it: a boot takes 17 % less without it.
    accelerator = ["-accel", "kvm", "-cpu", "host"] if kvm else ["-accel", "tcg,thread=multi", "-cpu", "Westmere"]
    return [
        *accelerator,
        *("-smp", str(_CORES), "-m", str(_MEMORY_MIB)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-daemonize", "-pidfile", str(pidfile)),
        *("-chardev", f"file,id=console,path={_value(console)},append=on", "-serial", "chardev:console"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        # The network card is eth0 on any bus. If a boot fails, the console is the only log.
        *("-append", f"root=/dev/vda rw console=ttyS0 net.ifnames=0 systemd.hostname={host.name}"),
        # QEMU passes each write to this machine's page cache, which survives a killed QEMU. Flushing the disk as well
        # would only cost time: a power cut loses what the guest has not written, as on real hardware.
        *("-drive", f"file={_value(image.disk)},format=raw,if=virtio,cache=unsafe"),
        *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{host.ssh_port}-:22"),
        *("-device", "virtio-net-pci,netdev=net,romfile="),
        *("-device", "virtio-rng-pci"),
        # systemd reads credentials from there, and systemd-tmpfiles creates the files of this one.
        *("-fw_cfg", f"name=opt/io.systemd.credentials/tmpfiles.extra,file={_value(image.directory / 'identity')}"),
    ]


def _value(path: Path) -> str:
    """Return a path as the value of an option of QEMU, in which a comma is doubled."""
    return str(path).replace(",", ",,")


def tmpfiles(files: Iterable[File]) -> str:
    """Return files as lines of tmpfiles.d, which every boot writes.

    The machine-id is left out, because the machine creates its own.
    """
    lines = [
        f"f+~ {file.path} {file.mode:04o} {file.uid} 0 - {base64.b64encode(file.text.encode()).decode()}"
        for file in files
        if file.path != "/etc/machine-id"
    ]
    return "".join(f"{line}\n" for line in lines)


def _hosts(host: Host) -> File:
    """Return /etc/hosts: sudo resolves the host's name."""
    return File("/etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {host.name}\n::1 localhost\n", 0o644)


def _pid(host: Host) -> int | None:
    """Return the process id of the machine's QEMU; None if it does not run."""
    return running(_pidfile(host), str(_pidfile(host)))


def _has_ended(pid: int) -> bool:
    """Return whether a process has closed its files.

    An exiting process has no arguments but still holds its disk.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in ("Z", "X")


def _directory(host: Host) -> Path:
    return _MACHINES / host.name


def _pidfile(host: Host) -> Path:
    return _directory(host) / "qemu.pid"


def _console(host: Host) -> Path:
    return STATE / "log" / f"{host.name}-console.log"
