"""Programs of the host, run in a pinned environment.

Nothing of a login shell reaches Docker or systemd.
"""

import os
import selectors
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from redisctl.core import progress
from redisctl.core.errors import Failure

# HOME: Docker finds root's Compose plugin and registry logins there.
ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}

# Seconds for programs that only answer a question.
QUESTION_TIMEOUT = 60
# Bytes that a program may print. Some of them print what Redis logged or another host stored.
MAX_OUTPUT = 16 * 1024**2
_CHUNK = 64 * 1024
# Seconds after which a program is a long step, and between two reports of it.
_LONG, _REPORT = 3, 1


class NotInstalled(Failure):
    """The host does not have a program."""


_inherited: set[int] = set()


@contextmanager
def inherited(descriptor: int) -> Iterator[None]:
    """Pass an open file to every program that starts inside the block.

    A lock on that file stays held until the last of these programs has exited, even if this process is killed.
    """
    _inherited.add(descriptor)
    try:
        yield
    finally:
        _inherited.discard(descriptor)


# The caller's proxies, for programs that reach the internet.
proxies: dict[str, str] = {}
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def pin_environment() -> None:
    """Replace this process's environment by the pinned one.

    Every program that it starts gets it.
    """
    proxies.update({name: os.environ[name] for name in _PROXIES if name in os.environ})
    os.environ.clear()
    os.environ.update(ENVIRONMENT)


def run(
    command: Sequence[str],
    *,
    timeout: float | None = QUESTION_TIMEOUT,
    stdin: str | None = None,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    name: str = "",
    status: Callable[[bytearray], str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it printed, whatever its exit code.

    ``timeout`` is in seconds, ``name`` is that in messages and in the progress of a long step. ``status`` returns that
    progress from what the program has printed. Raises Failure if the program is missing, does not finish
    in time, or prints more than MAX_OUTPUT.
    """
    with _stdin_file(stdin) as input_file:
        try:
            program = subprocess.Popen(
                command,
                stdin=input_file,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(environment or ENVIRONMENT),
                cwd=cwd,
                pass_fds=tuple(_inherited),
                # A lost SSH connection must not end a program that replaces containers.
                start_new_session=True,
            )
        except FileNotFoundError:
            raise NotInstalled(f"there is no {command[0]} on this host") from None
    with program:
        try:
            step = name or " ".join(word for word in command[:2] if word[:1] not in "-/")
            outputs = _read_outputs(
                program,
                name or " ".join(command[:3]),
                timeout,
                lambda output: (status and status(output)) or step,
            )
        except BaseException:
            program.kill()
            raise
    stdout, stderr = (output.decode(errors="backslashreplace") for output in outputs)
    return subprocess.CompletedProcess(command, program.returncode, stdout, stderr)


@contextmanager
def _stdin_file(text: str | None) -> Iterator[int]:
    """Give a file in memory with a program's input, which may be secret."""
    if text is None:
        yield subprocess.DEVNULL
        return
    with open(os.memfd_create("stdin"), "w+b") as file:
        file.write(text.encode())
        file.seek(0)
        yield file.fileno()


def _read_outputs(
    program: subprocess.Popen[bytes], name: str, timeout: float | None, step: Callable[[bytearray], str]
) -> tuple[bytearray, bytearray]:
    """Return standard output and standard error after the program has exited.

    Raises Failure.
    """
    began = time.monotonic()
    deadline = None if timeout is None else began + timeout
    outputs = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for pipe, output in zip((program.stdout, program.stderr), outputs, strict=True):
            assert pipe is not None
            selector.register(pipe, selectors.EVENT_READ, output)
        while selector.get_map():
            remaining = _remaining(deadline, name, timeout)
            ready = selector.select(_REPORT if remaining is None else min(_REPORT, remaining))
            if time.monotonic() - began >= _LONG:
                progress.report(f"{step(outputs[0])}: {time.monotonic() - began:.0f} s")
            for key, _ in ready:
                data = os.read(key.fd, _CHUNK)
                if not data:
                    selector.unregister(key.fileobj)
                key.data.extend(data)
                if len(key.data) > MAX_OUTPUT:
                    raise Failure(f"{name} printed more than {MAX_OUTPUT // 1024**2} MiB")
    try:
        program.wait(_remaining(deadline, name, timeout))
    except subprocess.TimeoutExpired:
        raise _too_slow(name, timeout) from None
    return outputs


def _remaining(deadline: float | None, name: str, timeout: float | None) -> float | None:
    """Return the seconds until a deadline. Raises Failure after it."""
    if deadline is None:
        return None
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise _too_slow(name, timeout)
    return remaining


def _too_slow(name: str, timeout: float | None) -> Failure:
    return Failure(f"{name} did not finish within {timeout:.0f} s")


def check(command: Sequence[str], *, timeout: float | None = QUESTION_TIMEOUT, stdin: str | None = None) -> str:
    """Run a program and return its standard output.

    Raises Failure with its error message.
    """
    result = run(command, timeout=timeout, stdin=stdin)
    if result.returncode != 0:
        message = (result.stderr or result.stdout).strip()
        raise Failure(f"{' '.join(command[:3])} failed: {message}")
    return result.stdout
