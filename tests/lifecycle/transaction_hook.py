"""Interrupts redisctl on a host at a chosen stage of a transaction, exactly and without a hook in the program.

The host runs redisctl's own modules with one function wrapped: the one that writes the journal.
"""

from typing import Literal

from redisctl.core.journal import Stage
from sandbox.hosts import Host

PROGRAM = "/srv/redis/redisctl"
_REACHED = "/run/redoubt-test.reached"

# Arguments: the stage, when (at: the journal has just got the stage; after: its work is done), the action, the command
# line of redisctl. A rollback needs a reason, so the first start of a Redis with new data is reported as failed then.
_SCRIPT = """
import os, signal, subprocess, sys, time
stage, when, action, *arguments = sys.argv[1:]
sys.path.insert(0, "/srv/redis/redisctl")
from redisctl.core import journal, service
write, end, start_and_check = journal._write, journal.end, service.start_and_check
last = ""

def act():
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "wait":
        open("/run/redoubt-test.reached", "w").close()
        time.sleep(600)
    else:
        subprocess.run(["sh", "-ec", action], check=True)

def hooked_write(instance, record):
    global last
    if when == "after" and last == stage:
        act()
    write(instance, record)
    last = record.stage.value
    if when == "at" and last == stage:
        act()
    return record

def hooked_end(instance):
    if when == "after" and last == stage:
        act()
    end(instance)

def failing_start(*arguments):
    service.start_and_check = start_and_check
    start_and_check(*arguments)
    return ["the test says so"]

journal._write, journal.end = hooked_write, hooked_end
if stage in ("rolling back", "starting the old state"):
    service.start_and_check = failing_start
sys.argv = ["/srv/redis/redisctl", *arguments]
from redisctl.cli.main import main
main()
"""


def kill_at(host: Host, stage: Stage, when: Literal["at", "after"], arguments: str) -> None:
    """Run redisctl and have it killed with SIGKILL at a stage."""
    result = host.run(f"python3 -I - '{stage.value}' {when} kill {arguments}; echo $?", input=_SCRIPT)
    assert result.stdout.splitlines()[-1:] == ["137"], f"{stage.value} was not reached: {result.stdout}{result.stderr}"


def hang_at(host: Host, stage: Stage, when: Literal["at", "after"], arguments: str) -> None:
    """Run redisctl in the background until it has reached a stage, where it stays for ten minutes at most."""
    host.run(f"rm -f {_REACHED}; cat >/run/redoubt-test.py", input=_SCRIPT, check=True)
    host.run(
        f"setsid python3 -I /run/redoubt-test.py '{stage.value}' {when} wait {arguments} </dev/null "
        ">/run/redoubt-test.output 2>&1 & "
        f"for _ in $(seq 1500); do [ -e {_REACHED} ] && exit 0; sleep 0.02; done; cat /run/redoubt-test.output; exit 1",
        check=True,
    )


def run_at(host: Host, stage: Stage, command: str, arguments: str) -> tuple[int, str]:
    """Run redisctl, and a shell command when its journal has got a stage. Returns exit code and output."""
    host.run("cat >/run/redoubt-test.py", input=_SCRIPT, check=True)
    host.run("cat >/run/redoubt-test.sh", input=command, check=True)
    result = host.run(f"python3 -I /run/redoubt-test.py '{stage.value}' at 'sh -e /run/redoubt-test.sh' {arguments}")
    return result.returncode, result.stdout + result.stderr
