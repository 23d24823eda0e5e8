"""A failed lifecycle test leaves its host to no other module."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import hosts
from sandbox.hosts import Host
from sandbox.util import ROOT, SandboxError
from tests import host_pool
from tests.host_pool import HostPool


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Replace what starts and removes hosts. Returns what was called."""
    events: list[str] = []
    existing: dict[str, Host] = {}

    def up(name: str, image: str = "host") -> Host:
        events.append(f"up {name}")
        existing[name] = Host(name, "container", image, 22001)
        return existing[name]

    def down(host: Host) -> None:
        events.append(f"down {host.name}")
        if host.image == "stubborn":
            raise SandboxError("Docker does not answer")
        del existing[host.name]

    def save_log(host: Host, directory: Path) -> None:
        events.append(f"log {host.name}")
        if host.image == "silent":
            raise SandboxError("it has no container")

    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setattr(host_pool, "LOGS", tmp_path)
    monkeypatch.setattr(hosts, "up", up)
    monkeypatch.setattr(hosts, "load", lambda: list(existing.values()))
    monkeypatch.setattr(Host, "down", down)
    monkeypatch.setattr(Host, "save_log", save_log)
    return events


def test_failures_renew_every_host(events: list[str]) -> None:
    """Once for each module with failures. Removed hosts are not removed again."""
    pool = HostPool()
    pool.renew(0)
    pool.start("lifecycle-1")
    pool.start("lifecycle-own").down()
    pool.renew(0)
    pool.start("lifecycle-1")
    assert events == ["up lifecycle-1", "up lifecycle-own", "down lifecycle-own"]
    events.clear()
    pool.renew(2)
    pool.renew(2)
    pool.start("lifecycle-1")
    assert events == ["log lifecycle-1", "down lifecycle-1", "up lifecycle-1"]


def test_host_of_a_killed_run_is_removed(events: list[str]) -> None:
    HostPool().start("lifecycle-1")
    HostPool().start("lifecycle-1")
    assert events == ["up lifecycle-1", "down lifecycle-1", "up lifecycle-1"]


def test_failed_removal_skips_no_other_host(events: list[str]) -> None:
    """A host that cannot be removed is an error at the end.

    A log that cannot be read is none.
    """
    pool = HostPool()
    for name, image in (("lifecycle-1", "silent"), ("lifecycle-2", "stubborn"), ("lifecycle-3", "host")):
        pool.start(name, image=image)
    with pytest.raises(SandboxError, match="Docker does not answer"):
        pool.renew(1)
    assert sorted(events[3:]) == sorted(
        f"{verb} lifecycle-{number}" for verb in ("log", "down") for number in (1, 2, 3)
    )


FAKE_HOSTS = """
import pytest
from sandbox import hosts
from sandbox.hosts import Host
from tests import host_pool

existing = {}

def up(name):
    existing[name] = Host(name, "container", "host", ssh_port=0)
    print("up", name)
    return existing[name]

hosts.up, hosts.load = up, lambda: list(existing.values())
Host.down = lambda host: existing.pop(host.name)
Host.save_log = lambda host, directory: print("log", host.name)

@pytest.fixture(scope="module")
def marks(start_host):
    return vars(existing[start_host("lifecycle-1").name]).setdefault("marks", [])
"""
MODULES = {
    "conftest": FAKE_HOSTS,
    "test_1_fails_in_test": "def test_last(marks):\n    marks.append(1)\n    assert False",
    "test_3_fails_in_setup": "import pytest\n@pytest.fixture\ndef dirty(marks):\n"
    "    marks.append(1)\n    assert False\ndef test_last(dirty): pass",
    "test_5_fails_in_teardown": "import pytest\n@pytest.fixture(scope='module')\ndef dirty(marks):\n"
    "    yield marks.append(1)\n    assert False\ndef test_last(dirty): pass",
    **dict.fromkeys(("test_2", "test_4", "test_6"), "def test_clean(marks):\n    assert marks == []"),
    "test_7": "def test_first(marks):\n    marks.append('tidy')",
    "test_8": "def test_shares_a_clean_host(marks):\n    assert marks == ['tidy']",
}


def test_module_after_a_failed_one_gets_a_clean_host(tmp_path: Path) -> None:
    """A module fails in its last test, in a setup, or in a teardown.

    pytest runs in another process.
    """
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    completed = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.deployer", "-p", "no:cacheprovider", "-s", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    # pytest also counts the test with the failed teardown as passed.
    assert "1 failed, 6 passed, 2 errors" in completed.stdout, completed.stdout
    assert completed.stdout.count("up lifecycle-1") == 4
    assert completed.stdout.count("log lifecycle-1") == 3
