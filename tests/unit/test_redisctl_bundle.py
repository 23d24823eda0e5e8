"""redisctl as one file: reproducible, with libraries, identified by digest."""

import io
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from redisctl.__main__ import DIGEST, module_path, modules_dir
from redoubt import host_files, redisctl_bundle
from redoubt.settings.load import load


def test_program_is_one_reproducible_file(tmp_path: Path) -> None:
    archive = redisctl_bundle.archive()
    redisctl_bundle.archive.cache_clear()
    assert redisctl_bundle.archive() == archive
    names = zipfile.ZipFile(io.BytesIO(archive)).namelist()
    assert {"__main__.py", "redisctl/cli/main.py", "redis/client.py", "click/core.py", "rich/console.py"} < set(names)
    assert not [name for name in names if name.startswith(("redoubt/", "pyinfra/", "tests/"))]
    program = tmp_path / "redisctl"
    program.write_bytes(archive)
    # Help needs no root, no Redis and nothing that is installed.
    try:
        result = subprocess.run(
            [sys.executable, "-I", "-S", str(program), "health", "--help"], capture_output=True, text=True, check=True
        )
    finally:
        # Unpacked if the test runs as root.
        shutil.rmtree(modules_dir(str(tmp_path)), ignore_errors=True)
    assert "The exit code is that" in result.stdout


def test_program_ends_with_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Different contents have different digests.

    The digest names the directory of the program's unpacked modules.
    """
    digests = []
    for libraries in ((), ("click",), ()):
        monkeypatch.setattr(redisctl_bundle, "LIBRARIES", libraries)
        redisctl_bundle.archive.cache_clear()
        digests.append(redisctl_bundle.archive()[-DIGEST:])
    redisctl_bundle.archive.cache_clear()
    assert re.fullmatch(rb"[0-9a-f]{64}", digests[0])
    assert digests[0] == digests[2] != digests[1]


def test_each_instance_has_its_own_command() -> None:
    settings = load({"redis_name": "queue"})
    files = {file.path: file.content for file in host_files.redisctl_program(settings)}
    assert files["/usr/local/sbin/redisctl-queue"].startswith("#!/bin/sh\n# ")
    assert files["/usr/local/sbin/redisctl-queue"].endswith('\nexec /srv/queue/redisctl "$@"\n')
    config = host_files.redisctl_config(settings)
    assert (config.path, '"name": "queue"' in config.content) == ("/srv/queue/redisctl.json", True)
    assert host_files.redisctl_path(load({})) == "/usr/local/sbin/redisctl"


def test_only_an_installed_program_unpacks_its_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program without redisctl.json next to it unpacks nothing.

    An inspection runs the program from a private directory, and must leave nothing in /run.
    """
    modules = tmp_path / "modules"
    monkeypatch.setattr("redisctl.__main__.modules_dir", lambda _: str(modules))
    program = tmp_path / "redisctl"
    program.write_bytes(redisctl_bundle.archive())
    assert module_path(str(program)) == str(program)
    assert not modules.exists()
    (tmp_path / "redisctl.json").write_text("{}\n")
    target = modules / redisctl_bundle.digest()
    (modules / "of another release").mkdir(parents=True)
    assert module_path(str(program)) == str(target)
    assert [path.name for path in modules.iterdir()] == [target.name]
    assert (target / "redisctl" / "cli" / "main.py").is_file()
