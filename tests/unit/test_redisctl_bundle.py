"""redisctl as one file: reproducible, with its libraries, identified by its digest."""

import io
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from redisctl.__main__ import DIGEST, modules_dir
from redoubt import host_files, redisctl_bundle
from redoubt.settings.load import load


def test_program_is_one_reproducible_file(tmp_path: Path) -> None:
    made = redisctl_bundle.archive()
    redisctl_bundle.archive.cache_clear()
    assert redisctl_bundle.archive() == made
    names = zipfile.ZipFile(io.BytesIO(made)).namelist()
    assert {"__main__.py", "redisctl/cli/main.py", "redis/client.py", "click/core.py", "rich/console.py"} < set(names)
    assert not [name for name in names if name.startswith(("redoubt/", "pyinfra/", "tests/"))]
    program = tmp_path / "redisctl"
    program.write_bytes(made)
    # Help needs no root, no Redis and nothing that is installed.
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(program), "health", "--help"], capture_output=True, text=True, check=True
        )
    finally:
        # By root.
        shutil.rmtree(modules_dir(str(tmp_path)), ignore_errors=True)
    assert "The exit code is that" in done.stdout


def test_program_ends_with_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the place where its modules are unpacked: one for what is the same, another for what is not."""
    ends = []
    for libraries in ((), ("click",), ()):
        monkeypatch.setattr(redisctl_bundle, "LIBRARIES", libraries)
        redisctl_bundle.archive.cache_clear()
        ends.append(redisctl_bundle.archive()[-DIGEST:])
    redisctl_bundle.archive.cache_clear()
    assert re.fullmatch(rb"[0-9a-f]{64}", ends[0])
    assert ends[0] == ends[2] != ends[1]


def test_each_instance_has_its_own_command() -> None:
    settings = load({"redis_name": "queue"})
    files = {file.path: file.content for file in host_files.redisctl_program(settings)}
    assert files["/usr/local/sbin/redisctl-queue"] == '#!/bin/sh\nexec /srv/queue/redisctl "$@"\n'
    config = host_files.redisctl_config(settings)
    assert (config.path, '"name": "queue"' in config.content) == ("/srv/queue/redisctl.json", True)
    assert host_files.redisctl_path(load({})) == "/usr/local/sbin/redisctl"
