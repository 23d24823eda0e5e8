"""redisctl sends a password only to the Redis of its instance.

Redis owns the directory of its socket, and a process that has taken it over can replace everything there.
"""

import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from redisctl.core import redis_socket
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.core.redis_socket import connect
from redisctl.core.resp import RespError

LISTEN = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    print("listens", flush=True)
    connection, _ = listener.accept()
    print(connection.recv(100), flush=True)
"""


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the directory of the socket. This process's root is the container's.

    Others may enter it, and its path is short enough for a socket: tmp_path is neither.
    """
    with tempfile.TemporaryDirectory() as root:
        directory = Path(root, "run")
        monkeypatch.setattr(redis_socket, "SOCKET", str(directory / "redis.sock").lstrip("/"))
        directory.mkdir()
        for path in (directory, directory.parent):
            path.chmod(0o777)
        yield directory


@contextmanager
def listening(path: Path, uid: int = 999, *before: str) -> Iterator[subprocess.Popen[str]]:
    """Listen on a socket as another process, and print what the first client sends."""
    command = [*before, sys.executable, "-c", LISTEN, str(path), str(uid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listens\n"
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[str]) -> str:
    """Return what a listener received within some seconds; empty for nothing."""
    assert process.stdout is not None
    return process.stdout.readline().strip() if select.select([process.stdout], [], [], 5)[0] else ""


def test_redis_is_reached(directory: Path) -> None:
    with listening(directory / "redis.sock") as process, connect(os.getpid(), 999, 5) as connection:
        connection.sendall(b"PING")
        assert heard(process) == "b'PING'"


def test_linked_socket_gets_no_password(directory: Path) -> None:
    """A link could lead to a socket of an attacker, or of Docker."""
    with listening(directory / "other") as process:
        (directory / "redis.sock").symlink_to("other")
        with pytest.raises(Failure, match="is a symbolic link"):
            connect(os.getpid(), 999, 5)
        assert process.poll() is None


def test_linked_directory_gets_no_password(directory: Path) -> None:
    with listening(directory / "redis.sock"):
        directory.rename(directory.with_name("other"))
        directory.symlink_to("other")
        with pytest.raises(OSError, match="symbolic link"):
            connect(os.getpid(), 999, 5)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: Path(path).touch()])
def test_what_is_no_socket_is_refused(directory: Path, make: object) -> None:
    assert callable(make)
    make(str(directory / "redis.sock"))
    with pytest.raises(Failure, match="is not a socket"):
        connect(os.getpid(), 999, 5)


def test_listener_of_another_user_gets_no_password(directory: Path) -> None:
    with listening(directory / "redis.sock", 998), pytest.raises(Failure, match="of uid 998 listens"):
        connect(os.getpid(), 999, 5)


def test_listener_of_another_container_gets_no_password(directory: Path) -> None:
    """An application's container may have the directory of the socket, too."""
    other = ("unshare", "--pid", "--fork", "--kill-child")
    with listening(directory / "redis.sock", 999, *other), pytest.raises(Failure, match="it is not Redis"):
        connect(os.getpid(), 999, 5)


def test_socket_is_the_one_that_was_opened(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that appears between the check and the connection has no effect."""
    fstat = os.fstat

    def replace_by_link(descriptor: int) -> os.stat_result:
        if not (directory / "redis.sock").is_symlink():
            (directory / "redis.sock").rename(directory / "moved")
            (directory / "redis.sock").symlink_to("other")
        return fstat(descriptor)

    monkeypatch.setattr(os, "fstat", replace_by_link)
    with (
        listening(directory / "redis.sock") as redis,
        listening(directory / "other"),
        connect(os.getpid(), 999, 5) as connection,
    ):
        connection.sendall(b"PING")
        assert heard(redis) == "b'PING'"


def test_missing_socket_is_an_error(directory: Path) -> None:
    instance = Instance("redis", directory, "")
    instance.__dict__["container"] = {"State": {"Pid": os.getpid()}}
    with pytest.raises(RespError, match="does not accept connections: No such file"):
        instance.connect_quickly(1)


def test_connection_has_the_timeout(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "redis.sock"))
        listener.listen()
        threading.Timer(0.2, listener.close).start()
        with connect(os.getpid(), os.getuid(), 0.05) as connection, pytest.raises(TimeoutError):
            connection.recv(1)
