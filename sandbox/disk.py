"""The disks of virtual machines, and QEMU: both from Debian's archive.

mmdebstrap builds a disk from the same recipe as the containers' image, without Docker. A disk is built again only if
its recipe has changed.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from sandbox import base_image, tools
from sandbox.util import STATE, SandboxError, run_logged

_RECIPES = Path(__file__).parent / "images"
# Disks and QEMU, which all virtual machines of a checkout share.
SHARED = STATE / "vm"
_QEMU = SHARED / "qemu"
# The file is sparse. Redis needs 3 x maxmemory, which is 3 GiB by default.
_SIZE = "12G"


@dataclass(frozen=True)
class Image:
    """A disk with Debian on it, and the kernel to boot it with."""

    directory: Path

    @property
    def disk(self) -> Path:
        """A raw image of an ext4 file system. Machines boot copies of it."""
        return self.directory / "disk.raw"

    @property
    def kernel(self) -> Path:
        """The kernel of the disk."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initial RAM disk of the kernel."""
        return self.directory / "initrd.img"


# The lists of packages of each image, and the scripts that run in all of them.
_PACKAGES = {
    "bare": ("host/packages", "vm/packages"),
    "host": ("host/packages", "host/engine-packages", "vm/packages"),
}
_SETUPS = ("host/setup.sh", "vm/setup.sh")


def ensure(name: str) -> Image:
    """Return the image `bare`, or `host` with Docker.

    Build it if its recipe changed, which takes half a minute.
    """
    if platform.machine() != "x86_64":
        raise SandboxError(f"virtual machines need x86_64, but this machine is {platform.machine()}")
    if os.geteuid() != 0:
        raise SandboxError("only root can build the disk of a virtual machine: run this as root on Debian or Ubuntu")
    image = Image(SHARED / f"{name}-{_recipe(name)}")
    if not all(path.exists() for path in (image.disk, image.kernel, image.initrd)):
        for previous in SHARED.glob(f"{name}-*"):
            shutil.rmtree(previous)
        unfinished = Image(SHARED / f"{name}-unfinished")
        unfinished.directory.mkdir(parents=True)
        _make(unfinished, name)
        unfinished.directory.rename(image.directory)
    return image


def _recipe(name: str) -> str:
    """Return a digest of an image's recipe, without the versions of packages."""
    code = "".join(inspect.getsource(function) for function in (base_image.debian, _make))
    digest = hashlib.sha256(f"{base_image.SUITE} {_SIZE} {code}".encode())
    for path in (*_PACKAGES[name], *_SETUPS):
        digest.update((_RECIPES / path).read_bytes())
    return digest.hexdigest()[:16]


def _make(image: Image, name: str) -> None:
    root = image.directory / "root"
    packages = [package for path in _PACKAGES[name] for package in (_RECIPES / path).read_text().split()]
    setups = [f"--customize-hook=chroot \"$1\" sh <'{_RECIPES / path}'" for path in _SETUPS]
    base_image.debian(
        root,
        "minbase",
        f"--include={','.join(packages)}",
        *setups,
        topic="vm",
        text=f"building the disk `{name}` from Debian's archive ({base_image.SUITE})",
    )
    for file, path in (("vmlinuz", image.kernel), ("initrd.img", image.initrd)):
        (source,) = root.glob(f"boot/{file}-*")
        shutil.copy(source, path)
    env = tools.provide({"mke2fs": "e2fsprogs"})
    mke2fs = [str(tools.find("mke2fs")), "-q", "-t", "ext4", "-d", str(root), str(image.disk), _SIZE]
    run_logged("vm", "writing its file system", mke2fs, env=env, timeout=300)
    shutil.rmtree(root)


def qemu() -> list[str]:
    """Return the beginning of a QEMU command line. QEMU is fetched if necessary.

    It always comes from the same suite, because QEMU 7.2 of Debian 12 does not boot this kernel when it emulates.
    """
    libraries = _QEMU / "usr/lib" / sysconfig.get_config_var("MULTIARCH")
    if not _QEMU.exists():
        unfinished = _QEMU.with_suffix(".partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        base_image.debian(
            unfinished,
            "extract",
            "--include=qemu-system-x86",
            "--aptopt=APT::Install-Recommends false",
            topic="vm",
            text="fetching QEMU",
        )
        unfinished.rename(_QEMU)
    shared = [option for name in ("qemu", "seabios") for option in ("-L", str(_QEMU / "usr/share" / name))]
    # QEMU runs with its own loader, because the C library of this machine may be older.
    loader = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
    return [*loader, str(_QEMU / "usr/bin/qemu-system-x86_64"), *shared]


def copy(image: Image, target: Path) -> None:
    """Copy an image's disk as a sparse file."""
    run_logged("vm", "copying the disk", ["cp", "--sparse=always", "--reflink=auto", image.disk, target], timeout=300)
