"""Decisions of the sandbox that need no host, no Docker and no root."""

from __future__ import annotations

import base64
import contextlib
import inspect
import io
import json
import runpy
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import paramiko
import pytest

from sandbox import (
    __main__,
    base_image,
    container,
    disk,
    engine,
    hosts,
    image_build,
    images,
    network,
    ssh,
    ssh_identity,
    util,
    vm,
)
from sandbox.util import NoEngineError, SandboxError

# /proc/net/route of a machine with one network card: a default route, then the card's own subnet.
ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


class TestNetwork:
    def test_routes_are_parsed_with_their_devices(self) -> None:
        assert network.parse_routes(ROUTES) == [
            ("eth0", IPv4Network("0.0.0.0/0")),
            ("eth0", IPv4Network("192.0.2.0/24")),
        ]

    def test_free_subnet_overlaps_nothing(self) -> None:
        used = [IPv4Network("10.201.7.0/24"), IPv4Network("10.201.8.0/23")]
        assert network.free_subnet(used, start=7) == IPv4Network("10.201.10.0/24")

    def test_search_for_a_subnet_wraps_around(self) -> None:
        used = [IPv4Network("10.201.255.0/24")]
        assert network.free_subnet(used, start=255) == IPv4Network("10.201.0.0/24")

    def test_used_up_pool_is_an_error(self) -> None:
        with pytest.raises(SandboxError, match=r"10\.201\.0\.0/16"):
            network.free_subnet([IPv4Network("10.0.0.0/8")], start=0)

    @pytest.mark.parametrize("inner", ["172.17.0.0/16", "172.31.0.0/16", "192.168.0.0/16"])
    def test_pool_does_not_overlap_networks_inside_hosts(self, inner: str) -> None:
        assert not network.free_subnet([], start=0).supernet(new_prefix=16).overlaps(IPv4Network(inner))

    def test_hosts_do_not_share_an_address(self) -> None:
        subnet = IPv4Network("10.201.3.0/24")
        assert network.free_address(subnet, []) == "10.201.3.10"
        assert network.free_address(subnet, ["10.201.3.10", None, "10.201.3.12"]) == "10.201.3.11"

    @pytest.mark.parametrize(
        ("contents", "is_unused"),
        [
            ([], True),
            ([{"chain": {"name": "FORWARD", "type": "filter", "hook": "forward", "policy": "accept"}}], True),
            ([{"chain": {"name": "by-hand"}}], False),
            ([{"chain": {"name": "FORWARD", "hook": "forward"}}, {"rule": {"chain": "FORWARD"}}], False),
            ([{"set": {"name": "blocked"}}], False),
        ],
    )
    def test_table_with_foreign_entries_is_not_unused(self, contents: list[dict[str, Any]], is_unused: bool) -> None:
        header = [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "ip", "name": "filter"}}]
        assert network.is_unused(json.dumps({"nftables": [*header, *contents]})) == is_unused

    def test_kernel_accepts_the_name_of_the_bridge(self) -> None:
        assert len(network.BRIDGE) <= 15


class TestSsh:
    ENTRIES = (
        ssh.Entry("redoubt-1", 22001, Path("/some where/hosts/redoubt-1/known_hosts")),
        ssh.Entry("redoubt-10", 22002, Path("/some where/hosts/redoubt-10/known_hosts")),
    )

    @pytest.fixture
    def config(self, tmp_path: Path) -> Path:
        path = tmp_path / "ssh_config"
        path.write_text(ssh.render_config(self.ENTRIES, key=Path("/some where/key"), sockets=Path("/run/x")))
        return path

    def test_ssh_understands_the_config(self, config: Path) -> None:
        answer = subprocess.run(["ssh", "-G", "-F", config, "redoubt-10"], capture_output=True, text=True, check=True)
        settings = dict(line.split(" ", 1) for line in answer.stdout.splitlines())
        assert settings["hostname"] == "127.0.0.1"
        assert settings["port"] == "22002"
        assert settings["user"] == "root"
        assert settings["identityfile"] == "/some where/key"
        assert settings["identitiesonly"] == "yes"
        assert settings["userknownhostsfile"] == "/some where/hosts/redoubt-10/known_hosts"
        assert settings["stricthostkeychecking"] in ("true", "yes")
        assert settings["controlpath"] == "/run/x/redoubt-10@root"

    def test_paramiko_understands_the_config(self, config: Path) -> None:
        settings = paramiko.SSHConfig.from_path(str(config)).lookup("redoubt-1")
        assert (settings["hostname"], settings["port"], settings["user"]) == ("127.0.0.1", "22001", "root")

    def test_known_hosts_accepts_only_the_key_and_port(self, tmp_path: Path) -> None:
        pair, other = ssh.generate(), ssh.generate()
        known = tmp_path / "known_hosts"
        known.write_text(ssh.known_hosts_line(22001, pair.public))
        keys = paramiko.HostKeys(str(known))

        def key(pair: ssh.KeyPair) -> paramiko.PKey:
            return paramiko.Ed25519Key.from_private_key(io.StringIO(pair.private))

        assert keys.check("[127.0.0.1]:22001", key(pair))
        assert not keys.check("[127.0.0.1]:22001", key(other))
        assert not keys.check("[127.0.0.1]:22002", key(pair))


class TestImages:
    @pytest.mark.parametrize(
        ("package", "upstream"),
        [("5:8.0.2-3+deb13u3", "8.0.2"), ("8.1.1+dfsg1-3+deb13u1", "8.1.1"), ("1.2", "1.2")],
    )
    def test_upstream_version_of_a_package(self, package: str, upstream: str) -> None:
        assert image_build.upstream_version(package) == upstream

    def test_mirror_of_this_machine_is_used(self) -> None:
        targets = "\n".join(
            [
                "nodistro https://deb.nodesource.example/node_20.x/",
                "bookworm cdrom://Debian/",
                "bookworm http://mirror.example/debian/",
                "bookworm http://second.example/debian/",
                "bookworm-updates http://mirror.example/updates/",
                "bookworm-security https://mirror.example/security/",
            ]
        )
        assert base_image.parse_mirrors(targets, "bookworm") == {
            "MIRROR": "http://mirror.example/debian",
            "SECURITY_MIRROR": "https://mirror.example/security",
        }

    def test_machine_without_a_mirror_uses_the_default(self) -> None:
        assert base_image.parse_mirrors("", "bookworm") == {}

    def test_missing_archive_is_an_error_with_a_command(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(images, "BUILT", tmp_path)
        with pytest.raises(SandboxError, match="make deploy"):
            images.redis_archive()

    def test_recorded_archive_is_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(images, "BUILT", tmp_path)
        images.save("redis", images.Archive("redoubt/redis:8.0.2", "redis-server=5:8.0.2-3", "redis.tar", "sha256:1"))
        assert images.redis_archive() == tmp_path / "redis.tar"
        assert images.redis_reference() == "redoubt/redis:8.0.2"


class TestEngine:
    EVERYTHING = (1 << 41) - 1

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
    def test_missing_rights_are_found_before_a_download(self, effective: int, mounts: bool, missing: str) -> None:
        assert engine.lacking(effective, mounts=mounts) == missing

    @pytest.mark.parametrize(("image", "chosen"), [("", "host"), ("bare", "bare")])
    def test_virtual_machine_is_chosen_with_a_one_line_reason(
        self,
        image: str,
        chosen: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def cannot() -> None:
            raise NoEngineError("the reason\nthe end of the log")

        monkeypatch.setattr(util, "STATE", tmp_path)
        monkeypatch.setattr(engine, "ensure", cannot)
        assert __main__.choose("try-1", "", image) == ("vm", chosen)
        output = capsys.readouterr().err
        assert "the reason\n" in output
        assert "the end of the log" not in output

    def test_wrong_docker_host_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The operator can correct it, so the sandbox does not use a virtual machine instead."""
        monkeypatch.setattr(util, "STATE", tmp_path)
        monkeypatch.setattr(engine, "answering", lambda: None)
        monkeypatch.setattr(engine, "is_running", lambda: False)
        monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
        with pytest.raises(SandboxError, match="DOCKER_HOST=unix:///nowhere") as raised:
            __main__.choose("try-1", "", "")
        assert not isinstance(raised.value, NoEngineError)

    def test_given_kind_is_used(self) -> None:
        assert __main__.choose("try-1", "vm", "") == ("vm", "")


class TestContainer:
    def test_host_gets_no_capability_that_the_machine_lacks(self) -> None:
        everything = (1 << 41) - 1
        assert container.capabilities(everything) == ["ALL"]
        assert "SYS_ADMIN" in container.capabilities(everything & ~(1 << 24))
        assert "SYS_RESOURCE" not in container.capabilities(everything & ~(1 << 24))


class TestIdentity:
    def test_host_keys_are_private(self) -> None:
        pair = ssh.generate()
        files = {file.path: file for file in ssh_identity.files(pair, "ssh-ed25519 AAAA\n")}
        assert files["/etc/ssh/ssh_host_ed25519_key"].mode == 0o600
        assert files["/etc/ssh/ssh_host_ed25519_key"].text == pair.private
        assert pair.private not in repr(files)
        assert files["/root/.ssh/authorized_keys"].uid == 0
        assert files["/home/operator/.ssh/authorized_keys"].uid == 1000

    def test_hosts_have_different_machine_ids(self) -> None:
        first, second = (
            {file.path: file.text for file in ssh_identity.files(ssh.generate(), "")}["/etc/machine-id"]
            for _ in range(2)
        )
        assert first != second


class TestVirtualMachine:
    HOST = hosts.Host("try-1", "vm", "bare", 22001)

    def options(self, *, kvm: bool) -> list[str]:
        image = disk.Image(Path("/there"))
        return vm.command(self.HOST, image, Path("/log/console"), Path("/there/qemu.pid"), kvm=kvm)

    def test_ssh_is_forwarded_from_the_loopback_only(self) -> None:
        (network,) = [option for option in self.options(kvm=True) if option.startswith("user,")]
        assert network == "user,id=net,hostfwd=tcp:127.0.0.1:22001-:22"

    @pytest.mark.parametrize(("kvm", "accelerator"), [(True, "kvm"), (False, "tcg,thread=multi")])
    def test_machine_is_emulated_without_kvm(self, kvm: bool, accelerator: str) -> None:
        options = self.options(kvm=kvm)
        assert options[options.index("-accel") + 1] == accelerator

    def test_keys_are_in_no_argument(self) -> None:
        pair = ssh.generate()
        credential = vm.tmpfiles(ssh_identity.files(pair, "ssh-ed25519 AAAA\n"))
        lines = {fields[1]: fields for fields in map(str.split, credential.splitlines())}
        assert lines["/etc/ssh/ssh_host_ed25519_key"][2:5] == ["0600", "0", "0"]
        assert base64.b64decode(lines["/etc/ssh/ssh_host_ed25519_key"][-1]).decode() == pair.private
        assert lines["/home/operator/.ssh/authorized_keys"][3] == "1000"
        options = self.options(kvm=True)
        given = options[options.index("-fw_cfg") + 1]
        assert given.endswith(",file=/there/identity"), "the option names a file that only root can read"

    def test_comma_in_a_path_is_escaped(self) -> None:
        image = disk.Image(Path("/a,b"))
        options = vm.command(self.HOST, image, Path("/a,b/console"), Path("/a,b/qemu.pid"), kvm=True)
        with_path = [option for option in options if "=" in option and "/a" in option]
        assert len(with_path) == 3
        assert all("=/a,,b/" in option for option in with_path)

    def test_disk_is_rebuilt_only_if_its_recipe_changes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        recipes = tmp_path / "images"
        shutil.copytree(Path(disk.__file__).parent / "images", recipes)
        monkeypatch.setattr(disk, "_RECIPES", recipes)
        before = {name: disk._recipe(name) for name in ("bare", "host")}
        assert {name: disk._recipe(name) for name in before} == before
        (recipes / "host/engine-packages").write_text("docker.io\n")
        assert {name for name in before if disk._recipe(name) != before[name]} == {"host"}
        (recipes / "vm/setup.sh").write_text("true\n")
        assert {name for name in before if disk._recipe(name) != before[name]} == {"bare", "host"}

    def test_disk_is_rebuilt_if_its_build_options_change(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = disk._recipe("bare")
        genuine = inspect.getsource
        monkeypatch.setattr(inspect, "getsource", lambda code: genuine(code).replace("path-exclude", "path-include"))
        other_dpkg = disk._recipe("bare")
        monkeypatch.setattr(inspect, "getsource", lambda code: genuine(code).replace('"-t", "ext4"', '"-t", "ext3"'))
        assert len({before, other_dpkg, disk._recipe("bare")}) == 3

    @pytest.mark.parametrize("missing", ["disk", "kernel", "initrd"])
    def test_disk_is_rebuilt_if_a_part_is_missing(
        self, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
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


class TestHosts:
    @pytest.fixture
    def directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(hosts, "_DIRECTORY", tmp_path)
        return tmp_path

    @pytest.mark.parametrize("name", ["", "-x", "Redoubt", "a b", "a/../b", "x" * 41])
    def test_invalid_name_is_refused(self, name: str) -> None:
        with pytest.raises(SandboxError, match="is no valid name of a host"):
            hosts.up(name)

    def test_unknown_host_names_the_existing_ones(self, directory: Path) -> None:
        (directory / "redoubt-1").mkdir()
        (directory / "redoubt-1" / "host.json").write_text(
            '{"name": "redoubt-1", "kind": "container", "image": "host", "ssh_port": 22001, "address": "10.201.3.10"}'
        )
        assert hosts.load() == [hosts.Host("redoubt-1", "container", "host", 22001, "10.201.3.10")]
        with pytest.raises(SandboxError, match="redoubt-1"):
            hosts.get("redoubt-2")

    @pytest.mark.parametrize("record", ["", "{", '{"name": "try-1"}', "[]", b"\xff"])
    def test_host_with_a_damaged_record_can_be_removed(
        self,
        record: str | bytes,
        directory: Path,
        tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        elsewhere = tmp_path_factory.mktemp("state")
        monkeypatch.setattr(util, "STATE", elsewhere)
        monkeypatch.setattr(ssh, "CONFIG", elsewhere / "ssh_config")
        removed: list[str] = []
        for kind in (container, vm):
            monkeypatch.setattr(kind, "remove", lambda host: removed.append(host.name))
        path = directory / "try-1" / "host.json"
        path.parent.mkdir()
        path.write_bytes(record if isinstance(record, bytes) else record.encode())
        assert __main__.main(["list"]) == 0
        assert "try-1                stopped  damaged" in capsys.readouterr().out
        assert __main__.main(["up", "try-1"]) == 1
        assert "record of host try-1 is damaged: `python -m sandbox down try-1`" in capsys.readouterr().err
        assert __main__.main(["down", "try-1"]) == 0
        assert removed == ["try-1", "try-1"], "both kinds remove it"
        assert hosts.load() == []

    def test_file_is_replaced_atomically(self, tmp_path: Path) -> None:
        path = tmp_path / "host.json"
        util.write_whole(path, "first")
        reader = path.open()
        util.write_whole(path, "second")
        assert (reader.read(), path.read_text()) == ("first", "second")
        reader.close()
        assert [entry.name for entry in tmp_path.iterdir()] == ["host.json"]

    @pytest.mark.parametrize(
        ("error", "is_port"),
        [
            ("qemu: -netdev user: Could not set up host forwarding rule 'tcp:127.0.0.1:22001-:22'", True),
            (
                "driver failed programming external connectivity: Bind for 127.0.0.1:22001: port is already allocated",
                True,
            ),
            ("failed to bind host port: listen tcp4 127.0.0.1:22001: bind: address already in use", True),
            ("qemu: could not open disk image: No such file or directory", False),
        ],
    )
    def test_error_about_a_port_gets_a_hint(self, error: str, is_port: bool) -> None:
        hint = hosts.Host("try-1", "vm", "bare", 22001).port_hint(error)
        assert ("port 22001 is taken" in hint) == is_port
        assert bool(hint) == is_port

    @pytest.mark.usefixtures("directory")
    @pytest.mark.parametrize("signalled", [KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize(("state", "undone"), [("none", "down"), ("stopped", "kill"), ("running", "")])
    def test_interrupted_up_undoes_only_its_own_start(
        self,
        signalled: type[BaseException],
        state: str,
        undone: str,
        tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        host = hosts.Host("try-1", "vm", "bare", 22001)
        running = [state == "running"]
        done: list[str] = []

        def start(_: hosts.Host) -> None:
            running[0] = True
            raise signalled

        monkeypatch.setattr(util, "STATE", tmp_path_factory.mktemp("state"))
        monkeypatch.setattr(hosts, "load", lambda: [] if state == "none" else [host])
        monkeypatch.setattr(hosts, "_create", lambda *_: host)
        monkeypatch.setattr(hosts.Host, "start", start)
        monkeypatch.setattr(hosts.Host, "is_running", lambda _: running[0])
        for verb in ("down", "kill"):
            monkeypatch.setattr(hosts.Host, verb, lambda _, verb=verb: done.append(verb))
        with pytest.raises(signalled):
            hosts.up("try-1")
        assert done == ([undone] if undone else [])

    def test_inventory_has_running_hosts_by_kind(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with contextlib.ExitStack() as listening:
            for name, kind, runs in [
                ("one", "container", True),
                ("two", "vm", True),
                ("three", "vm", False),
                ("lifecycle-1", "container", True),
                ("lifecycle-2", "container", False),
            ]:
                port = listening.enter_context(socket.create_server(("127.0.0.1", 0)))
                (directory / name).mkdir()
                record = asdict(hosts.Host(name, kind, "host", port.getsockname()[1]))
                (directory / name / "host.json").write_text(json.dumps(record))
                if not runs:
                    port.close()
            monkeypatch.setattr(images, "redis_reference", lambda: "redoubt/redis:8.0.2")
            monkeypatch.setattr(images, "redis_archive", lambda: Path("/there/redis.tar"))
            inventory = runpy.run_path(str(util.ROOT / "inventory" / "hosts.py"))
        lists = {name: value for name, value in inventory.items() if isinstance(value, list) and name[0] != "_"}
        assert {group: [name for name, _ in entries] for group, entries in lists.items()} == {
            "containers": ["one"],
            "vms": ["two"],
        }
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.splitlines() == [
            "  three    is stopped, so it is left out; `python -m sandbox up three` starts it"
        ]

    def test_pyinfra_checks_the_host_key(self) -> None:
        data = hosts.Host("redoubt-1", "container", "host", 22001).ssh_data()
        assert data["ssh_strict_host_key_checking"] == "yes"
        assert str(data["ssh_known_hosts_file"]).endswith("redoubt-1/known_hosts")


class TestBoot:
    HOST = hosts.Host("try-1", "vm", "bare", 22001)

    @pytest.fixture
    def seconds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
        """Return how long the test has waited for a host that does not answer."""
        monkeypatch.setattr(util, "STATE", tmp_path)
        monkeypatch.setattr(hosts, "_DIRECTORY", tmp_path)
        monkeypatch.setattr(vm, "_console", lambda host: tmp_path / "console")
        (tmp_path / "console").write_text("Kernel panic - not syncing\n")
        self.HOST.known_hosts.parent.mkdir()
        self.HOST.known_hosts.touch()
        refused = subprocess.CompletedProcess([], 255, "", "Connection refused")
        monkeypatch.setattr(hosts.Host, "run", lambda *_, **__: refused)
        begin = time.monotonic()
        return lambda: time.monotonic() - begin

    def test_host_that_stops_ends_the_wait_with_its_log(
        self, seconds: Callable[[], float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alive = iter([True, True])
        monkeypatch.setattr(vm, "is_running", lambda host: next(alive, False))
        with pytest.raises(SandboxError, match=r"(?s)try-1 stopped while it started.*Kernel panic"):
            self.HOST._wait(60)
        assert seconds() < 5

    def test_removed_host_ends_the_wait(self, seconds: Callable[[], float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.HOST.known_hosts.unlink()
        monkeypatch.setattr(vm, "is_running", lambda host: False)
        with pytest.raises(SandboxError, match="try-1 was removed while it started"):
            self.HOST._wait(60)
        assert seconds() < 5

    def test_all_waits_share_the_timeout(self, seconds: Callable[[], float], monkeypatch: pytest.MonkeyPatch) -> None:
        """SSH answers late, and systemd never finishes its start."""
        monkeypatch.setattr(vm, "is_running", lambda host: True)

        def run(_: hosts.Host, command: str, **__: Any) -> subprocess.CompletedProcess[str]:
            return subprocess.CompletedProcess([], int(command != "true" or seconds() < 1), "", "")

        monkeypatch.setattr(hosts.Host, "run", run)
        with pytest.raises(SandboxError, match="systemd is not ready after 2 s"):
            self.HOST._wait(2)
        assert seconds() < 2.9


class TestWaiting:
    def test_wait_ends_when_ready(self) -> None:
        answers = iter([False, True])
        assert util.wait_until("test", "waiting", lambda: next(answers), timeout=5)

    def test_wait_ends_after_its_timeout(self) -> None:
        assert not util.wait_until("test", "waiting", lambda: False, timeout=0.2)

    def test_silent_docker_ends_the_wait(self) -> None:
        def call(**_: Any) -> Iterator[dict[str, Any]]:
            yield {"stream": "one"}
            over.wait(10)

        over = threading.Event()
        with pytest.raises(SandboxError, match="sent nothing for 1 s"):
            list(util.events(call, silence=1))
        over.set()

    def test_error_of_docker_is_raised_in_the_caller(self) -> None:
        def call(**_: Any) -> Iterator[dict[str, Any]]:
            yield {"stream": "one"}
            raise ConnectionError("gone")

        with pytest.raises(ConnectionError, match="gone"):
            list(util.events(call, silence=5))

    def test_failed_command_shows_the_end_of_its_output(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(util, "STATE", tmp_path)
        with pytest.raises(SandboxError, match=r"(?s)exit code 3.*\| the reason"):
            util.run_logged("test", "trying", ["sh", "-c", "echo the reason; exit 3"], timeout=10)

    def test_hanging_command_is_terminated(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(util, "STATE", tmp_path)
        with pytest.raises(SandboxError, match="not done after 0 s"):
            util.run_logged("test", "trying", ["sleep", "60"], timeout=0.2)


class TestFrontDoor:
    @pytest.mark.parametrize(
        "remote", ["echo $HOME", "echo 'two  words'", 'docker ps --format "{{.Names}}"', "a && b || c; d | e"]
    )
    def test_make_ssh_passes_the_command_unchanged(self, remote: str) -> None:
        script = subprocess.run(
            # Below another make, as in `make test`, make would print its directory.
            ["make", "--no-print-directory", "--dry-run", "--assume-old=.venv/.complete", "ssh", f"CMD={remote}"],
            cwd=util.ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.replace(".venv/bin/python", "printf '%s\\n'")
        words = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
        assert words == ["-m", "sandbox", "ssh", "redoubt-1", "--", remote]

    @pytest.mark.parametrize(
        ("options", "containers", "stopped"),
        [
            ([], [], ["redoubt-1", "engine"]),
            ([], ["other-1"], ["redoubt-1"]),
            (["--no-host"], [], ["engine"]),
            (["--no-host"], ["other-1"], []),
        ],
    )
    def test_run_stops_only_what_it_started(
        self,
        options: list[str],
        containers: list[str],
        stopped: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        others = [hosts.Host("other-1", "container", "host", 22001), hosts.Host("other-2", "vm", "bare", 22002)]
        existing: list[hosts.Host] = []
        done: list[str] = []

        def start(*own: hosts.Host) -> None:
            existing.extend([*own, *others])

        monkeypatch.setattr(util, "STATE", tmp_path)
        monkeypatch.setattr(hosts, "load", lambda: existing)
        monkeypatch.setattr(hosts.Host, "is_running", lambda host: True)
        monkeypatch.setattr(hosts.Host, "stop", lambda host: done.append(host.name))
        monkeypatch.setattr(engine, "is_running", lambda: False)
        monkeypatch.setattr(engine, "containers", lambda: containers)
        monkeypatch.setattr(engine, "stop", lambda: done.append("engine"))
        monkeypatch.setattr(__main__, "_host_up", lambda: start(hosts.Host("redoubt-1", "vm", "bare", 22000)))
        monkeypatch.setattr(__main__, "_build_redis", lambda: None if existing else start())
        arguments, command = __main__.parse(["run", *options, "--", "true"])
        assert arguments.verb(arguments, command) == 0
        assert done == stopped

    def test_words_after_the_dashes_are_the_remote_command(self) -> None:
        arguments, command = __main__.parse(["ssh", "redoubt-2", "--", "ls", "--", "-l"])
        assert (arguments.name, command) == ("redoubt-2", ["ls", "--", "-l"])
