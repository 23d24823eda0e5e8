"""Interruptions of redisctl on a host at an exact point of a transaction.

A step kills redisctl, pauses it, or runs a command. A transaction writes its journal at every stage, so the host's
unpacked modules of redisctl get an addition to the function that writes it. It does nothing unless a test has planned a
step, and a power cut removes it with the modules.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from redisctl import paths
from redisctl.core.journal import Stage
from sandbox.hosts import Host
from tests.deployed_redis import Instance, wait_until
from tests.deployer import Deployer

JOURNAL = f"/srv/redis/{paths.JOURNAL}"
LOCK = paths.lock_file("redis")
KILL, PAUSE = "kill", "pause"
_STEPS, _PAUSED, _OUTPUT = "/run/redoubt-test.steps", "/run/redoubt-test.paused", "/run/redoubt-test.output"
_MODULE = "$(ls -d /run/redoubt-srv-redis.modules/*/redisctl)/core/journal.py"
# Each step is removed before its action: the recovery of a killed redisctl must not be interrupted at the same point.
_HOOK = f"""

import signal
import subprocess

_write_journal, _remove_journal = _write, end
_steps, _paused = Path("{_STEPS}"), Path("{_PAUSED}")
_reached = ""


def _interrupt(stage, when):
    steps = json.loads(_steps.read_text()) if _steps.exists() else []
    if not steps or (steps[0]["stage"], steps[0]["when"]) != (stage, when):
        return
    _steps.write_text(json.dumps(steps[1:]))
    if steps[0]["action"] == "{KILL}":
        os.kill(os.getpid(), signal.SIGKILL)
    elif steps[0]["action"] == "{PAUSE}":
        _paused.touch()
        while _paused.exists():
            time.sleep(0.02)
    else:
        subprocess.run(["sh", "-ec", steps[0]["action"]], stdout=subprocess.DEVNULL, check=True)


def _write(instance, journal):
    global _reached
    if _reached:
        _interrupt(_reached, "after")
    written = _write_journal(instance, journal)
    _reached = journal.stage.value
    _interrupt(_reached, "at")
    return written


def end(instance):
    _interrupt(_reached, "after")
    _remove_journal(instance)
"""


# Hosts on which the running test has planned steps.
_PLANNED: set[Host] = set()


@dataclass(frozen=True)
class Step:
    """What happens to redisctl at a stage: KILL, PAUSE, or a shell command.

    ``at``: the journal has just got the stage, and its work has not begun. ``after``: its work is done, and the journal
    does not have the next stage yet.
    """

    stage: Stage
    action: str
    when: Literal["at", "after"] = "at"

    def __str__(self) -> str:
        return f"{self.when} {self.stage.value}"


def interrupt(host: Host, *steps: Step) -> None:
    """Plan steps for the next transactions on the host: in this order, each once."""
    _PLANNED.add(host)
    # Any command unpacks the modules.
    host.run(
        f"redisctl history >/dev/null; rm -f {_PAUSED}; grep -q {_STEPS} {_MODULE} || cat >>{_MODULE}",
        input=_HOOK,
        check=True,
    )
    plan = [asdict(step) | {"stage": step.stage.value} for step in steps]
    host.run(f"cat >{_STEPS}", input=json.dumps(plan), check=True)


def run_and_kill(host: Host, verb: str, *steps: Step) -> None:
    """Run a verb of redisctl that gets SIGKILL at the last step."""
    interrupt(host, *steps)
    result = host.run(f"redisctl {verb}; echo $?")
    assert result.stdout.splitlines()[-1:] == ["137"], f"not killed {steps[-1]}: {result.stdout}{result.stderr}"


def start_and_pause(host: Host, verb: str, *steps: Step) -> None:
    """Run a verb of redisctl in the background until it pauses at the last step."""
    interrupt(host, *steps)
    host.run(f"setsid redisctl {verb} </dev/null >{_OUTPUT} 2>&1 &", check=True)
    wait_until_paused(host, 30)


def until_paused(seconds: float) -> str:
    """Return a shell command that waits until redisctl pauses.

    It fails after ``seconds``.
    """
    return f"timeout {seconds} sh -c 'until test -e {_PAUSED}; do sleep 0.05; done'"


def wait_until_paused(host: Host, seconds: float = 120) -> None:
    """Wait until redisctl pauses."""
    completed = host.run(f"{until_paused(seconds)} || {{ cat {_OUTPUT}; exit 1; }}", timeout=seconds + 10)
    assert completed.returncode == 0, f"redisctl does not pause within {seconds:.0f} s: {completed.stdout}"


def resume(host: Host) -> None:
    """Let redisctl continue, and forget the steps that it has not reached."""
    host.run(f"rm -f {_STEPS} {_PAUSED}", check=True)


def forget_steps() -> None:
    """Let redisctl continue on all hosts, and forget the steps not reached.

    The verbs of the next test must not run them. A host without power has forgotten them.
    """
    while _PLANNED:
        _PLANNED.pop().run(f"rm -f {_STEPS} {_PAUSED}")


def wait_until_unlocked(host: Host) -> None:
    """Wait up to a minute until nothing changes the instance."""
    host.run(f"timeout 60 flock {LOCK} true")


def is_finished(host: Host) -> bool:
    """Say whether no transaction is under way or interrupted.

    systemd's recovery, which waits for the lock during a transaction, may still find out that it has nothing to do.
    """
    return host.run(f"test ! -e {JOURNAL}").returncode == 0


def is_recovered(host: Host) -> bool:
    """Say whether no transaction is under way or interrupted, and no recovery works."""
    unit = "systemctl show --property=ActiveState --value redis-recover.service"
    return is_finished(host) and host.run(f"{unit} | grep -q -e inactive -e failed").returncode == 0


def is_unlocked(host: Host) -> bool:
    """Say whether nothing changes the instance now."""
    return host.run(f"flock --nonblock {LOCK} true").returncode == 0


def cut_power(host: Host) -> None:
    """Cut the host's power and start it again. The host has to recover by itself."""
    host.kill()
    host.start()


def wait_until_recovered(host: Host, seconds: float = 120) -> None:
    """Wait until the host has finished an interrupted transaction by itself."""
    wait_until(lambda: is_recovered(host), "the interrupted transaction is finished without a person", seconds)


def cut_power_in_deploy(
    redis: Instance, deployer: Deployer, stage: Stage, seconds: float = 120, **settings: Any
) -> None:
    """Cut the host's power when the redisctl of a deploy reaches a stage.

    Waits until Redis is healthy without a person: ``seconds`` for the recovery, then a minute.
    """
    interrupt(redis.host, Step(stage, PAUSE))
    running = deployer.start(redis.host, **settings)
    wait_until_paused(redis.host, 180)
    cut_power(redis.host)
    assert running.wait().returncode == 1
    wait_until_recovered(redis.host, seconds)
    redis.wait_until_healthy()
