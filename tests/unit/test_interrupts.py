"""Ctrl-C where Python loses it: in a finalizer, and while a verb cleans up."""

import subprocess
import sys

import pytest

_FINALIZER = """
class Client:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(1000))

Client()
time.sleep(30)
"""
_CLEANUP = """
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)
finally:
    os.kill(os.getpid(), signal.SIGINT)
    sum(range(1000))
    print("cleaned up", flush=True)
"""
_MESSAGE = """
def fail():
    raise Failure(Text("no"))

class Text(str):
    def __str__(self):
        os.kill(os.getpid(), signal.SIGINT)
        return "no"

fail()
"""
_PROGRAM = """
import os, signal, sys, time
from redisctl.cli.main import run_cli
from redisctl.core import interrupts
from redisctl.core.errors import Failure

def command():
    exec(sys.argv[1], globals())

interrupts.listen()
sys.exit(run_cli(command))
"""


@pytest.mark.parametrize(
    ("code", "output", "errors"),
    [
        (_FINALIZER, "", "redisctl: cancelled"),
        (_CLEANUP, "cleaned up", "redisctl: cancelled"),
        (_MESSAGE, "", "redisctl: no"),
    ],
    ids=["finalizer", "cleanup", "message"],
)
def test_ctrl_c_is_one_line_in_a_difficult_place(code: str, output: str, errors: str) -> None:
    program = subprocess.run(
        [sys.executable, "-c", _PROGRAM, code], capture_output=True, text=True, timeout=20, check=False
    )
    assert (program.returncode, program.stdout.strip(), program.stderr.strip()) == (3, output, errors)
