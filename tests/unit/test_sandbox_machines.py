"""What runs disposable hosts: Docker, containers, virtual machines and disks."""

import base64
import inspect
import shutil
from pathlib import Path

import pytest

from sandbox import container, disk, engine, hosts, ssh, ssh_identity, vm

# All capabilities of a process.
EVERYTHING = (1 << 41) - 1
HOST = hosts.Host("try-1", "vm", "bare", 22001)


@pytest.mark.parametrize(
    ("effective", "mounts", "missing"),
    [
        (EVERYTHING, True, ""),
        (EVERYTHING & ~(1 << 24), True, ""),  # SYS_RESOURCE, which Docker does not need
        (EVERYTHING, False, "mount"),
        (EVERYTHING & ~(1 << 12), True, "set up networks"),
        (0xA80425FB, False, "mount or set up networks"),  # the default of Docker's containers
    ],
)
def test_missing_rights_are_found_before_a_download(effective: int, mounts: bool, missing: str) -> None:
    assert engine.lacking(effective, mounts=mounts) == missing


def test_host_gets_no_capability_that_the_machine_lacks() -> None:
    assert container.capabilities(EVERYTHING) == ["ALL"]
    assert "SYS_ADMIN" in container.capabilities(EVERYTHING & ~(1 << 24))
    assert "SYS_RESOURCE" not in container.capabilities(EVERYTHING & ~(1 << 24))


def qemu_options(*, kvm: bool) -> list[str]:
    image = disk.Image(Path("/there"))
    return vm.command(HOST, image, Path("/log/console"), Path("/there/qemu.pid"), kvm=kvm)


def test_ssh_is_forwarded_from_the_loopback_only() -> None:
    (network,) = [option for option in qemu_options(kvm=True) if option.startswith("user,")]
    assert network == "user,id=net,hostfwd=tcp:127.0.0.1:22001-:22"


@pytest.mark.parametrize(("kvm", "accelerator"), [(True, "kvm"), (False, "tcg,thread=multi")])
def test_machine_is_emulated_without_kvm(kvm: bool, accelerator: str) -> None:
    options = qemu_options(kvm=kvm)
    assert options[options.index("-accel") + 1] == accelerator


def test_keys_are_in_no_argument() -> None:
    pair = ssh.generate()
    credential = vm.tmpfiles(ssh_identity.files(pair, "ssh-ed25519 AAAA\n"))
    lines = {fields[1]: fields for fields in map(str.split, credential.splitlines())}
    assert lines["/etc/ssh/ssh_host_ed25519_key"][2:5] == ["0600", "0", "0"]
    assert base64.b64decode(lines["/etc/ssh/ssh_host_ed25519_key"][-1]).decode() == pair.private
    assert lines["/home/operator/.ssh/authorized_keys"][3] == "1000"
    options = qemu_options(kvm=True)
    given = options[options.index("-fw_cfg") + 1]
    assert given.endswith(",file=/there/identity"), "the option names a file that only root can read"


def test_comma_in_a_path_is_escaped() -> None:
    image = disk.Image(Path("/a,b"))
    options = vm.command(HOST, image, Path("/a,b/console"), Path("/a,b/qemu.pid"), kvm=True)
    with_path = [option for option in options if "=" in option and "/a" in option]
    assert len(with_path) == 3
    assert all("=/a,,b/" in option for option in with_path)


def test_disk_is_rebuilt_only_if_its_recipe_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = tmp_path / "images"
    shutil.copytree(Path(disk.__file__).parent / "images", recipes)
    monkeypatch.setattr(disk, "_RECIPES", recipes)
    before = {name: disk._recipe(name) for name in ("bare", "host")}
    assert {name: disk._recipe(name) for name in before} == before
    (recipes / "host/engine-packages").write_text("docker.io\n")
    assert {name for name in before if disk._recipe(name) != before[name]} == {"host"}
    (recipes / "vm/setup.sh").write_text("true\n")
    assert {name for name in before if disk._recipe(name) != before[name]} == {"bare", "host"}


def test_disk_is_rebuilt_if_its_build_options_change(monkeypatch: pytest.MonkeyPatch) -> None:
    before = disk._recipe("bare")
    genuine = inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda code: genuine(code).replace("path-exclude", "path-include"))
    other_dpkg = disk._recipe("bare")
    monkeypatch.setattr(inspect, "getsource", lambda code: genuine(code).replace('"-t", "ext4"', '"-t", "ext3"'))
    assert len({before, other_dpkg, disk._recipe("bare")}) == 3


@pytest.mark.parametrize("missing", ["disk", "kernel", "initrd"])
def test_disk_is_rebuilt_if_a_part_is_missing(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def build(image: disk.Image, name: str) -> None:
        built.append(name)
        for path in (image.disk, image.kernel, image.initrd):
            path.touch()

    monkeypatch.setattr(disk, "SHARED", tmp_path)
    monkeypatch.setattr(disk, "_make", build)
    monkeypatch.setattr(disk, "_recipe", lambda name: "1")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    image = disk.ensure("bare")
    assert disk.ensure("bare") == image
    assert built == ["bare"]
    getattr(image, missing).unlink()
    assert disk.ensure("bare") == image
    assert getattr(image, missing).exists()
    assert built == ["bare", "bare"]
