"""Runs of the pyinfra command in forks of one process that has imported it.

Imports take most of a small deploy's CPU. Each command is still a process of its own, with its own arguments,
environment, output and exit code. Run as a program, this file is that process: it reads a request on each line of
standard input and answers with the exit code. ``test_command_line.py`` runs the pyinfra command itself.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class ForkedPyinfra:
    """The process that forks. Commands run one after another."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(
        self, arguments: tuple[str, ...], *, env: Mapping[str, str] | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run pyinfra with these arguments. Never raises for its exit code."""
        process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        with tempfile.TemporaryDirectory(prefix="redoubt-pyinfra-") as directory:
            stdout, stderr = Path(directory, "stdout"), Path(directory, "stderr")
            request = {
                "arguments": arguments,
                "env": {**os.environ, **(env or {})},
                "stdout": str(stdout),
                "stderr": str(stderr),
            }
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], timeout)
            if not ready:
                process.kill()
                raise subprocess.TimeoutExpired(arguments, timeout, stdout.read_bytes(), stderr.read_bytes())
            answer = process.stdout.readline()
            assert answer, f"the process that forks pyinfra has ended ({process.poll()})"
            code = int(answer)
            return subprocess.CompletedProcess(arguments, code, stdout.read_text(), stderr.read_text())

    def close(self) -> None:
        """End the process."""
        if self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(timeout=10)
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, __file__], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        return self._process


def _serve() -> None:
    sys.path.insert(0, str(ROOT))
    from gevent import monkey
    from pyinfra_cli.main import main

    import tasks.instance
    import tasks.preflight
    import tasks.rotation
    import tasks.service
    import tasks.tls  # noqa: F401 - imported before the forks

    # gevent's own would start an event loop here, which a fork must not inherit.
    fork, waitpid = monkey.get_original("os", "fork"), monkey.get_original("os", "waitpid")
    for line in sys.stdin:
        request = json.loads(line)
        pid = fork()
        if pid == 0:
            _become(request)
            sys.exit(main())
        _, status = waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(request: dict[str, Any]) -> None:
    """Make this fork the pyinfra command of a request."""
    os.environ.clear()
    os.environ.update(request["env"])
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        target = os.open(str(request[name]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(target, descriptor)
    sys.argv = ["pyinfra", *request["arguments"]]


if __name__ == "__main__":
    _serve()
