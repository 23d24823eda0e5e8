"""What hosts answer cannot control the terminal of the machine that deploys."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from redoubt.terminal import escaped

ROOT = Path(__file__).resolve().parent.parent.parent
HOSTILE = "\x1b[2J\x1b]0;title\x07\x1b[8m\u202egpj\x9b31m\x85"


def test_hostile_text_is_escaped_and_colours_stay() -> None:
    assert escaped(click.style("no", "red", bold=True)) == click.style("no", "red", bold=True)
    assert escaped(f"\x1b[31mno: \x1b[0m{HOSTILE}[/x]\n\tnext") == (
        "\x1b[31mno: \x1b[0m\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER}"
        "\N{REPLACEMENT CHARACTER}[8m\N{REPLACEMENT CHARACTER}gpj\N{REPLACEMENT CHARACTER}31m"
        "\N{REPLACEMENT CHARACTER}[/x]\n\tnext"
    )


@pytest.mark.parametrize("code", ["2", "3", "4", "7", "8", "30", "37", "39", "40", "90", "97", "0;30", ""])
def test_style_that_hides_text_is_escaped(code: str) -> None:
    """Black on black and white on white hide the rest of a line."""
    assert escaped(f"redis\x1b[{code}m (pid 1)") == f"redis\N{REPLACEMENT CHARACTER}[{code}m (pid 1)"


@pytest.mark.parametrize("options", [[], ["-vvv"]], ids=["failure", "all output"])
def test_output_of_a_failed_command_is_escaped(options: list[str]) -> None:
    """pyinfra prints what a command on a host printed."""
    pyinfra = Path(sys.executable).with_name("pyinfra")
    script = "printf '\\033[2J\\033]0;title\\007\\302\\23331m\\342\\200\\256gpj\\rforged\\n' >&2; exit 1"
    done = subprocess.run(
        [pyinfra, "-y", *options, "@local", "exec", "--", script],
        cwd=ROOT,
        env={**os.environ, "FORCE_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    output = (done.stdout + done.stderr).decode()
    assert done.returncode == 1
    assert "forged" in output
    assert escaped(output) == output
