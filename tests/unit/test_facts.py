"""Facts: output of hosts is parsed, and secrets are in no command and no log."""

import stat
import subprocess
from pathlib import Path

from pyinfra.api.util import get_kwargs_str

from redoubt.facts.image import ImageBuild
from redoubt.facts.paths import HiddenStdin, Paths
from redoubt.filesystem import DesiredFile, PathState


def test_digest_of_a_secret_stays_on_the_host(tmp_path: Path) -> None:
    public, right, wrong = tmp_path / "public", tmp_path / "right", tmp_path / "wrong"
    public.write_text("port 6379\n")
    right.write_text("hunter2-hunter2\n")
    wrong.write_text("somebody-s-guess\n")
    secrets = [str(right), str(wrong), str(tmp_path / "missing")]
    digest = DesiredFile("x", "hunter2-hunter2\n").digest
    command = Paths().command([str(public), *secrets], secrets)
    output = subprocess.run(
        command,
        shell=True,
        input="".join(f"{digest}  {path}\n" for path in secrets),
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    states = Paths().process(output.splitlines())

    assert states[str(public)].digest == DesiredFile("x", "port 6379\n").digest
    assert {path: (state.matches, state.digest) for path, state in states.items() if path != str(public)} == {
        str(right): (True, ""),
        str(wrong): (False, ""),
    }
    assert digest not in command + output


def test_missing_paths_are_left_out(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    command = Paths().command([str(tmp_path), missing])
    output = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout
    (state,) = Paths().process(output.splitlines()).values()
    assert state == PathState(tmp_path.stat().st_mode, tmp_path.stat().st_uid, tmp_path.stat().st_gid)
    assert stat.S_ISDIR(state.st_mode)


def test_hidden_stdin_is_not_shown_by_pyinfra() -> None:
    hidden = HiddenStdin("hunter2\n")
    assert "hunter2" not in f"{get_kwargs_str({'_stdin': hidden})} {hidden!r} {hidden!s} {[hidden]}"
    assert hidden.encode() == b"hunter2\n"


def test_missing_image_has_no_version() -> None:
    """Docker prints an empty line for it."""
    assert ImageBuild().process([""]) is None
