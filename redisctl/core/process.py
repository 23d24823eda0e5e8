"""Programs of the host, run in a pinned environment.

Nothing of a login shell reaches Docker or systemd.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from redisctl.core.errors import Failure

# HOME: Docker finds root's Compose plugin and registry logins there.
ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}

# Seconds for programs that only answer a question.
QUESTION_TIMEOUT = 60

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
    command: Sequence[str], *, timeout: float | None = QUESTION_TIMEOUT, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it printed, whatever its exit code.

    ``timeout`` is in seconds. Raises Failure if the program is missing or does not finish in time.
    """
    try:
        return subprocess.run(
            command,
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            env=dict(ENVIRONMENT),
            timeout=timeout,
            check=False,
            pass_fds=tuple(_inherited),
            # A lost SSH connection must not end a program that replaces containers.
            start_new_session=True,
        )
    except FileNotFoundError:
        raise Failure(f"there is no {command[0]} on this host") from None
    except subprocess.TimeoutExpired:
        raise Failure(f"{' '.join(command[:3])} did not finish within {timeout:.0f} s") from None


def check(command: Sequence[str], *, timeout: float | None = QUESTION_TIMEOUT, stdin: str | None = None) -> str:
    """Run a program and return its standard output.

    Raises Failure with its error message.
    """
    result = run(command, timeout=timeout, stdin=stdin)
    if result.returncode != 0:
        message = (result.stderr or result.stdout).strip()
        raise Failure(f"{' '.join(command[:3])} failed: {message}")
    return result.stdout
