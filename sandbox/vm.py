"""Hosts as virtual machines: a kernel of their own, a boot, a disk and a power switch.

They run under QEMU, with KVM where the processor really has it and emulated otherwise: then a boot takes half a minute
and everything is several times slower. Their network is QEMU's own: they reach the archives through the machine, and
nothing reaches them but SSH on a loopback port of the machine.
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

# Emulated on two cores with a test run beside it, it took 22 s until SSH answered.
BOOT_TIMEOUT = 300.0

_CORES = 2
# Redis of the default size may use 1536 MiB, and the engine wants some too.
_MEMORY_MIB = 2560
_SHUTDOWN = 120

_MACHINES = STATE / "machines"


def create(host: Host, *, host_key: KeyPair, authorized_key: str) -> Host:
    """Make the machine's disk, and what tells it at its first boot who it is."""
    image = disk.ensure(host.image)
    disk.qemu()
    remove(host)  # what an interrupted attempt may have left
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
    """Switch the machine on."""
    directory = _directory(host)
    if not (directory / "disk.raw").exists():
        raise SandboxError(f"{host.name} has lost its disk: `python -m sandbox down {host.name}`, then `up`")
    _console(host).parent.mkdir(parents=True, exist_ok=True)
    options = command(host, Image(directory), _console(host), _pidfile(host), kvm=has_kvm())
    how = "switching on, with KVM" if has_kvm() else "switching on, emulated: this takes its time"
    try:
        run_logged(host.name, how, [*disk.qemu(), *options], timeout=60)
    except SandboxError as error:
        raise SandboxError(f"{error}{host.port_hint(str(error))}") from None


def stop(host: Host) -> None:
    """Have systemd shut everything down, and wait until the machine is off."""
    # The connection ends with the machine: what ssh says of that is of no use.
    with suppress(subprocess.TimeoutExpired):
        host.run("systemctl poweroff", timeout=_SHUTDOWN)
    ssh.hang_up(host.name)
    if not wait_until(host.name, "waiting for it to shut down", lambda: not is_running(host), _SHUTDOWN):
        raise SandboxError(f"{host.name} did not shut down within {_SHUTDOWN} s\n{diagnose(host)}")


def kill(host: Host) -> None:
    """Cut the power: what the machine had not written to its disk is lost."""
    pid = _pid(host)
    if pid is not None:
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(pid, signal.SIGKILL)
        if not wait_until(host.name, "waiting for its end", lambda: _has_ended(pid), 60):
            raise SandboxError(f"QEMU (pid {pid}) cannot be ended")


def remove(host: Host) -> None:
    """Switch the machine off and remove its disk."""
    kill(host)
    shutil.rmtree(_directory(host), ignore_errors=True)


def is_running(host: Host) -> bool:
    """Whether the machine is switched on."""
    return _pid(host) is not None


def diagnose(host: Host) -> str:
    """The end of what it wrote to its serial console, over all of its boots."""
    return tail(_console(host), lines=40)


@contextmanager
def engine(host: Host) -> Iterator[docker.DockerClient]:
    """The container engine in a machine of image `host`, for a machine below it that can run none itself."""
    path = runtime_dir() / f"{host.name}-docker.sock"
    path.unlink(missing_ok=True)
    # A connection of its own, which ends with the process.
    forward = ssh.command(host.name, "-o", "ControlPath=none", "-N", "-L", f"{path}:/run/docker.sock")
    process = subprocess.Popen(forward, env=ssh.environment(), stdin=subprocess.DEVNULL)
    try:
        if not wait_until(host.name, "waiting for its engine", path.exists, 60):
            raise SandboxError(f"the engine in {host.name} is not reached over SSH")
        yield docker.DockerClient(base_url=f"unix://{path}", version="auto", timeout=600)
    finally:
        process.terminate()
        process.wait()
        path.unlink(missing_ok=True)


def has_kvm() -> bool:
    """Whether guests run on the processor itself. A machine that is a guest may have the device and no more."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    return bool(flags & {"vmx", "svm"}) and os.access("/dev/kvm", os.R_OK | os.W_OK)


def command(host: Host, image: Image, console: Path, pidfile: Path, *, kvm: bool) -> list[str]:
    """QEMU's options for a machine."""
    accelerator = ["-accel", "kvm", "-cpu", "host"] if kvm else ["-accel", "tcg,thread=multi", "-cpu", "max"]
    return [
        *accelerator,
        *("-smp", str(_CORES), "-m", str(_MEMORY_MIB)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-daemonize", "-pidfile", str(pidfile)),
        *("-chardev", f"file,id=console,path={_value(console)},append=on", "-serial", "chardev:console"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        # eth0 whatever the bus; the console is the log that is left when a boot fails.
        *("-append", f"root=/dev/vda rw console=ttyS0 net.ifnames=0 systemd.hostname={host.name}"),
        # QEMU passes each write to this machine's page cache, which survives a killed QEMU. Flushing the disk as well
        # would only cost time: a power cut loses what the guest has not written, as on real hardware.
        *("-drive", f"file={_value(image.disk)},format=raw,if=virtio,cache=unsafe"),
        *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{host.ssh_port}-:22"),
        *("-device", "virtio-net-pci,netdev=net,romfile="),
        *("-device", "virtio-rng-pci"),
        # systemd takes credentials from there; systemd-tmpfiles makes the files that this one names.
        *("-fw_cfg", f"name=opt/io.systemd.credentials/tmpfiles.extra,file={_value(image.directory / 'identity')}"),
    ]


def _value(path: Path) -> str:
    """A path as the value of one of QEMU's options, which end at a comma."""
    return str(path).replace(",", ",,")


def tmpfiles(files: Iterable[File]) -> str:
    """Files as lines of tmpfiles.d, written at every boot. The machine makes its own machine-id."""
    lines = [
        f"f+~ {file.path} {file.mode:04o} {file.uid} 0 - {base64.b64encode(file.text.encode()).decode()}"
        for file in files
        if file.path != "/etc/machine-id"
    ]
    return "".join(f"{line}\n" for line in lines)


def _hosts(host: Host) -> File:
    """sudo looks its own host's name up."""
    return File("/etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {host.name}\n::1 localhost\n", 0o644)


def _pid(host: Host) -> int | None:
    """The process id of the machine's QEMU, None if it does not run."""
    return running(_pidfile(host), str(_pidfile(host)))


def _has_ended(pid: int) -> bool:
    """Whether its files are closed: one that is ending has no arguments any more, and still holds its disk and lock."""
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
