"""Runs of the pyinfra command in forks of one process that has imported it.

Imports take most of a small deploy's CPU. Each command is still a process of its own, with its own arguments,
environment, output and exit code. Run as a program, this file is the process that forks: it receives requests, each
with the descriptors for the output and the result. ``test_command_line.py`` runs the pyinfra command itself.
"""

import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
_MAX_REQUEST = 1024**2


class ForkedProcess:
    """A pyinfra command that runs, with what the tests use of subprocess.Popen."""

    def __init__(self, result: int) -> None:
        # A line with the process number at its start, and a line with the exit code at its end.
        self._result = os.fdopen(result)
        self.pid = int(self._line())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, negative after a signal. Raises TimeoutExpired."""
        code = self._wait(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("pyinfra", timeout or 0)
        return code

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless the command has ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._result], [], [], timeout)[0]:
            self.returncode = int(self._line())
            self._result.close()
        return self.returncode

    def _line(self) -> str:
        line = self._result.readline()
        assert line, "the process that forks pyinfra has ended"
        return line


class ForkedPyinfra:
    """The process that forks. It starts with the first command."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def run(
        self, arguments: tuple[str, ...], *, env: Mapping[str, str] | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run pyinfra with these arguments. Never raises for its exit code.

        Kills it after ``timeout`` seconds and raises TimeoutExpired with the output so far.
        """
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            process = self.start(arguments, stdout.fileno(), stderr.fileno(), env=env)
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired as error:
                raise subprocess.TimeoutExpired(arguments, timeout, _text(stdout), _text(stderr)) from error
            finally:
                # Also after Ctrl-C: a deploy without its test would keep the host locked.
                process.send_signal(signal.SIGKILL)
            return subprocess.CompletedProcess(arguments, code, _text(stdout), _text(stderr))

    def start(
        self, arguments: tuple[str, ...], stdout: int, stderr: int, *, env: Mapping[str, str] | None = None
    ) -> ForkedProcess:
        """Start pyinfra with these arguments, which writes to these descriptors."""
        reading, writing = os.pipe()
        request = json.dumps({"arguments": arguments, "env": {**os.environ, **(env or {})}}).encode()
        assert len(request) < _MAX_REQUEST
        socket.send_fds(self._serving(), [request], [stdout, stderr, writing])
        os.close(writing)
        return ForkedProcess(reading)

    def close(self) -> None:
        """End the process."""
        if self._process and self._requests:
            self._requests.close()
            self._process.wait(timeout=10)
            self._process = self._requests = None

    def _serving(self) -> socket.socket:
        if self._requests is None or self._process is None or self._process.poll() is not None:
            self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = subprocess.Popen([sys.executable, __file__], cwd=ROOT, stdin=theirs.fileno())
        return self._requests


def _text(file: IO[bytes]) -> str:
    """Return a file's content. Keeps the offset, which the command shares."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()


def _serve() -> None:
    # Before pyinfra's import: gevent replaces them, and would start an event loop here, which a fork must not inherit.
    requests, fork, waitpid, close = socket.socket(fileno=0), os.fork, os.waitpid, os.close
    sys.path.insert(0, str(ROOT))
    from pyinfra_cli.main import main

    # Before the forks: the imports, and what each of them would make again.
    for path in sorted((ROOT / "tasks").glob("*.py")):
        importlib.import_module(f"tasks.{path.stem}")
    from redoubt import host_files, redisctl_bundle

    redisctl_bundle.digest()
    templates = host_files.environment()
    for name in templates.list_templates():
        templates.get_template(name)

    # The forks share this memory, and their garbage collections do not look at it.
    gc.freeze()
    # The kernel reaps what waits for the commands.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, _MAX_REQUEST, 3)
        if not message:
            return
        if fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            result = descriptors.pop()
            pid = fork()
            if pid == 0:
                close(result)
                _become(json.loads(message), *descriptors)
                sys.exit(main())
            for descriptor in descriptors:
                close(descriptor)
            os.write(result, b"%d\n" % pid)
            _, status = waitpid(pid, 0)
            # The test may not wait for the result.
            with suppress(BrokenPipeError):
                os.write(result, b"%d\n" % os.waitstatus_to_exitcode(status))
            os._exit(0)
        for descriptor in descriptors:
            close(descriptor)


def _become(request: dict[str, Any], stdout: int, stderr: int) -> None:
    """Make this fork the pyinfra command of a request."""
    os.environ.clear()
    os.environ.update(request["env"])
    for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (stdout, 1), (stderr, 2)):
        os.dup2(descriptor, target)
        os.set_inheritable(descriptor, False)
    sys.argv = ["pyinfra", *request["arguments"]]


if __name__ == "__main__":
    _serve()
