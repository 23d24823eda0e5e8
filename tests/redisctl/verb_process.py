"""Runs verbs of redisctl with fake programs, each in its own process.

Reads a line of JSON with a list of jobs, runs them at the same time, and prints a line with their results. Forks after
the imports, so a verb takes milliseconds, and its memory can be measured.

python -m tests.redisctl.verb_process
"""

import importlib
import json
import os
import signal
import sys
import time
from typing import Any

from redisctl import __main__ as program
from redisctl import paths
from redisctl.cli import main as cli
from redisctl.cli.deploy import STEPS
from redisctl.core import interrupts, process, resp

# Seconds instead of hours and minutes.
_CONSTANTS = {
    "redisctl.core.service": {"LOADING_TIMEOUT": 1, "_REFUSED_AFTER": 1, "HEALTHY_TIMEOUT": 1, "_UPDATE_TIMEOUT": 1},
    "redisctl.core.server_changes": {"LOADING_TIMEOUT": 3, "_PATIENCE": 1, "_DEADLINE": 5},
    "redisctl.core.scratch_redis": {"LOAD_TIMEOUT": 1},
    "redisctl.migrate.migration": {"_LINK_TIMEOUT": 1},
    "redisctl.migrate.replica": {"SYNC_TIMEOUT": 1, "SAVE_TIMEOUT": 1},
    "redisctl.backup.create": {"SAVE_TIMEOUT": 1},
}
# Seconds for the answers to a command, and for a verb.
_ANSWER_TIMEOUT = 0.5
_TIMEOUT = 60


def _run(job: dict[str, Any]) -> None:
    """Run a verb in this process, which ends with it."""
    os.setsid()
    for descriptor, path, flags in (
        (0, job["stdin"], os.O_RDONLY),
        (1, job["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, job["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        os.dup2(os.open(path, flags, 0o600), descriptor)
    sys.argv = [f"{job['root']}/redisctl", *job["arguments"]]
    process.ENVIRONMENT = {**process.ENVIRONMENT, "PATH": job["programs"]}
    for name, values in _CONSTANTS.items():
        module = importlib.import_module(name)
        for constant, value in values.items():
            assert hasattr(module, constant), (name, constant)
            setattr(module, constant, value)
    expect = resp.AnswerReader.expect

    def expect_soon(reader: resp.AnswerReader, timeout: float, limit: int) -> None:
        expect(reader, min(timeout, _ANSWER_TIMEOUT), limit)

    setattr(resp.AnswerReader, "expect", expect_soon)  # noqa: B010 - mypy refuses an assignment
    setattr(paths, "history_file", lambda _: f"{job['root']}/history")  # noqa: B010
    listen = interrupts.listen

    def listen_and_interrupt() -> None:
        listen()
        _interrupt(*job["signals"])

    if "signals" in job:
        setattr(interrupts, "listen", listen_and_interrupt)  # noqa: B010
    setattr(program, "module_path", lambda path: path)  # noqa: B010
    program.run(job["root"])


def _fork(job: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        _run(job)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 98
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _interrupt(timer: int, signals: list[tuple[float, int]]) -> None:
    """Send this process signals, each some seconds after the one before.

    ``timer`` counts the seconds: of the clock, or of the processor, so that they hit code that computes.
    """
    alarm = signal.SIGALRM if timer == signal.ITIMER_REAL else signal.SIGPROF

    def send(*_: object) -> None:
        number = signals.pop(0)[1]
        if signals:
            signal.setitimer(timer, signals[0][0])
        os.kill(os.getpid(), number)

    if signals:
        signal.signal(alarm, send)
        signal.setitimer(timer, signals[0][0])


def _wait(pids: list[int]) -> list[dict[str, Any]]:
    results: dict[int, dict[str, Any]] = {}
    start = time.monotonic()
    while len(results) < len(pids):
        for pid in set(pids) - set(results):
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                results[pid] = {"code": code, "memory": usage.ru_maxrss * 1024, "took": time.monotonic() - start}
            elif time.monotonic() - start > _TIMEOUT:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return [results[pid] for pid in pids]


def _import_everything() -> None:
    for place in (*cli.VERBS.values(), *(place for _, place in STEPS.values())):
        module = place.partition(":")[0]
        package = "redisctl.cli" if place in cli.VERBS.values() else "redisctl.deploy"
        importlib.import_module(f"{package}.{module}")
    for name in (*_CONSTANTS, "redisctl.deploy.state", "redisctl.deploy.recovery", "redisctl.monitor.top_screen"):
        importlib.import_module(name)


if __name__ == "__main__":
    _import_everything()
    for line in sys.stdin:
        print(json.dumps(_wait([_fork(job) for job in json.loads(line)])), flush=True)
