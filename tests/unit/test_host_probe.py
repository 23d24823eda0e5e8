"""The script that inspects a host: it runs on this machine.

Tests give it directories in place of the host's.
"""

import os
import subprocess
from pathlib import Path

import pytest

from redisctl import paths
from redoubt import host_files
from redoubt.facts.host import HostFacts, HostProbe, parse_host_facts
from redoubt.kernel_tuning import KERNEL_SETTINGS
from redoubt.settings.load import load


def probe(root: Path) -> HostFacts:
    """Return what the script reports of this machine and a root."""
    command = HostProbe().command("redis", str(root), "", 999)
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=60)
    return parse_host_facts(result.stdout.splitlines())


def test_kernel_settings_are_read_whole(tmp_path: Path) -> None:
    """A value of several digits."""
    kernel = probe(tmp_path).kernel
    assert kernel == {setting.path: Path(setting.path).read_text().strip() for setting in KERNEL_SETTINGS}
    assert len(kernel["/proc/sys/net/core/somaxconn"]) > 1


def test_empty_root_has_no_entries(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    assert (probe(tmp_path).has_root, probe(tmp_path).root_entries) == (True, ())
    assert not probe(tmp_path / "absent").has_root


def test_every_file_and_directory_is_an_entry(tmp_path: Path) -> None:
    """A directory may be empty because its application has not started yet."""
    for number in range(25):
        (tmp_path / f"a{number:02}").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "config/app.conf").touch()
    assert probe(tmp_path).root_entries == tuple(f"a{number:02}" for number in range(20))


def test_name_of_a_file_adds_no_fact(tmp_path: Path) -> None:
    (tmp_path / r"a\nroot_owner redis").touch()
    (tmp_path / "b\nroot_owner redis").touch()
    facts = probe(tmp_path)
    assert facts.root_owner == ""
    assert facts.root_entries == (r"a\nroot_owner redis", "b?root_owner redis")


def test_access_and_links_of_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o2775)
    (tmp_path / "link").symlink_to(root)
    facts = probe(root)
    assert (facts.root_resolved, facts.root_access.split()[1]) == (str(root), "2775")
    assert probe(tmp_path / "link/absent").root_resolved == f"{root}/absent"
    assert probe(tmp_path / "absent").root_access == ""


def test_marker_names_the_owner(tmp_path: Path) -> None:
    (tmp_path / ".redoubt").write_text("redis\n")
    assert probe(tmp_path).root_owner == "redis"
    (tmp_path / ".redoubt").rename(tmp_path / "marker")
    (tmp_path / ".redoubt").symlink_to("marker")
    assert probe(tmp_path).root_owner == ""


def test_files_of_others_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is the instance's own if its first line says so.

    The interpreter of a script comes before it. A link is not its own. A named pipe does not block.
    """
    names = ("own", "program", "other", "script", "link", "pipe", "empty", "absent")
    own, program, other, script, link, pipe, empty, absent = files = tuple(str(tmp_path / name) for name in names)
    Path(program).write_text(host_files.redisctl_program(load({}))[1].content)
    Path(script).write_text("#!/bin/sh\n# Operates the queues.\n# written by Redoubt\n")
    Path(own).write_text("# Takes a backup of redis, written by Redoubt. A deploy overwrites changes made here.\n")
    Path(other).write_text("/var/log/nginx/*.log {\n# written by Redoubt\n")
    Path(link).symlink_to("/dev/null")
    os.mkfifo(pipe)
    Path(empty).touch()
    monkeypatch.setattr(paths, "outside_root", lambda _: files)
    assert probe(tmp_path / "root").foreign_files == (other, script, link, pipe, empty)
    assert not Path(absent).exists()
