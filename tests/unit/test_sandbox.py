"""The sandbox's own decisions: those that can be judged without a host, an engine or root."""

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
    def test_routes_are_read_with_their_devices(self) -> None:
        assert network.parse_routes(ROUTES) == [
            ("eth0", IPv4Network("0.0.0.0/0")),
            ("eth0", IPv4Network("192.0.2.0/24")),
        ]

    def test_the_fleet_gets_a_subnet_that_nothing_else_uses(self) -> None:
        used = [IPv4Network("10.201.7.0/24"), IPv4Network("10.201.8.0/23")]
        assert network.free_subnet(used, start=7) == IPv4Network("10.201.10.0/24")

    def test_the_search_for_a_subnet_goes_round(self) -> None:
        used = [IPv4Network("10.201.255.0/24")]
        assert network.free_subnet(used, start=255) == IPv4Network("10.201.0.0/24")

    def test_a_machine_that_uses_the_whole_pool_is_told_so(self) -> None:
        with pytest.raises(SandboxError, match=r"10\.201\.0\.0/16"):
            network.free_subnet([IPv4Network("10.0.0.0/8")], start=0)

    @pytest.mark.parametrize("inner", ["172.17.0.0/16", "172.31.0.0/16", "192.168.0.0/16"])
    def test_no_fleet_subnet_meets_the_networks_inside_the_hosts(self, inner: str) -> None:
        assert not network.free_subnet([], start=0).supernet(new_prefix=16).overlaps(IPv4Network(inner))

    def test_two_hosts_never_share_an_address(self) -> None:
        subnet = IPv4Network("10.201.3.0/24")
        assert network.free_address(subnet, []) == "10.201.3.10"
        assert network.free_address(subnet, ["10.201.3.10", None, "10.201.3.12"]) == "10.201.3.11"

    @pytest.mark.parametrize(
        ("contents", "unused"),
        [
            ([], True),
            ([{"chain": {"name": "FORWARD", "type": "filter", "hook": "forward", "policy": "accept"}}], True),
            ([{"chain": {"name": "by-hand"}}], False),
            ([{"chain": {"name": "FORWARD", "hook": "forward"}}, {"rule": {"chain": "FORWARD"}}], False),
            ([{"set": {"name": "blocked"}}], False),
        ],
    )
    def test_a_table_is_removed_only_with_nothing_of_somebody_else_s_in_it(
        self, contents: list[dict[str, Any]], unused: bool
    ) -> None:
        header = [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "ip", "name": "filter"}}]
        assert network.is_unused(json.dumps({"nftables": [*header, *contents]})) == unused

    def test_the_bridge_has_a_name_that_the_kernel_takes(self) -> None:
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

    def test_ssh_takes_from_the_config_what_was_meant(self, config: Path) -> None:
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

    def test_paramiko_reads_the_config_alike(self, config: Path) -> None:
        settings = paramiko.SSHConfig.from_path(str(config)).lookup("redoubt-1")
        assert (settings["hostname"], settings["port"], settings["user"]) == ("127.0.0.1", "22001", "root")

    def test_a_host_is_known_by_its_key_on_its_port_and_by_no_other(self, tmp_path: Path) -> None:
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
    def test_the_upstream_version_is_found_in_the_packages(self, package: str, upstream: str) -> None:
        assert image_build.upstream_version(package) == upstream

    def test_the_mirror_of_this_machine_is_used(self) -> None:
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

    def test_without_a_mirror_of_its_own_nothing_is_replaced(self) -> None:
        assert base_image.parse_mirrors("", "bookworm") == {}

    def test_an_archive_that_is_not_built_is_an_error_with_a_way_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(images, "BUILT", tmp_path)
        with pytest.raises(SandboxError, match="make deploy"):
            images.redis_archive()

    def test_an_archive_is_found_as_it_was_recorded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(images, "BUILT", tmp_path)
        images.save("redis", images.Archive("redoubt/redis:8.0.2", "redis-server=5:8.0.2-3", "redis.tar", "sha256:1"))
        assert images.redis_archive() == tmp_path / "redis.tar"
        assert images.redis_reference() == "redoubt/redis:8.0.2"


class TestEngine:
    EVERYTHING = (1 << 41) - 1

    @pytest.mark.parametrize(
        ("effective", "mounts", "lacks"),
        [
            (EVERYTHING, True, ""),
            (EVERYTHING & ~(1 << 24), True, ""),  # SYS_RESOURCE: an engine does without
            (EVERYTHING, False, "mount"),
            (EVERYTHING & ~(1 << 12), True, "set up networks"),
            (0xA80425FB, False, "mount or set up networks"),  # what Docker gives to a container
        ],
    )
    def test_what_an_engine_needs_is_known_before_it_is_fetched(self, effective: int, mounts: bool, lacks: str) -> None:
        assert engine.lacking(effective, mounts=mounts) == lacks

    @pytest.mark.parametrize(("image", "taken"), [("", "host"), ("bare", "bare")])
    def test_where_none_can_run_a_virtual_machine_is_taken_and_the_reason_said_in_one_line(
        self,
        image: str,
        taken: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def cannot() -> None:
            raise NoEngineError("the reason\nthe end of the log")

        monkeypatch.setattr(util, "STATE", tmp_path)
        monkeypatch.setattr(engine, "ensure", cannot)
        assert __main__.choose("try-1", "", image) == ("vm", taken)
        said = capsys.readouterr().err
        assert "the reason\n" in said
        assert "the end of the log" not in said

    def test_what_somebody_can_put_right_is_an_error_and_no_reason_for_a_virtual_machine(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing answers at the engine that the operator names."""
        monkeypatch.setattr(util, "STATE", tmp_path)
        monkeypatch.setattr(engine, "answering", lambda: None)
        monkeypatch.setattr(engine, "is_running", lambda: False)
        monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
        with pytest.raises(SandboxError, match="DOCKER_HOST=unix:///nowhere") as caught:
            __main__.choose("try-1", "", "")
        assert not isinstance(caught.value, NoEngineError)

    def test_a_kind_that_is_asked_for_is_not_questioned(self) -> None:
        assert __main__.choose("try-1", "vm", "") == ("vm", "")


class TestContainer:
    def test_a_host_is_given_no_capability_that_the_machine_lacks(self) -> None:
        everything = (1 << 41) - 1
        assert container.capabilities(everything) == ["ALL"]
        assert "SYS_ADMIN" in container.capabilities(everything & ~(1 << 24))
        assert "SYS_RESOURCE" not in container.capabilities(everything & ~(1 << 24))


class TestIdentity:
    def test_a_host_gets_keys_that_nobody_else_can_read(self) -> None:
        pair = ssh.generate()
        files = {file.path: file for file in ssh_identity.files(pair, "ssh-ed25519 AAAA\n")}
        assert files["/etc/ssh/ssh_host_ed25519_key"].mode == 0o600
        assert files["/etc/ssh/ssh_host_ed25519_key"].text == pair.private
        assert pair.private not in repr(files)
        assert files["/root/.ssh/authorized_keys"].uid == 0
        assert files["/home/operator/.ssh/authorized_keys"].uid == 1000

    def test_no_two_hosts_are_the_same_machine(self) -> None:
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

    def test_it_is_reached_on_the_loopback_alone(self) -> None:
        (network,) = [option for option in self.options(kvm=True) if option.startswith("user,")]
        assert network == "user,id=net,hostfwd=tcp:127.0.0.1:22001-:22"

    @pytest.mark.parametrize(("kvm", "accelerator"), [(True, "kvm"), (False, "tcg,thread=multi")])
    def test_it_is_emulated_where_the_processor_cannot_run_it(self, kvm: bool, accelerator: str) -> None:
        options = self.options(kvm=kvm)
        assert options[options.index("-accel") + 1] == accelerator

    def test_its_keys_are_in_no_argument(self) -> None:
        pair = ssh.generate()
        credential = vm.tmpfiles(ssh_identity.files(pair, "ssh-ed25519 AAAA\n"))
        lines = {fields[1]: fields for fields in map(str.split, credential.splitlines())}
        assert lines["/etc/ssh/ssh_host_ed25519_key"][2:5] == ["0600", "0", "0"]
        assert base64.b64decode(lines["/etc/ssh/ssh_host_ed25519_key"][-1]).decode() == pair.private
        assert lines["/home/operator/.ssh/authorized_keys"][3] == "1000"
        options = self.options(kvm=True)
        given = options[options.index("-fw_cfg") + 1]
        assert given.endswith(",file=/there/identity"), "by the name of a file that only root reads"

    def test_a_comma_in_a_path_is_no_end_of_an_option(self) -> None:
        image = disk.Image(Path("/a,b"))
        options = vm.command(self.HOST, image, Path("/a,b/console"), Path("/a,b/qemu.pid"), kvm=True)
        ending = [option for option in options if "=" in option and "/a" in option]
        assert len(ending) == 3
        assert all("=/a,,b/" in option for option in ending)

    def test_its_disk_is_made_again_when_a_recipe_changes_and_only_then(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipes = tmp_path / "images"
        shutil.copytree(Path(disk.__file__).parent / "images", recipes)
        monkeypatch.setattr(disk, "_RECIPES", recipes)
        before = {name: disk._recipe(name) for name in ("bare", "host")}
        assert {name: disk._recipe(name) for name in before} == before
        (recipes / "host/engine-packages").write_text("docker.io\n")
        assert {name for name in before if disk._recipe(name) != before[name]} == {"host"}
        (recipes / "vm/setup.sh").write_text("true\n")
        assert {name for name in before if disk._recipe(name) != before[name]} == {"bare", "host"}

    def test_its_disk_is_made_again_when_the_options_that_it_is_made_with_change(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = disk._recipe("bare")
        genuine = inspect.getsource
        monkeypatch.setattr(inspect, "getsource", lambda code: genuine(code).replace("path-exclude", "path-include"))
        other_dpkg = disk._recipe("bare")
        monkeypatch.setattr(inspect, "getsource", lambda code: genuine(code).replace('"-t", "ext4"', '"-t", "ext3"'))
        assert len({before, other_dpkg, disk._recipe("bare")}) == 3

    @pytest.mark.parametrize("lost", ["disk", "kernel", "initrd"])
    def test_its_disk_is_made_again_when_a_part_is_lost(
        self, lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[str] = []

        def make(image: disk.Image, name: str) -> None:
            made.append(name)
            for path in (image.disk, image.kernel, image.initrd):
                path.touch()

        monkeypatch.setattr(disk, "SHARED", tmp_path)
        monkeypatch.setattr(disk, "_make", make)
        monkeypatch.setattr(disk, "_recipe", lambda name: "1")
        monkeypatch.setattr("os.geteuid", lambda: 0)
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        image = disk.ensure("bare")
        assert disk.ensure("bare") == image
        assert made == ["bare"]
        getattr(image, lost).unlink()
        assert disk.ensure("bare") == image
        assert getattr(image, lost).exists()
        assert made == ["bare", "bare"]


class TestHosts:
    @pytest.fixture
    def directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(hosts, "_DIRECTORY", tmp_path)
        return tmp_path

    @pytest.mark.parametrize("name", ["", "-x", "Redoubt", "a b", "a/../b", "x" * 41])
    def test_a_name_that_would_break_something_is_refused(self, name: str) -> None:
        with pytest.raises(SandboxError, match="cannot name a host"):
            hosts.up(name)

    def test_asking_for_a_host_that_is_not_there_says_which_are(self, directory: Path) -> None:
        (directory / "redoubt-1").mkdir()
        (directory / "redoubt-1" / "host.json").write_text(
            '{"name": "redoubt-1", "kind": "container", "image": "host", "ssh_port": 22001, "address": "10.201.3.10"}'
        )
        assert hosts.load() == [hosts.Host("redoubt-1", "container", "host", 22001, "10.201.3.10")]
        with pytest.raises(SandboxError, match="redoubt-1"):
            hosts.get("redoubt-2")

    @pytest.mark.parametrize("record", ["", "{", '{"name": "try-1"}', "[]", b"\xff"])
    def test_a_damaged_record_is_a_host_that_can_be_removed_and_nothing_else(
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
        assert removed == ["try-1", "try-1"], "of either kind"
        assert hosts.load() == []

    def test_a_file_that_is_written_whole_is_there_as_it_was_until_it_is_done(self, tmp_path: Path) -> None:
        path = tmp_path / "host.json"
        util.write_whole(path, "first")
        reader = path.open()
        util.write_whole(path, "second")
        assert (reader.read(), path.read_text()) == ("first", "second")
        reader.close()
        assert [entry.name for entry in tmp_path.iterdir()] == ["host.json"]

    @pytest.mark.parametrize(
        ("why", "named"),
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
    def test_the_port_is_named_as_the_cause_where_it_is(self, why: str, named: bool) -> None:
        hint = hosts.Host("try-1", "vm", "bare", 22001).port_hint(why)
        assert ("port 22001 is taken" in hint) == named
        assert bool(hint) == named

    @pytest.mark.usefixtures("directory")
    @pytest.mark.parametrize("signalled", [KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize(("state", "undone"), [("none", "down"), ("stopped", "kill"), ("running", "")])
    def test_what_an_interrupted_up_has_started_is_undone_and_nothing_else(
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

    def test_the_inventory_has_the_hosts_that_run_by_kind_and_names_the_others(
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
        assert {group: [name for name, _ in found] for group, found in lists.items()} == {
            "containers": ["one"],
            "vms": ["two"],
        }
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.splitlines() == [
            "  three    is stopped, so it is left out; `python -m sandbox up three` starts it"
        ]

    def test_pyinfra_is_told_to_know_the_host_before_it_connects(self) -> None:
        data = hosts.Host("redoubt-1", "container", "host", 22001).ssh_data()
        assert data["ssh_strict_host_key_checking"] == "yes"
        assert str(data["ssh_known_hosts_file"]).endswith("redoubt-1/known_hosts")


class TestBoot:
    HOST = hosts.Host("try-1", "vm", "bare", 22001)

    @pytest.fixture
    def seconds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
        """A host that does not answer; how long it was waited for."""
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

    def test_a_host_that_goes_off_is_waited_for_no_longer_and_its_last_words_are_shown(
        self, seconds: Callable[[], float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alive = iter([True, True])
        monkeypatch.setattr(vm, "is_running", lambda host: next(alive, False))
        with pytest.raises(SandboxError, match=r"(?s)try-1 went off while it started.*Kernel panic"):
            self.HOST._wait(60)
        assert seconds() < 5

    def test_a_host_that_is_removed_meanwhile_is_waited_for_no_longer(
        self, seconds: Callable[[], float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.HOST.known_hosts.unlink()
        monkeypatch.setattr(vm, "is_running", lambda host: False)
        with pytest.raises(SandboxError, match="try-1 was removed while it started"):
            self.HOST._wait(60)
        assert seconds() < 5

    def test_all_waits_together_have_the_time_of_one_boot(
        self, seconds: Callable[[], float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SSH answers late, systemd never has started everything."""
        monkeypatch.setattr(vm, "is_running", lambda host: True)

        def run(_: hosts.Host, command: str, **__: Any) -> subprocess.CompletedProcess[str]:
            return subprocess.CompletedProcess([], int(command != "true" or seconds() < 1), "", "")

        monkeypatch.setattr(hosts.Host, "run", run)
        with pytest.raises(SandboxError, match="systemd is not ready after 2 s"):
            self.HOST._wait(2)
        assert seconds() < 2.9


class TestWaiting:
    def test_it_ends_as_soon_as_the_answer_is_yes(self) -> None:
        answers = iter([False, True])
        assert util.wait_until("test", "waiting", lambda: next(answers), timeout=5)

    def test_it_gives_up_in_time(self) -> None:
        assert not util.wait_until("test", "waiting", lambda: False, timeout=0.2)

    def test_an_engine_that_falls_silent_is_not_waited_for_forever(self) -> None:
        def call(**_: Any) -> Iterator[dict[str, Any]]:
            yield {"stream": "one"}
            over.wait(10)

        over = threading.Event()
        with pytest.raises(SandboxError, match="said nothing for 1 s"):
            list(util.events(call, silence=1))
        over.set()

    def test_an_error_of_the_engine_is_raised_where_it_is_waited_for(self) -> None:
        def call(**_: Any) -> Iterator[dict[str, Any]]:
            yield {"stream": "one"}
            raise ConnectionError("gone")

        with pytest.raises(ConnectionError, match="gone"):
            list(util.events(call, silence=5))

    def test_a_command_that_fails_shows_the_end_of_its_output(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(util, "STATE", tmp_path)
        with pytest.raises(SandboxError, match=r"(?s)exit code 3.*\| the reason"):
            util.run_logged("test", "trying", ["sh", "-c", "echo the reason; exit 3"], timeout=10)

    def test_a_command_that_hangs_is_ended(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(util, "STATE", tmp_path)
        with pytest.raises(SandboxError, match="not done after 0 s"):
            util.run_logged("test", "trying", ["sleep", "60"], timeout=0.2)


class TestFrontDoor:
    @pytest.mark.parametrize(
        "remote", ["echo $HOME", "echo 'two  words'", 'docker ps --format "{{.Names}}"', "a && b || c; d | e"]
    )
    def test_make_ssh_passes_the_command_on_as_it_was_typed(self, remote: str) -> None:
        shown = subprocess.run(
            # Below another make, as in `make test`, it would announce its directory too.
            ["make", "--no-print-directory", "--dry-run", "--assume-old=.venv/.complete", "ssh", f"CMD={remote}"],
            cwd=util.ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.replace(".venv/bin/python", "printf '%s\\n'")
        words = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, check=True).stdout.splitlines()
        assert words == ["-m", "sandbox", "ssh", "redoubt-1", "--", remote]

    @pytest.mark.parametrize(
        ("options", "containers", "ended"),
        [
            ([], [], ["redoubt-1", "engine"]),
            ([], ["other-1"], ["redoubt-1"]),
            (["--no-host"], [], ["engine"]),
            (["--no-host"], ["other-1"], []),
        ],
    )
    def test_a_run_ends_what_it_started_and_nothing_that_others_started_meanwhile(
        self,
        options: list[str],
        containers: list[str],
        ended: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        others = [hosts.Host("other-1", "container", "host", 22001), hosts.Host("other-2", "vm", "bare", 22002)]
        there: list[hosts.Host] = []
        done: list[str] = []

        def start(*own: hosts.Host) -> None:
            there.extend([*own, *others])

        monkeypatch.setattr(util, "STATE", tmp_path)
        monkeypatch.setattr(hosts, "load", lambda: there)
        monkeypatch.setattr(hosts.Host, "is_running", lambda host: True)
        monkeypatch.setattr(hosts.Host, "stop", lambda host: done.append(host.name))
        monkeypatch.setattr(engine, "is_running", lambda: False)
        monkeypatch.setattr(engine, "containers", lambda: containers)
        monkeypatch.setattr(engine, "stop", lambda: done.append("engine"))
        monkeypatch.setattr(__main__, "_host_up", lambda: start(hosts.Host("redoubt-1", "vm", "bare", 22000)))
        monkeypatch.setattr(__main__, "_build_redis", lambda: None if there else start())
        arguments, command = __main__.parse(["run", *options, "--", "true"])
        assert arguments.verb(arguments, command) == 0
        assert done == ended

    def test_what_follows_the_dashes_is_the_remote_command(self) -> None:
        arguments, command = __main__.parse(["ssh", "redoubt-2", "--", "ls", "--", "-l"])
        assert (arguments.name, command) == ("redoubt-2", ["ls", "--", "-l"])
