"""Progress of long steps: a line on a terminal, and lines now and then elsewhere."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from redisctl.backup import offsite
from redisctl.cli import progress as display
from redisctl.cli.common import echo
from redisctl.core import files, process, progress

_PROGRAM = """
import time
from redisctl.cli import progress as display
from redisctl.cli.common import echo
from redisctl.core import progress

with display.shown(as_json=False):
    progress.report("copying [/x] \\x1b[2J: 1 of 3 keys")
    time.sleep(0.5)
    echo("finished")
"""

_DEPLOY = """
from redoubt import pyinfra_patches, redisctl_progress
from pyinfra.connectors import util

pyinfra_patches._escape_output()
pyinfra_patches._print_progress()
script = "echo 'progress: copying: 1 of 3'; echo '{}'; echo 'progress: not a step' >&2"
_, output = util.run_local_process(script, print_prefix="[host] ")
print(output.stdout_lines)
with redisctl_progress.printing():
    code, output = util.run_local_process(script, print_prefix="[redisctl] ")
print(code, output.stdout_lines, output.stderr_lines)
"""


def test_step_is_shown_on_a_terminal_and_removed() -> None:
    """What others have named is escaped there, too."""
    ours, theirs = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    )
    output, _ = program.communicate(timeout=30)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    os.close(theirs)
    assert (program.returncode, output) == (0, b"finished\n")
    assert "copying [/x] \N{REPLACEMENT CHARACTER}[2J: 1 of 3 keys" in shown
    # rich erases the line.
    assert shown.rindex("\x1b[2K") > shown.rindex("keys")


def test_lines_without_a_terminal_are_rare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(display, "_display", display.Display())
    with display.shown(as_json=False):
        for second in range(25):
            now[0] = second
            progress.report(f"step {second}")
        echo("finished")
    assert capsys.readouterr().err == "step 10\nstep 20\n"


def test_json_has_no_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(display, "INTERVAL", 0)
    with display.shown(as_json=True):
        progress.report("step")
    progress.report("after the block")
    assert capsys.readouterr().err == ""


def test_steps_of_a_deploy_are_lines_before_its_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(display, "INTERVAL", 0)
    with display.sent_to_deploy():
        progress.report("copying \x1b[2J: 1 of 3 keys")
    assert capsys.readouterr().out == "progress: copying \N{REPLACEMENT CHARACTER}[2J: 1 of 3 keys\n"


def test_deploy_prints_progress_and_keeps_it_out_of_the_result() -> None:
    """pyinfra itself reads a command's standard output.

    Other commands may print the same line.
    """
    program = subprocess.run([sys.executable, "-c", _DEPLOY], capture_output=True, text=True, timeout=60, check=True)
    others, redisctl = program.stdout.splitlines()
    assert others == "['progress: copying: 1 of 3', '{}']"
    assert redisctl == "0 ['{}'] ['progress: not a step']"
    assert program.stderr == "[redisctl] copying: 1 of 3\n"


def test_long_program_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(process, "_LONG", 0.2)
    monkeypatch.setattr(process, "_REPORT", 0.2)
    with progress.sent_to(steps.append):
        process.run(["sleep", "0.1"])
        assert steps == []
        process.run(["sleep", "0.7"])
        assert steps[-1] == "sleep 0.7: 1 s"
        process.run(["sleep", "0.7"], name="redis-check-rdb of 20.0 GiB")
        assert steps[-1] == "redis-check-rdb of 20.0 GiB: 1 s"
        status = '{"message_type":"status","percent_done":0.5,"total_bytes":2048,"bytes_done":1024}'
        process.run(["sh", "-c", f"echo '{status}'; sleep 0.7"], name="restic backup", status=offsite.restic_progress)
    assert steps[-1] == "restic: 50%, 1.0 KiB of 2.0 KiB: 1 s"


@pytest.mark.parametrize("line", ["", "no JSON", "[]", '{"message_type":"status"}', '{"message_type":"summary"}'])
def test_restic_without_a_status_has_no_progress(line: str) -> None:
    assert offsite.restic_progress(bytearray(f"{line}\n", "utf-8")) == ""


def test_checksum_is_reported(tmp_path: Path) -> None:
    steps: list[str] = []
    (tmp_path / "dump.rdb").write_bytes(b"x" * 3 * 1024**2)
    with (tmp_path / "dump.rdb").open("rb") as file, progress.sent_to(steps.append):
        files.checksum(file)
    assert steps[0] == "checking dump.rdb: 1.0 MiB of 3.0 MiB"
