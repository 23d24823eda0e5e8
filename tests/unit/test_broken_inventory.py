"""A mistake in an inventory is reported by its file, without a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("redis = [", "{path}, line 1: SyntaxError: '[' was never closed"),
        ("redis = [\n  redis_1]", "{path}, line 2: NameError: name 'redis_1' is not defined"),
        ("redis = [('one', 5)]", "{path}: a host must be a name or a pair of a name and its data"),
        ("redis = [('one',)]", "{path}: a host must be a name or a pair of a name and its data"),
        ("redis = [('one', {'ssh_port': 'x'})]", "the inventory's data of a host: Invalid connector data `ssh_port`"),
        ("redis = [('one', {'ssh_key': 'none'})]", "one: ssh_key = 'none': there is no such file on this machine"),
        ("redis = [('one', {'ssh_key': __file__})]", "error: Invalid private key file: {path}"),
    ],
)
def test_broken_inventory_is_reported(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts.py"
    path.write_text(f"{text}\n")
    pyinfra = Path(sys.executable).with_name("pyinfra")
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [pyinfra, "--dry", path, "deploy.py"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert message.format(path=path) in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "known_hosts" not in done.stderr
