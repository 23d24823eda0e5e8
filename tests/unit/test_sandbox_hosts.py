"""Disposable hosts: names, records, starts, interruptions and the inventory."""

import contextlib
import json
import runpy
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sandbox import __main__, container, hosts, images, ssh, util, vm
from sandbox.util import SandboxError

HOST = hosts.Host("try-1", "vm", "bare", 22001)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hosts, "_DIRECTORY", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["", "-x", "Redoubt", "a b", "a/../b", "x" * 41])
def test_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(SandboxError, match="is no valid name of a host"):
        hosts.up(name)


def test_unknown_host_names_the_existing_ones(directory: Path) -> None:
    (directory / "redoubt-1").mkdir()
    (directory / "redoubt-1" / "host.json").write_text(
        '{"name": "redoubt-1", "kind": "container", "image": "host", "ssh_port": 22001, "address": "10.201.3.10"}'
    )
    assert hosts.load() == [hosts.Host("redoubt-1", "container", "host", 22001, "10.201.3.10")]
    with pytest.raises(SandboxError, match="redoubt-1"):
        hosts.get("redoubt-2")


@pytest.mark.parametrize("record", ["", "{", '{"name": "try-1"}', "[]", b"\xff"])
def test_host_with_a_damaged_record_can_be_removed(
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


def test_file_is_replaced_atomically(tmp_path: Path) -> None:
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
def test_error_about_a_port_gets_a_hint(error: str, is_port: bool) -> None:
    hint = hosts.Host("try-1", "vm", "bare", 22001).port_hint(error)
    assert ("port 22001 is taken" in hint) == is_port
    assert bool(hint) == is_port


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("signalled", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(("state", "undone"), [("none", "down"), ("stopped", "kill"), ("running", "")])
def test_interrupted_up_undoes_only_its_own_start(
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
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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


def test_pyinfra_checks_the_host_key() -> None:
    data = hosts.Host("redoubt-1", "container", "host", 22001).ssh_data()
    assert data["ssh_strict_host_key_checking"] == "yes"
    assert str(data["ssh_known_hosts_file"]).endswith("redoubt-1/known_hosts")


@pytest.fixture
def seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """Return how long the test has waited for a host that does not answer."""
    monkeypatch.setattr(util, "STATE", tmp_path)
    monkeypatch.setattr(hosts, "_DIRECTORY", tmp_path)
    monkeypatch.setattr(vm, "_console", lambda host: tmp_path / "console")
    (tmp_path / "console").write_text("Kernel panic - not syncing\n")
    HOST.known_hosts.parent.mkdir()
    HOST.known_hosts.touch()
    refused = subprocess.CompletedProcess([], 255, "", "Connection refused")
    monkeypatch.setattr(hosts.Host, "run", lambda *_, **__: refused)
    begin = time.monotonic()
    return lambda: time.monotonic() - begin


def test_host_that_stops_ends_the_wait_with_its_log(
    seconds: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = iter([True, True])
    monkeypatch.setattr(vm, "is_running", lambda host: next(alive, False))
    with pytest.raises(SandboxError, match=r"(?s)try-1 stopped while it started.*Kernel panic"):
        HOST._wait(60)
    assert seconds() < 5


def test_removed_host_ends_the_wait(seconds: Callable[[], float], monkeypatch: pytest.MonkeyPatch) -> None:
    HOST.known_hosts.unlink()
    monkeypatch.setattr(vm, "is_running", lambda host: False)
    with pytest.raises(SandboxError, match="try-1 was removed while it started"):
        HOST._wait(60)
    assert seconds() < 5


def test_all_waits_share_the_timeout(seconds: Callable[[], float], monkeypatch: pytest.MonkeyPatch) -> None:
    """SSH answers late, and systemd never finishes its start."""
    monkeypatch.setattr(vm, "is_running", lambda host: True)

    def run(_: hosts.Host, command: str, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], int(command != "true" or seconds() < 1), "", "")

    monkeypatch.setattr(hosts.Host, "run", run)
    with pytest.raises(SandboxError, match="systemd is not ready after 2 s"):
        HOST._wait(2)
    assert seconds() < 2.9
